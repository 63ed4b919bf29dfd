"""The C++ mathematics of every activation, on every instruction set: against float64 over all kinds of inputs."""
from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import mpmath
import pytest
import torch
from cases import needs_cpp
from cpu_results import CASES, DOUBLES, HALF_TYPES, Results, all_arguments, float64_inputs, given, inputs
from tolerances import assert_errors
from torch import Tensor

from fastlayers import specs
from fastlayers.reference import activations
from fastlayers.tolerance import ulp

pytestmark = needs_cpp


def case_name(case: object) -> str:
    """silu, swish-0, swish-1, ...: the defaults first."""
    return getattr(case, "name", str(case))


def oracle(row: specs.Activation, index: int, x: Tensor) -> tuple[Tensor, ...]:
    """(value, derivative, derivative in each learnable parameter) in float64."""
    wide = x.double()
    arguments = given(row, index, wide)
    return activations.function(row.name)(wide, *arguments), *activations.function(row.name, "derivative")(wide, *arguments)


def own_rounding(x: Tensor, slope: Tensor) -> Tensor:
    """What the rounding of x to float32 makes of a function with this slope there."""
    return (0.5 * ulp(x, torch.float32) * slope).nan_to_num(nan=0.0)


def check(results: dict[str, Results], key: tuple, want: Tensor, x: Tensor, allowed: Tensor) -> None:
    """assert_errors for what every instruction set computed; several rows of results have x in common."""
    for capability, got in each_capability(results, key):
        assert_errors(got, want, x.expand_as(want), allowed, f"{' '.join(map(str, key))} on {capability}")


def each_capability(results: dict[str, Results], key: object) -> list[tuple[str, Tensor]]:
    return [(capability, tensors[key]) for capability, tensors in results.items()]


@pytest.mark.parametrize(("row", "index"), [case for case in CASES if not case[0].random], ids=case_name)
def test_float32(cpu_results, row: specs.Activation, index: int) -> None:
    """Value and derivatives within the row's budgets, plus the input's own rounding: half a unit of it times the slope.

    Derivatives in parameters, which a row has no budget for, get twice that of the derivative in x; snake's crosses zero as its
    derivative in x does, and gets the same absolute error in units of its terms.
    """
    x = inputs(torch.float32, index)
    with torch.enable_grad():
        wide = x.double().requires_grad_()
        value, *slopes = oracle(row, index, wide)
        turns = [torch.autograd.grad(slope.sum(), wide, retain_graph=True)[0].abs() if slope.requires_grad else torch.zeros_like(wide)
                 for slope in slopes]
    value, *slopes = (tensor.detach() for tensor in (value, *slopes))
    allowed = row.ulp * ulp(value, torch.float32) + own_rounding(x, slopes[0].abs())
    check(cpu_results, (row.name, index, torch.float32, "value"), value, x, allowed)
    budget = (row.derivative_ulp * ulp(slopes[0], torch.float32)).clamp_min(row.derivative_absolute)
    allowed = budget + own_rounding(x, turns[0])
    check(cpu_results, (row.name, index, torch.float32, "derivative"), slopes[0], x, allowed)
    if row.learnables:
        check(cpu_results, (row.name, index, "derivative along"), slopes[0], x, allowed)
        budgets = [2 * row.derivative_ulp * ulp(slope, torch.float32) + own_rounding(x, turn)
                   for slope, turn in zip(slopes[1:], turns[1:], strict=True)]
        if row.name == "snake":
            (alpha,), _ = all_arguments(row)[index]
            terms = wide.detach().abs() * wide.detach().abs().clamp(max=1 / abs(alpha) if alpha else math.inf)
            budgets[0] += row.derivative_absolute * terms.nan_to_num(nan=0.0, posinf=0.0)
        check(cpu_results, (row.name, index, "parameters"), torch.stack(slopes[1:]), x, torch.stack(budgets))
    if row.derives_from_output(all_arguments(row)[index][1]):
        number = ~x.isnan()
        by_y = (turns[0] / slopes[0].abs()).nan_to_num(nan=0.0, posinf=0.0) if index else torch.zeros_like(value)
        allowed = budget + own_rounding(value, by_y)
        check(cpu_results, (row.name, index, "from_output"), slopes[0], x, allowed.where(number, math.inf))


@pytest.mark.parametrize(("row", "index"), [case for case in CASES if case[0].random], ids=case_name)
def test_random_activations_are_the_same_bits(cpu_results, row: specs.Activation, index: int) -> None:
    """As the reference in float32."""
    x = inputs(torch.float32, index)
    arguments = given(row, index, x)
    slope, = activations.function(row.name, "derivative")(x, *arguments)
    wanted = {"value": activations.function(row.name)(x, *arguments), "derivative": slope}
    for kind, want in wanted.items():
        for capability, got in each_capability(cpu_results, (row.name, index, torch.float32, kind)):
            assert torch.equal(got.nan_to_num(nan=7.0), want.nan_to_num(nan=7.0)), (kind, capability)


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize(("row", "index"), CASES, ids=case_name)
def test_half_types(cpu_results, row: specs.Activation, index: int, dtype: torch.dtype) -> None:
    """All inputs: never more than one unit off, and the nearest number in 99.5 %."""
    x = inputs(dtype)
    for kind, want in zip(("value", "derivative"), oracle(row, index, x), strict=False):
        unit = ulp(want, dtype)
        absolute = row.derivative_absolute if kind == "derivative" else 0.0
        for capability, got in each_capability(cpu_results, (row.name, index, dtype, kind)):
            assert_errors(got, want, x, unit + absolute, f"{row.name} {kind} on {capability}")
            number = got.isfinite() & want.isfinite()
            nearest = (got.double() - want).abs()[number] <= 0.5 * unit[number]
            assert nearest.double().mean() >= 0.995, f"{row.name} {kind} on {capability}: {nearest.double().mean():.4f} correctly rounded"


PRECISE = [(-1.0, x) for x in (1e-30, 3e-9, 1e-4, 0.3, 0.999, 1.0, 1.001, 2.0, 1e6, 3e38)] + [
    (1.0, x) for x in (-100.0, -60.0, -20.0, -3.0, -0.5, -1e-4, 1e-9, 0.7, 5.0, 88.0)] + [
    (2.5, 35.7), (-3.0, 2.6666667), (0.3, 290.0), (10.0, 8.8), (10.0, -8.8), (1e-5, -2e5), (1e-5, -1e5), (1e-5, 7e6), (1e-6, -1e7),
    (1e-10, -1.1e10), (1e-15, -5e16), (-1e-5, 2e5), (-1e-10, -7e9)]
"""(alpha, x) where soft_exponential's formula cancels in float64, or overflows float32 on the way."""


def test_soft_exponential_where_float64_cancels() -> None:
    """Against 60 digits: value and derivative within the row's budget, the derivative in alpha within twice that."""
    from fastlayers import _C

    row = specs.ACTIVATIONS["soft_exponential"]
    alpha, x = torch.tensor(PRECISE).T.contiguous()
    common = (None, None, None, None, alpha[None].contiguous(), None, row.name, (), 0.0, 1)
    value = _C.epilogue_forward(x[None], *common)[0]
    dx, *_, dalpha = _C.epilogue_backward(torch.ones_like(x)[None], x[None], *common, False, (True, False, False, False, True))
    with mpmath.workdps(60):
        want = [[float(part) for part in precise_soft_exponential(a, v)] for a, v in zip(alpha.tolist(), x.tolist(), strict=True)]
    budgets = (row.ulp, row.derivative_ulp, 2 * row.derivative_ulp)
    for got, exact, budget in zip((value, dx[0], dalpha[0]), torch.tensor(want, dtype=torch.float64).T, budgets, strict=True):
        assert_errors(got, exact, x, budget * ulp(exact, torch.float32), row.name)


def precise_soft_exponential(alpha: float, x: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """(f, df/dx, df/dalpha) with mpmath."""
    a, v = mpmath.mpf(alpha), mpmath.mpf(x)
    if a > 0:
        growth = mpmath.exp(a * v)
        return (growth - 1) / a + a, growth, 1 + ((a * v - 1) * growth + 1) / a**2
    u = 1 - a * (v + a)
    return -mpmath.log(u) / a, 1 / u, (mpmath.log(u) + a * (v + 2 * a) / u) / a**2


@pytest.mark.parametrize("name", DOUBLES)
def test_float64_is_within_four_units(cpu_results, name: str) -> None:
    x, function = float64_inputs(), DOUBLES[name]
    with mpmath.workdps(60):
        value = torch.tensor([float(function(mpmath.mpf(v))) for v in x.tolist()], dtype=torch.float64)
        slope = torch.tensor([float(mpmath.diff(function, mpmath.mpf(v))) for v in x.tolist()], dtype=torch.float64)
    unit = torch.nextafter(value.abs(), torch.tensor(math.inf, dtype=torch.float64)) - value.abs()
    for capability, got in each_capability(cpu_results, (name, "float64 value")):
        assert ((got - value).abs() <= 4 * unit).all(), capability
    for capability, got in each_capability(cpu_results, (name, "float64 derivative")):
        assert ((got - slope).abs() <= 4 * torch.finfo(torch.float64).eps).all(), capability


def test_gelu_is_within_few_units_where_its_polynomials_reach(cpu_results) -> None:
    """As csrc/cpu/normal_tail.h says, which is less than the row allows: x counts as exact here."""
    row, x = specs.ACTIVATIONS["gelu"], inputs(torch.float32)
    want, within = oracle(row, 0, x)[0], (x >= -5.75) & x.isfinite()
    for capability, got in each_capability(cpu_results, ("gelu", 0, torch.float32, "value")):
        if capability != "baseline":
            errors = (got.double() - want).abs() / ulp(want, torch.float32)
            assert errors[within].max() <= 2.5, (capability, x[within][errors[within].argmax()])


@pytest.mark.parametrize(("name", "function", "relative", "absolute"), [
    ("normal_tail", lambda a: mpmath.ncdf(-a), 2e-8, 0.0),
    ("normal_moment_derivative", lambda a: mpmath.ncdf(-a) - a * mpmath.npdf(a), 4e-8, 3e-9),
], ids=["tail", "derivative"])
def test_the_tables_of_gelu(name: str, function: Callable, relative: float, absolute: float) -> None:
    """As exact as csrc/cpu/normal_tail.h says, computed with 30 digits; both neighbours where rounding may choose either."""
    header = (Path(__file__).parents[1] / "csrc/cpu/normal_tail.h").read_text()
    body = re.search(rf"constexpr Pieces {name} = {{(.*?)}};", header, re.DOTALL)[1]
    end, square, linear, *numbers = [mpmath.mpf(float(torch.tensor(float(text)))) for text in re.findall(r"(-?\d[\d.]*(?:e-?\d+)?)f", body)]
    centers, coefficients = numbers[:8], [numbers[8 * k:8 * k + 8] for k in range(1, 10)]
    with mpmath.workdps(30):
        for a in mpmath.linspace(0, end, 1500):
            place = (square * a + linear) * a
            for piece in {int(mpmath.nint(place - 1e-6)), int(mpmath.nint(place + 1e-6))}:
                value = mpmath.polyval([row[piece] for row in reversed(coefficients)], a - centers[piece])
                assert abs(value - function(a)) <= max(relative * abs(function(a)), absolute), (a, piece)
