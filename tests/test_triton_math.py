"""The Triton mathematics of every activation, compiled and run in the emulator: against float64 over all kinds of inputs.

float32 by bit patterns of every exponent, half types exhaustively, random slopes bit for bit, and fewer values in the interpreter.
"""
from __future__ import annotations

import math
import os
import subprocess
import sys

import cases
import pytest
import torch
from cases import ELSEWHERE, HALF_ELSEWHERE
from cpu_results import CASES, HALF_TYPES, ROWS, SEED, all_arguments
from tolerances import assert_errors
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")
emulator = pytest.importorskip("ptxsim.triton", reason="the emulator is installed with: pip install -e tools/ptxsim")

from fastlayers import kernels, reference, specs  # noqa: E402
from fastlayers.reference import activations  # noqa: E402
from fastlayers.tolerance import ulp  # noqa: E402

SWEEP_STRIDE = 32749  # of float32 bit patterns: 2^17 of them, in every binade


def float32_inputs(row: specs.Activation) -> Tensor:
    """Bit patterns from all over float32, zeros, infinities, NaN, the kinks, the neighbours of all these, and where functions bend."""
    sweep = torch.arange(-(2**31), 2**31, SWEEP_STRIDE, dtype=torch.int64).to(torch.int32).view(torch.float32)
    points = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, *(kink for kink, _ in row.kinks)])
    up, down = torch.full_like(points, math.inf), torch.full_like(points, -math.inf)
    return torch.cat([sweep, points, torch.nextafter(points, up), torch.nextafter(points, down), torch.linspace(-15, 15, 60_001)])


def half_inputs(dtype: torch.dtype) -> Tensor:
    """All 65,536 values."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int64).to(torch.int16).view(dtype)


def defaults(row: specs.Activation) -> tuple[float, ...]:
    return tuple(float(constant.default) for constant in row.constants)


def call(row: specs.Activation, x: Tensor, learnables: list[float], constants: tuple[float, ...] | None = None) -> tuple[Tensor, Tensor]:
    """(value, derivative) by the kernels, whatever runs them; constants are the defaults where they are not given."""
    parameters = torch.tensor(learnables)[:, None] if row.learnables else None
    seed = torch.tensor(SEED) if row.random else None
    constants = defaults(row) if constants is None else constants
    common = (x, None, None, None, None, parameters, seed, row.name, constants, 0.0, 0)
    mask = (True, False, False, False, False)
    return kernels.epilogue_forward(*common), kernels.epilogue_backward(torch.ones_like(x), *common, False, mask)[0]


def oracle(
    row: specs.Activation, x: Tensor, learnables: list[float], constants: tuple[float, ...] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(value, derivative, second derivative) in float64."""
    wide = x.double().requires_grad_()
    given = [*torch.tensor(learnables, dtype=torch.promote_types(x.dtype, torch.float32)).double()] if row.learnables else []
    given += defaults(row) if constants is None else constants
    given += [reference.dropout.uniform_like(x.double(), torch.tensor(SEED))] if row.random else []
    slope = activations.function(row.name, "derivative")(wide, *given)[0]
    second = torch.autograd.grad(slope.sum(), wide)[0] if slope.requires_grad else torch.zeros_like(slope)
    return activations.function(row.name)(wide, *given).detach(), slope.detach(), second


def finite(value: Tensor) -> Tensor:
    return value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def check_float32(
    row: specs.Activation, x: Tensor, got: tuple[Tensor, Tensor], learnables: list[float], constants: tuple[float, ...] | None = None,
) -> None:
    """The budget of the row, plus what the input's own rounding, half a unit of x, makes of it."""
    value, slope, second = oracle(row, x, learnables, constants)
    own = 0.5 * ulp(x, torch.float32)
    allowed = row.ulp * ulp(value, torch.float32) + finite(own * slope.abs())
    assert_errors(got[0], value, x, allowed, row.name)
    allowed = (row.derivative_ulp * ulp(slope, torch.float32)).clamp_min(row.derivative_absolute) + finite(own * second.abs())
    assert_errors(got[1], slope, x, allowed, f"{row.name}'")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_float32(row: specs.Activation) -> None:
    x = float32_inputs(row)
    with emulator.device(arch=90):
        check_float32(row, x, call(row, x, row.start()), row.start())


OTHERS = [(row, index) for row, index in CASES if index and not row.random]


@pytest.mark.parametrize(("row", "index"), OTHERS, ids=lambda case: getattr(case, "name", str(case)))
def test_float32_with_other_arguments(row: specs.Activation, index: int) -> None:
    """Within the same budget; the slopes of a random row are compared below."""
    x, (learnables, constants) = float32_inputs(row), all_arguments(row)[index]
    with emulator.device(arch=90):
        check_float32(row, x, call(row, x, list(learnables), constants), list(learnables), constants)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_float32_with_other_parameters(name: str) -> None:
    """Within the same budget, where the terms of a sum cancel too."""
    row, x = specs.ACTIVATIONS[name], float32_inputs(specs.ACTIVATIONS[name])
    with emulator.device(arch=90):
        check_float32(row, x, call(row, x, ELSEWHERE[name]), ELSEWHERE[name])


def check_half(row: specs.Activation, x: Tensor, got: tuple[Tensor, Tensor], learnables: list[float], own: float) -> None:
    """Never more than one unit off, and the nearest number in 99.5 %; ``own`` units of x in float32 are granted to x beside it."""
    value, slope, second = oracle(row, x, learnables)
    defined = ~value.isnan() | x.isnan()
    for kind, result, want, steep in (("value", got[0], value, slope), ("derivative", got[1], slope, second)):
        unit = ulp(want, x.dtype)
        allowed = unit + (row.derivative_absolute if kind == "derivative" else 0.0) + finite(own * ulp(x, torch.float32) * steep.abs())
        assert_errors(result[defined], want[defined], x[defined], allowed[defined], f"{row.name} {kind}")
        number = defined & result.isfinite() & want.isfinite()
        nearest = ((result.double() - want).abs()[number] <= 0.5 * unit[number]).double().mean()
        assert nearest >= 0.995, f"{row.name} {kind}: {nearest:.4f} correctly rounded"


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_half_types(row: specs.Activation, dtype: torch.dtype) -> None:
    """All inputs."""
    x = half_inputs(dtype)
    with emulator.device(arch=90):
        check_half(row, x, call(row, x, row.start()), row.start(), 0.0)


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize(("name", "alpha"), HALF_ELSEWHERE)
def test_half_types_with_other_parameters(name: str, alpha: float, dtype: torch.dtype) -> None:
    """All inputs but those whose phase float32 does not know."""
    row, x = specs.ACTIVATIONS[name], half_inputs(dtype)
    x = x[x.abs() < 2.0**16] if name == "snake" else x
    with emulator.device(arch=90):
        check_half(row, x, call(row, x, [alpha]), [alpha], 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES], ids=str)
def test_snake_where_nobody_knows_the_phase(dtype: torch.dtype) -> None:
    """sin(alpha x)^2 / alpha lies between 0 and 1 / alpha, however large alpha x is."""
    row = specs.ACTIVATIONS["snake"]
    x = float32_inputs(row) if dtype == torch.float32 else half_inputs(dtype)
    x = x[x.isfinite()]
    with emulator.device(arch=90):
        added = call(row, x, [1.7])[0].double() - x.double()
    unit = 2 * ulp(x, dtype)
    assert ((-unit <= added) & (added <= 1 / 1.7 + unit)).all(), f"{added.abs().max():.3g}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_float64(row: specs.Activation) -> None:
    """1,000 values from -8 to 8, value and derivative within 16 units of float64, or of the terms of a sum that cancels."""
    x = torch.linspace(-8, 8, 1000, dtype=torch.float64)
    parameters = torch.tensor(row.start(), dtype=torch.float64)[:, None] if row.learnables else None
    seed = torch.tensor(SEED) if row.random else None
    constants = tuple(float(constant.default) for constant in row.constants)
    common = (x, None, None, None, None, parameters, seed, row.name, constants, 0.0, 0)
    mask = (True, False, False, False, False)
    with emulator.device(arch=90):
        got = kernels.epilogue_forward(*common), kernels.epilogue_backward(torch.ones_like(x), *common, False, mask)[0]
    for result, want in zip(got, oracle(row, x, row.start()), strict=False):
        assert_errors(result, want, x, 16 * torch.finfo(torch.float64).eps * want.abs().clamp_min(1e-1), row.name)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("shape", "layout"), [((2, 16, 4, 8), "contiguous"), ((3, 5, 4, 7), "contiguous"), ((2, 8, 5, 3), "channels_last"),
                                               ((3, 5, 4, 7), "channels_last"), ((1, 1003), "contiguous")], ids=str)
def test_random_slopes_are_those_of_the_reference(shape: tuple[int, ...], layout: str, p: float) -> None:
    """Plain and per channel; a seed beside p = 0 drops nothing."""
    x = cases.arrange(-torch.ones(shape, dtype=torch.float64), layout)
    shift = torch.zeros(shape[1], dtype=torch.float64)
    for vector in (None, shift):
        arguments = (x, None, None, vector, None, None, torch.tensor(SEED), "rrelu", (0.0, 1.0), p, 1)
        with emulator.device(arch=90):
            got = kernels.epilogue_forward(*arguments)
        assert torch.equal(got, reference.epilogue_forward(*arguments))


def interpret() -> None:
    """What test_interpreter runs in a process of its own."""
    x = torch.cat([half_inputs(torch.bfloat16)[::257].float(), torch.linspace(-15, 15, 201)])
    for row in ROWS:
        check_float32(row, x, call(row, x, row.start()), row.start())
    x = half_inputs(torch.float16)[::17].clone()  # not bfloat16, to which Triton interprets rounding as cutting
    others = [(specs.ACTIVATIONS[name], [alpha]) for name, alpha in HALF_ELSEWHERE]
    for row, learnables in [*((row, row.start()) for row in ROWS), *others]:
        inputs = x[x.abs() < 64] if row.name == "snake" else x  # interpreted, its phase is a rounded product
        check_half(row, inputs, call(row, inputs, learnables), learnables, 0.5)


def test_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]


if __name__ == "__main__":
    interpret()
