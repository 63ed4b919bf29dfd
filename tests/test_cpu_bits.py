"""Bits of the C++ kernels that are the same on every instruction set and for any number of threads, and sums of what lies far from zero."""
from __future__ import annotations

import math

import pytest
import torch
from cases import needs_cpp
from cpu_results import CASES, SEED, all_arguments, layer_results

from fastlayers import reference
from fastlayers.reference import dropout
from fastlayers.reference.dtypes import accumulate_dtype

pytestmark = needs_cpp


def test_masks_are_the_same_bits(cpu_results) -> None:
    want = torch.stack([dropout.random_numbers(first, 5000, torch.tensor(SEED)) >= dropout.threshold(0.3) for first in (0, 3, 2**35 + 5)])
    for capability, results in cpu_results.items():
        assert torch.equal(results["mask"], want), capability


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_random_slopes_in_every_layout(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """The reference's bits, whatever the shape, the number of threads, the dropout beside it; a seed with p = 0 drops nothing."""
    from fastlayers import _C

    threads = torch.get_num_threads()
    try:
        for shape in ((3, 5, 4, 7), (2, 3, 150, 150), (64, 18, 20, 20), (1, 1, 1, 1)):
            x = -torch.ones(shape, dtype=dtype).contiguous(memory_format=layout)
            for p in (0.0, 0.3):
                arguments = (None, None, None, None, None, torch.tensor(SEED), "rrelu", (0.1, 0.7), p, 1)
                want = reference.epilogue_forward(x, *arguments)
                assert p or (want != 0).all()
                for count in (1, 2, 3):
                    torch.set_num_threads(count)
                    assert torch.equal(_C.epilogue_forward(x, *arguments), want), (shape, p, count)
    finally:
        torch.set_num_threads(threads)


def test_fused_multiply_add_gives_the_same_bits(cpu_results) -> None:
    """AVX2 and AVX-512 agree in everything, sums included; without fused multiply-add the last bits may differ."""
    if "avx512" not in cpu_results:
        pytest.skip("this processor has no AVX-512 to compare AVX2 with")
    for key, tensor in cpu_results["avx2"].items():
        other = cpu_results["avx512"][key]
        same = (tensor == other) | (tensor.isnan() & other.isnan()) if tensor.is_floating_point() else tensor == other
        assert same.all(), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_neighbours_do_not_change_bits(dtype: torch.dtype) -> None:
    """An element has the same value and slope among others, near zero and far out, as in a row of its like: some are computed both ways."""
    from fastlayers import _C

    x = torch.cat([scale * torch.randn(96, generator=torch.Generator().manual_seed(3)) for scale in (0.5, 3.0, 30.0)])
    x = torch.cat([x, torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])]).to(dtype)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(4))]
    alike = x.repeat_interleave(32)
    dx = (True, False, False, False, False)
    for row, index in (case for case in CASES if not case[0].random):  # random slopes differ from place to place
        learnables, constants = all_arguments(row)[index]
        parameters = torch.tensor(learnables, dtype=accumulate_dtype(x))[:, None] if learnables else None
        given = (None, None, None, None, parameters, None, row.name, constants, 0.0, 0)
        for kind, compute in (("value", lambda z, given=given: _C.epilogue_forward(z, *given)),
                              ("slope", lambda z, given=given: _C.epilogue_backward(torch.ones_like(z), z, *given, False, dx)[0])):
            mixed, lone = compute(x), compute(alike).view(-1, 32)[:, 0]
            same = (mixed == lone) | (mixed.isnan() & lone.isnan())
            assert same.all(), (row.name, index, kind, x[~same])


def test_thread_count_does_not_change_bits() -> None:
    before = torch.get_num_threads()
    try:
        by_threads = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            by_threads.append(layer_results())
    finally:
        torch.set_num_threads(before)
    for key, tensor in by_threads[0].items():
        for threads, other in zip((2, 4), by_threads[1:], strict=True):
            assert torch.equal(tensor, other[key]), (key, threads)


def test_mean_far_from_zero() -> None:
    """Statistics of mean 1e4 and deviation 1e-2: no worse than twice torch's own error."""
    from fastlayers import _C

    torch.manual_seed(0)
    for shape, channel_dim in (((32, 8, 40, 40), 1), ((4, 2, 300, 300), 1), ((5000, 16), 1)):
        x = 1e4 + 1e-2 * torch.randn(shape)
        wide = x.double().movedim(channel_dim, 0).flatten(1)
        count = wide.size(1)
        mean, m2 = _C.batch_norm_statistics(x, channel_dim)
        torch_mean, torch_rstd = torch.native_batch_norm(x, None, None, None, None, True, 0.1, 0.0)[1:]
        want_mean, want_var = wide.mean(1), wide.var(1, unbiased=False)
        floor = torch.finfo(torch.float32).eps
        assert ((mean - want_mean).abs() <= 2 * (torch_mean - want_mean).abs() + floor * want_mean).all()
        torch_error = (torch_rstd.double().pow(-2) - want_var).abs()
        assert ((m2.double() / count - want_var).abs() <= 2 * torch_error + 4 * floor * want_var).all()
