"""The one table of tolerances: what an error may be follows from the rows' budgets, never from what passes.

An elementwise result may be off by the row's budget in units of the dtype it is computed in, by what the rounding of the
activation's own input makes of it, and by one rounding to the dtype of the result. A reduction may be off by twice torch's error in
the same dtype plus a few units of the sum of its terms' magnitudes.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastlayers.reference.dtypes import accumulate_dtype
from fastlayers.specs import Activation

ROUNDINGS = 4.0  # x - mean, times scale, plus shift, plus residual

TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative and absolute, of layers beside torch's in the same dtype: torch's own error in float32, one rounding in the half types."""

STEP_TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-12}
"""Relative and absolute, of parameters beside torch.optim's after ten steps and more."""


def unit(x: Tensor) -> float:
    """Unit in the last place of 1 in the dtype that x is computed in."""
    return torch.finfo(accumulate_dtype(x)).eps


def rounding(value: Tensor, dtype: torch.dtype) -> Tensor:
    """What rounding a value once to dtype may cost: half a unit of its own, or of the smallest normal number."""
    info = torch.finfo(dtype)
    return (value.abs() * info.eps).clamp_min(info.tiny * info.eps) * 0.5001


def moved(x: Tensor, magnitude: Tensor) -> Tensor:
    """How far rounding may move z, magnitude being the sum of the magnitudes of its terms."""
    return ROUNDINGS * unit(x) * magnitude


def steepest(function: Callable[[Tensor], Tensor], z: Tensor, reach: Tensor) -> Tensor:
    """The largest |function| within reach of z, on either side of a kink."""
    return torch.stack([function(z - reach).abs(), function(z).abs(), function(z + reach).abs()]).amax(0)


def value_bound(row: Activation, x: Tensor, oracle: Tensor, magnitude: Tensor, multiplier: Tensor | float, slope: Tensor) -> Tensor:
    """How far y may be off: magnitude is the sum of the magnitudes of z's terms, slope how steep the activation is there."""
    ulp = unit(x)
    budget = max(row.ulp, 1) * ulp * oracle.abs() + slope * moved(x, magnitude) * multiplier
    return budget + ulp * oracle.abs() + torch.finfo(accumulate_dtype(x)).tiny + rounding(oracle, x.dtype)


def gradient_bound(row: Activation, x: Tensor, dz: Tensor, dy: Tensor, magnitude: Tensor, factor: Tensor | float, bend: Tensor) -> Tensor:
    """How far dz * factor may be off, dz = dy f'(z); bend is |f''| there."""
    ulp = unit(x)
    oracles = 2 if x.dtype is torch.float64 else 1  # in float64 the oracle is no more exact than what it judges
    absolute = oracles * row.derivative_absolute * (ulp / torch.finfo(torch.float32).eps) + bend * moved(x, magnitude)
    budget = (max(row.derivative_ulp, 1) + 3) * ulp * dz.abs() + dy.abs() * absolute
    oracle = dz * factor
    return budget * abs(factor) + torch.finfo(accumulate_dtype(x)).tiny + rounding(oracle, x.dtype)


def sum_bound(x: Tensor, torch_error: Tensor, terms: Tensor) -> Tensor:
    """How far a sum may be off: torch_error of the same sum by torch, terms the sum of its terms' own error bounds."""
    return 2 * torch_error + terms


def state_bound(exact: Tensor, steps: list[Tensor], dtype: torch.dtype) -> Tensor:
    """How far a float32 parameter may be off whose states are of dtype: the first step by one rounding, half a unit, the next by two..."""
    roundings = sum((count * step.abs() for count, step in enumerate(steps, 1)), torch.zeros_like(exact))
    return torch.finfo(dtype).eps / 2 * roundings + STEP_TOLERANCES[torch.float32] * (1 + exact.abs())


def assert_within(actual: Tensor, oracle: Tensor, bound: Tensor, what: str) -> None:
    """|actual - oracle| <= bound everywhere; NaN and infinities in the same places."""
    actual = actual.double()
    same = (actual == oracle) | (actual.isnan() & oracle.isnan())
    excess = torch.where(same, torch.zeros_like(oracle), (actual - oracle).abs() / bound)
    worst = excess.nan_to_num(nan=float("inf"))
    assert worst.numel() == 0 or worst.max() <= 1, (
        f"{what}: {int((worst > 1).sum())} of {worst.numel()} elements off, worst by {worst.max():.3g} times what is allowed: "
        f"got {actual.flatten()[worst.argmax()]:.9g}, want {oracle.flatten()[worst.argmax()]:.9g}")


def close(actual: Tensor, expected: Tensor, factor: float = 1.0, what: str = "value") -> None:
    """actual is expected within so many times the tolerance of its dtype; whole numbers are the same."""
    tolerance = TOLERANCES[expected.dtype] * factor if expected.is_floating_point() else 0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text: f"{what}: {text}")


def assert_errors(got: Tensor, want: Tensor, x: Tensor, allowed: Tensor, what: str) -> None:
    """|got - want| <= allowed wherever want is a number that got's dtype can hold, and the same infinity or NaN elsewhere."""
    rounded = want.to(got.dtype)
    exact = (got == rounded) | (got.isnan() & rounded.isnan())
    error = torch.where(exact, torch.zeros_like(want), (got.double() - want).abs())
    bad = ~(error <= allowed)
    if bad.any():
        worst = torch.where(bad, error / allowed, 0).nan_to_num(nan=math.inf).argmax()
        at = (tensor.flatten()[worst].item() for tensor in (x, got, want))
        pytest.fail("{}: {} off, f({:.9g}) = {:.9g}, not {:.9g}".format(what, int(bad.sum()), *at))
