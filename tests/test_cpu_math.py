"""The C++ mathematics of every activation, on every instruction set: against float64 over all kinds of inputs, and bit for bit.

Each instruction set runs in a process of its own, since the choice is made at import.
"""
from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import fastlayers as fl
from fastlayers import specs
from fastlayers.reference import activations, dropout

ROWS = tuple(specs.ACTIVATIONS.values())
HALF_TYPES = (torch.float16, torch.bfloat16)
SWEEP_STRIDE = 4093  # of float32 bit patterns: 2^20 of them, in every binade
SEED = 0x123456789ABCDEF

pytestmark = pytest.mark.skipif(not fl.backends()["cpp"].startswith("available"), reason=fl.backends()["cpp"])


def float32_inputs() -> Tensor:
    """Bit patterns from all over float32, plus zeros, infinities, NaN, the kinks, and the neighbours of all these."""
    sweep = torch.arange(-(2**31), 2**31, SWEEP_STRIDE, dtype=torch.int64).to(torch.int32).view(torch.float32)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, *(kink for row in ROWS for kink, _ in row.kinks)]
    points = torch.tensor(special)
    up, down = torch.full_like(points, math.inf), torch.full_like(points, -math.inf)
    dense = torch.linspace(-15, 15, 300_001)  # where the functions bend
    return torch.cat([sweep, points, torch.nextafter(points, up), torch.nextafter(points, down), dense])


def half_inputs(dtype: torch.dtype) -> Tensor:
    """All 65,536 values."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int64).to(torch.int16).view(dtype)


def arguments(row: specs.Activation) -> tuple[Tensor | None, tuple[float, ...]]:
    """(learnable parameters, constants) at their defaults."""
    parameters = torch.tensor([[parameter.init] for parameter in row.learnables]) if row.learnables else None
    return parameters, tuple(constant.default for constant in row.constants)


def run_kernels() -> dict[object, Tensor]:
    """Everything that the tests look at, computed by the instruction set of this process."""
    from fastlayers import _C

    results: dict[object, Tensor] = {}
    for dtype in (torch.float32, *HALF_TYPES):
        x = float32_inputs() if dtype == torch.float32 else half_inputs(dtype)
        for row in ROWS:
            parameters, constants = arguments(row)
            common = (None, None, None, None, parameters, None, row.name, constants, 0.0, 0)
            results[row.name, dtype, "value"] = _C.epilogue_forward(x, *common)
            mask = (True, False, False, False, False)
            results[row.name, dtype, "derivative"] = _C.epilogue_backward(torch.ones_like(x), x, *common, False, mask)[0]
            if dtype == torch.float32 and row.derives_from_output(constants):
                y = oracle(row, x)[0].float()
                results[row.name, dtype, "from_output"] = _C.epilogue_backward(torch.ones_like(y), y, *common, True, mask)[0]
    results["mask"] = torch.stack([_C.dropout_mask(first, 5000, torch.tensor(SEED), 0.3) for first in (0, 3, 2**35 + 5)])
    results.update(layer_results())
    return results


def layer_results() -> dict[object, Tensor]:
    """Batch norm with everything on, forward and backward, in shapes that take each path."""
    from fastlayers import _C

    results = {}
    for shape in ((6, 5, 7, 9), (4, 3, 150, 150), (300, 24), (3, 40, 3, 3), (64, 18, 20, 20)):
        for dtype in (torch.float32, torch.bfloat16):
            for channels_last in (False, True):
                if channels_last and len(shape) != 4:
                    continue
                generator = torch.Generator().manual_seed(0)
                x, dy, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
                if channels_last:
                    x, dy, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy, residual))
                weight, bias = torch.rand(shape[1], generator=generator), torch.randn(shape[1], generator=generator)
                tail = (residual, torch.full((1, shape[1]), 0.25), torch.tensor(SEED), "prelu", (), 0.1)
                y, mean, rstd = _C.batch_norm_forward(x, weight, bias, None, None, None, *tail, True, 0.1, 1e-5, 1)
                gradients = _C.batch_norm_backward(dy, x, mean, rstd, weight, bias, *tail, True, 1, (True,) * 5)
                for name, tensor in zip(("y", "mean", "rstd", "dx", "dresidual", "dweight", "dbias", "dparameters"),
                                        (y, mean, rstd, *gradients), strict=True):
                    results["layer", shape, dtype, channels_last, name] = tensor
    return results


def available_capabilities() -> list[str]:
    """Instruction sets that this processor has, worst first."""
    from fastlayers import _C

    names = ["baseline", "avx2", "avx512"]
    return names[:names.index(_C.cpu_capability()) + 1]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[object, Tensor]]:
    """run_kernels() of each instruction set."""
    computed = {}
    for capability in available_capabilities():
        path = tmp_path_factory.mktemp("cpu_math") / f"{capability}.pt"
        environment = {**os.environ, "FASTLAYERS_CPU_CAPABILITY": capability}
        subprocess.run([sys.executable, __file__, str(path)], env=environment, check=True, timeout=300)
        computed[capability] = torch.load(path)
    return computed


def oracle(row: specs.Activation, x: Tensor) -> tuple[Tensor, Tensor]:
    """(value, derivative) in float64."""
    parameters, constants = arguments(row)
    given = [*(parameters.double() if parameters is not None else ()), *constants]
    wide = x.double()
    return activations.function(row.name)(wide, *given), activations.function(row.name, "derivative")(wide, *given)[0]


def spacing(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbouring numbers of dtype around value: one unit in the last place."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(value.double().abs().clamp_min(info.tiny))
    return torch.ldexp(torch.full_like(value, info.eps, dtype=torch.float64), exponent - 1)


def assert_errors(got: Tensor, want: Tensor, x: Tensor, allowed: Tensor, what: str) -> None:
    """|got - want| <= allowed wherever want is a number that got's dtype can hold, and the same infinity or NaN elsewhere."""
    rounded = want.to(got.dtype)
    exact = (got == rounded) | (got.isnan() & rounded.isnan())
    error = torch.where(exact, torch.zeros_like(want), (got.double() - want).abs())
    bad = ~(error <= allowed)
    worst = (error / allowed).nan_to_num(nan=math.inf).argmax()
    assert not bad.any(), f"{what}: {int(bad.sum())} off, f({x[worst]:.9g}) = {got[worst]:.9g}, not {want[worst]:.9g}"


def each_capability(results: dict[str, dict[object, Tensor]], key: object) -> list[tuple[str, Tensor]]:
    return [(capability, tensors[key]) for capability, tensors in results.items()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_float32_value(results, row: specs.Activation) -> None:
    """The budget of the row, plus the input's own rounding: half a unit of x times the slope."""
    x = float32_inputs()
    value, slope = oracle(row, x)
    own = (0.5 * spacing(x, torch.float32) * slope.abs()).nan_to_num(nan=0.0)
    for capability, got in each_capability(results, (row.name, torch.float32, "value")):
        assert_errors(got, value, x, row.ulp * spacing(value, torch.float32) + own, f"{row.name} on {capability}")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_float32_derivative(results, row: specs.Activation) -> None:
    """Within the row's units, or its absolute error; from y, the absolute one and y's own rounding may add up."""
    x = float32_inputs()
    _, slope = oracle(row, x)
    allowed = (row.derivative_ulp * spacing(slope, torch.float32)).clamp_min(row.derivative_absolute)
    for capability, got in each_capability(results, (row.name, torch.float32, "derivative")):
        assert_errors(got, slope, x, allowed, f"{row.name}' on {capability}")
    if row.derives_from_output(arguments(row)[1]):
        for capability, got in each_capability(results, (row.name, torch.float32, "from_output")):
            number = ~x.isnan()
            assert_errors(got[number], slope[number], x[number], allowed[number], f"{row.name}' from y on {capability}")


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_half_types(results, row: specs.Activation, dtype: torch.dtype) -> None:
    """All inputs: never more than one unit off, and the nearest number in 99.5 %."""
    x = half_inputs(dtype)
    for kind, want in zip(("value", "derivative"), oracle(row, x), strict=True):
        unit = spacing(want, dtype)
        absolute = row.derivative_absolute if kind == "derivative" else 0.0
        for capability, got in each_capability(results, (row.name, dtype, kind)):
            assert_errors(got, want, x, unit + absolute, f"{row.name} {kind} on {capability}")
            number = got.isfinite() & want.isfinite()
            nearest = (got.double() - want).abs()[number] <= 0.5 * unit[number]
            assert nearest.double().mean() >= 0.995, f"{row.name} {kind} on {capability}: {nearest.double().mean():.4f} correctly rounded"


def test_masks_are_the_same_bits(results) -> None:
    want = torch.stack([dropout.random_numbers(first, 5000, torch.tensor(SEED)) >= dropout.threshold(0.3) for first in (0, 3, 2**35 + 5)])
    for capability, got in each_capability(results, "mask"):
        assert torch.equal(got, want), capability


def test_fused_multiply_add_gives_the_same_bits(results) -> None:
    """AVX2 and AVX-512 agree in everything, sums included; without fused multiply-add the last bits may differ."""
    if "avx512" not in results:
        pytest.skip("this processor has no AVX-512 to compare AVX2 with")
    for key, tensor in results["avx2"].items():
        other = results["avx512"][key]
        same = (tensor == other) | (tensor.isnan() & other.isnan()) if tensor.is_floating_point() else tensor == other
        assert same.all(), key


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


def test_unknown_capability_fails_at_import() -> None:
    for value in ("sse9", "AVX2"):
        environment = {**os.environ, "FASTLAYERS_CPU_CAPABILITY": value}
        code = "import torch, fastlayers._C"
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode != 0
        assert f"FASTLAYERS_CPU_CAPABILITY must be baseline, avx2 or avx512, got {value}" in run.stderr


if __name__ == "__main__":
    torch.save(run_kernels(), sys.argv[1])
