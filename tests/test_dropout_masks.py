"""Dropout's kernels on every backend: the mask rule bit for bit, the numbers, the statistics of masks."""
from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cases
import mask_rule
import pytest
import torch
from cases import needs_cpp
from mask_rule import kept
from tolerances import assert_within, gradient_bound, value_bound

import fastlayers as fl
from fastlayers import functional as F
from fastlayers import nn, reference
from fastlayers.backends import select
from fastlayers.functional.dropout import CONVENTIONS
from fastlayers.reference.dropout import DROPOUT_STREAM, alpha_outcome, keep_scale, mask_like, philox, random_numbers, threshold

# The mask rule

def test_masks_follow_the_rule(backend: str) -> None:
    """200 random seeds, probabilities, shapes, layouts and dtypes, elements and channels."""
    for case in mask_rule.random_cases():
        assert torch.equal(mask_rule.by_backend(case), mask_rule.by_rule(case)), case


@needs_cpp
@pytest.mark.parametrize("threads", [1, 4])
def test_masks_for_any_number_of_threads(threads: int) -> None:
    """The cases, and a tensor that several threads share, against one thread's bits."""
    before = torch.get_num_threads()
    large = mask_rule.MaskCase(5, 0.3, (3, 7, 123, 57), "channels_last", True, torch.float32)
    try:
        torch.set_num_threads(threads)
        with fl.backend("cpp"):
            for case in mask_rule.random_cases():
                assert torch.equal(mask_rule.by_backend(case), mask_rule.by_rule(case)), case
            for case in (large, large._replace(by_channel=False)):
                with fl.backend("reference"):
                    expected = mask_rule.by_backend(case)
                assert torch.equal(mask_rule.by_backend(case), expected)
    finally:
        torch.set_num_threads(before)


@needs_cpp
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_masks_on_every_instruction_set(capability: str, tmp_path: Path) -> None:
    from fastlayers import _C

    if ["baseline", "avx2", "avx512"].index(capability) > ["baseline", "avx2", "avx512"].index(_C.cpu_capability()):
        pytest.skip(f"this processor has no {capability}")
    file = tmp_path / "masks.pt"
    subprocess.run([sys.executable, mask_rule.__file__, str(file)], check=True, timeout=300,
                   env={**os.environ, "FASTLAYERS_CPU_CAPABILITY": capability})
    for case, mask in zip(mask_rule.random_cases(), torch.load(file), strict=True):
        assert torch.equal(mask, mask_rule.by_rule(case)), case


@pytest.mark.parametrize("first", [0, 3, 2**32 - 5, 2**33 + 5, 2**35 - 100, 2**40 + 1])
def test_far_elements(backend: str, first: int) -> None:
    """Elements that no test could allocate, where the counter's high word begins to count and beyond."""
    for seed, p in ((1234, 0.5), (-1, 0.1)):
        mask = F.dropout_mask((300,), p, seed, first=first)
        assert mask.tolist() == kept(first, 300, seed, p)


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("p", [2**-16, 0.5])
def test_arguments_of_one(backend: str, p: float, count: int) -> None:
    """Triton makes a constant of an argument that is 1, unless the kernel says otherwise."""
    assert F.dropout_mask((count,), p, 1234, first=1).tolist() == kept(1, count, 1234, p)


@pytest.mark.parametrize(("p", "seed", "bits"), [
    (0.5, 1234, "10111001110001101011010111000001"), (0.1, 0x123456789ABCDEF, "11111011010101111111111111111011"),
])
def test_known_masks(backend: str, p: float, seed: int, bits: str) -> None:
    x = torch.ones(len(bits))
    y = select(x).epilogue_forward(x, None, None, None, None, None, torch.tensor(seed), "identity", (), p, 0)
    assert "".join(str(int(keep)) for keep in y != 0) == bits


def test_known_philox_words() -> None:
    def words(counter: list[int], key: list[int]) -> list[str]:
        tensors = [torch.tensor(value) for value in counter + key]
        return [f"{int(word):08x}" for word in philox(tuple(tensors[:4]), tuple(tensors[4:]))]

    assert words([0] * 4, [0] * 2) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert words([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]) == [
        "d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


@pytest.mark.parametrize("p", [2**-16, 1 / 512, 0.3, 0.5, 1 - 2**-16, 1.0])
@pytest.mark.parametrize("shape", [(7,), (3, 5, 49), (1, 5003), (40, 3)])
def test_masks_are_those_of_the_reference(backend: str, shape: tuple[int, ...], p: float) -> None:
    """Bit for bit, whatever the kernel: plain, per channel, channels_last."""
    seed = torch.randint(-(2**63), 2**63 - 1, ())
    for x in (torch.ones(shape), torch.ones(shape, dtype=torch.bfloat16), cases.arrange(torch.ones(*shape, 3), "permuted")):
        scale = torch.ones(x.size(-1))
        for arguments in ((None, None), (None, scale)):
            y = select(x).epilogue_forward(x, *arguments, None, None, None, seed, "identity", (), p, x.dim() - 1)
            assert torch.equal(y != 0, mask_like(x, p, seed))


def test_known_answers(backend: str) -> None:
    assert mask_rule.philox((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)) == [
        0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    for p, seed, bits in ((0.5, 1234, "10111001110001101011010111000001"), (0.1, 0x123456789ABCDEF, "11111011010101111111111111111011")):
        assert "".join(str(int(keep)) for keep in F.dropout_mask((32,), p, torch.tensor(seed))) == bits


def test_mask_is_the_one_of_dropout(backend: str) -> None:
    for p in (0.0, 0.3, 1.0):
        y = F.dropout(torch.ones(3, 100), p, seed=7)
        assert torch.equal(y != 0, F.dropout_mask((3, 100), p, 7))
    assert F.dropout_mask((0, 3), 0.5, 7).shape == (0, 3)
    assert F.dropout_mask((), 0.5, 7).shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("by_channel", [False, True])
def test_more_than_2_to_the_31_elements(by_channel: bool) -> None:
    """bfloat16 on cpp, forward and backward, looked at near the end."""
    shape = (2, 2**15 + 1, 2**15)
    x = torch.ones(shape, dtype=torch.bfloat16, requires_grad=True)
    y = F.dropout1d(x, 0.5, seed=9) if by_channel else F.dropout(x, 0.5, seed=9)
    (dx,) = torch.autograd.grad(y, x, y.detach())
    y = y.detach()
    assert torch.equal(dx[-1, -200:], 2 * y[-1, -200:])
    del x, dx
    channels = shape[0] * shape[1]
    if by_channel:
        assert (y[-1, -50:, -1] != 0).tolist() == kept(channels - 50, 50, 9, 0.5)
        assert torch.equal(y[-1, -50:], y[-1, -50:, :1].expand(50, shape[2]))
    else:
        assert (y.flatten()[-100:] != 0).tolist() == kept(y.numel() - 100, 100, 9, 0.5)
        assert (y.flatten()[2**31 - 50:2**31 + 50] != 0).tolist() == kept(2**31 - 50, 100, 9, 0.5)


# The kernels

PLAIN = (
    ((3, 5, 4, 7), "contiguous", torch.float32), ((3, 8, 4, 7), "channels_last", torch.bfloat16), ((2, 3, 8), "contiguous", torch.float64),
    ((5, 1, 33), "contiguous", torch.float16), ((5, 1), "contiguous", torch.float32), ((2, 2, 4100), "contiguous", torch.float32),
    ((3, 4, 1, 2), "channels_last", torch.float32),
)
KERNEL_CASES = [
    *(cases.Case("identity", shape, layout, dtype, affine=False, residual=False, p=0.3) for shape, layout, dtype in PLAIN),
    cases.Case("prelu", (3, 6, 5, 4), "contiguous", torch.float32, p=0.3),
    cases.Case("prelu", (3, 6, 5, 4), "channels_last", torch.bfloat16, p=0.3),
    cases.Case("silu", (3, 6, 9), p=1.0),
]


@pytest.mark.parametrize(("by_channel", "outcome"), [(False, alpha_outcome(0.3)), (True, (1.0, 0.0, 0.0)), (True, (0.5, 2.0, -1.0))],
                         ids=["elements, alpha", "channels, eval", "channels, shifted"])
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_kernels_against_the_oracle(backend: str, case: cases.Case, by_channel: bool, outcome) -> None:
    """residual_after, sample and outcome of the kernel interface, both directions."""
    inputs = cases.make_inputs(case)
    wide = inputs.double()
    after = cases.arrange(torch.randn(case.shape, dtype=torch.float64), case.layout).to(case.dtype)
    sample = inputs.x.numel() // case.shape[0] if by_channel else 0
    kernels = select(inputs.x)
    y = kernels.epilogue_forward(inputs.x, *inputs.epilogue, after, sample, outcome)
    want = reference.epilogue_forward(wide.x, *wide.epilogue, after.double(), sample, outcome)
    scale, steepest = outcome[0], 1.2  # of identity, prelu and silu, as are their slopes'
    size = wide.x.abs() * 1.5 + 3 + (0 if inputs.residual is None else wide.residual.abs())
    assert (y.shape, y.stride(), y.dtype) == (inputs.x.shape, inputs.x.stride(), inputs.x.dtype)
    assert_within(y, want, value_bound(inputs.row, inputs.x, want, size + after.double().abs(), max(scale, 1), steepest), "y")
    mask = (True, False, False, False, False)
    got = kernels.epilogue_backward(inputs.dy, inputs.x, *inputs.epilogue, False, mask, sample, outcome)[0]
    want = reference.epilogue_backward(wide.dy, wide.x, *wide.epilogue, False, mask, sample, outcome)[0]
    assert_within(got, want, gradient_bound(inputs.row, inputs.x, want, wide.dy * scale, size, 1.5, steepest), "dx")


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_residual_after(backend: str, p: float) -> None:
    """y = dropout(act(x + bias)) + residual_after next to the epilogue's own order, with gradients for all of them."""
    x, before, after = (torch.randn(4, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    y = F.bias_activation(x, bias, "tanh", residual=before, dropout=p, seed=3, residual_after=after)
    multiplier = F.dropout_mask(x.shape, p, 3) * keep_scale(p)
    want = torch.tanh(x + bias[:, None] + before) * multiplier + after
    torch.testing.assert_close(y, want)
    dy = torch.randn_like(y)
    leaves = (x, bias, before, after)
    for got, expected in zip(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(want, leaves, dy), strict=True):
        torch.testing.assert_close(got, expected)
    only, = torch.autograd.grad(F.dropout(x.detach(), p, seed=3, residual_after=after), after, dy)
    assert torch.equal(only, dy)
    torch.testing.assert_close(F.dropout(x, p, seed=3, residual_after=after), x * multiplier + after)
    torch.testing.assert_close(nn.Dropout(0.5).eval()(x, after), x + after)


def test_second_derivatives(backend: str) -> None:
    if backend == "triton":
        pytest.skip("gradcheck evaluates hundreds of times; the second derivative goes through the reference formula anyway")
    x, after = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for function in (lambda x, after: F.feature_alpha_dropout(torch.tanh(x) * after, 0.4, True, seed=1),
                     lambda x, after: F.bias_activation(x, None, "silu", dropout=0.4, seed=1, residual_after=after),
                     lambda x, after: F.dropout1d(x * after, 0.4, seed=1)):
        assert torch.autograd.gradcheck(function, (x, after))
        assert torch.autograd.gradgradcheck(function, (x, after))


# Statistics

@pytest.mark.parametrize("p", [2**-16, 1 / 512, 0.1, 0.5, 0.9, 1 - 2**-16])
def test_keep_rate(p: float) -> None:
    """Within five standard deviations of what p says."""
    n = 2**22
    share = F.dropout_mask((n,), p, 2024).double().mean().item()
    assert abs(share - (1 - p)) <= 5 * math.sqrt(p * (1 - p) / n)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two centred vectors, in standard deviations of that of independent draws."""
    return (torch.dot(a, b) / (a.norm() * b.norm())).item() * math.sqrt(a.numel())


def centred(kept_ones: torch.Tensor) -> torch.Tensor:
    return kept_ones.float() - kept_ones.float().mean()


def test_no_correlation() -> None:
    """Between lags 1 to 64, rows, columns, neighbouring seeds, and the streams of forward and RReLU: below five standard deviations."""
    n = 2**20
    for p in (0.1, 0.5):
        long = centred(F.dropout_mask((n + 64,), p, 99))
        mask, square = long[:n], long[:n].view(1024, 1024)
        found = {f"lag {lag}": correlation(mask, long[lag:n + lag]) for lag in range(1, 65)}
        found |= {f"rows {k}": correlation(square[:-k].flatten(), square[k:].flatten()) for k in (1, 2, 8, 32)}
        found |= {f"columns {k}": correlation(square[:, :-k].flatten(), square[:, k:].flatten()) for k in (1, 2, 8, 32)}
        for seed in (98, 100, 99 + 2**32, 99 - 2**63):
            found[f"seed {seed}"] = correlation(mask, centred(F.dropout_mask((n,), p, seed)))
        found["stream 1"] = correlation(mask, centred(random_numbers(0, n, torch.tensor(99), DROPOUT_STREAM + 1) >= threshold(p)))
        assert {name: value for name, value in found.items() if abs(value) > 5} == {}


@pytest.mark.parametrize("p", [2**-16, 1 / 512, 0.1, 0.3, 0.5, 0.9, 1 - 2**-16])
def test_mean_is_exact(p: float) -> None:
    """Over all 65,536 numbers E[y] = x, in exact arithmetic but for the rounding of the scale; alpha dropout keeps mean and variance."""
    q = Fraction(threshold(p), 65536)
    assert abs(Fraction(keep_scale(p)) * (1 - q) - 1) <= Fraction(1, 2**52)
    scale, shift, dropped = alpha_outcome(p)
    probability = float(q)
    mean = (1 - probability) * shift + probability * dropped
    variance = (1 - probability) * (scale**2 + shift**2) + probability * dropped**2 - mean**2  # of x with mean 0 and variance 1
    assert mean == pytest.approx(0, abs=1e-9)
    assert variance == pytest.approx(1, abs=1e-9)


def test_both_conventions_agree_in_expectation() -> None:
    """The mean over masks is y of evaluation: x where scaled in training, x (1 - p) where scaled in evaluation."""
    x, samples, p = torch.tensor([1.0, -2.0, 0.5]), 2**17, 0.3
    for convention in CONVENTIONS:
        layer = nn.Dropout(p, convention=convention)
        mean = layer(x.expand(samples, 3)).double().mean(0)
        expected = layer.eval()(x).double()
        kept_value = layer.train()(torch.ones(64)).max().item()
        deviation = x.abs() * kept_value * math.sqrt(p * (1 - p) / samples)
        assert ((mean - expected).abs() <= 5 * deviation).all(), convention
    assert torch.equal(nn.Dropout(p, convention="eval").eval()(x), x * (1 - threshold(p) / 65536))
    assert torch.equal(F.dropout(x, 0.3, seed=1, convention="eval"), torch.where(F.dropout_mask((3,), 0.3, 1), x, 0))
    channels = nn.Dropout2d(0.5, convention="eval")
    assert set(channels(torch.ones(8, 8, 2, 2)).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(channels.eval()(torch.ones(1, 2, 2, 2)), torch.full((1, 2, 2, 2), 0.5))
    assert "convention='eval'" in repr(channels)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = torch.randn(2**20)
    for p in (0.1, 0.5):
        y = F.alpha_dropout(x, p, True)
        assert abs(y.mean()) < 5e-3
        assert abs(y.var() - 1) < 2e-2
