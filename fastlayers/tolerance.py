"""How far a result may be from the float64 reference: the budgets of specs.py, turned into numbers (docs/design.md, "Numbers")."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from .reference.dtypes import accumulate_dtype
from .specs import ACTIVATIONS

FLOOR_ULP = max(row.ulp for row in ACTIVATIONS.values())
"""Units in the last place of the largest value that a composed result may always be off by."""


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighbouring numbers of ``dtype`` at ``value``, as float64; at 0 the smallest subnormal."""
    facts = torch.finfo(dtype)
    _, exponent = torch.frexp(value.double().abs().clamp(facts.smallest_normal, facts.max).nan_to_num(1.0))
    return torch.ldexp(torch.full_like(value, facts.eps, dtype=torch.float64), exponent - 1)


def allowed_error(oracle: Tensor, x: Tensor, slope: Tensor, budget: float, absolute: float = 0.0) -> Tensor:
    """What one element may be off by when a function of x is evaluated with a budget in ULP.

    The budget is counted in the dtype of the arithmetic; beside it stand the input's own rounding, ``slope`` times half a unit of
    x, an absolute allowance given for float32, and for float16 and bfloat16 one unit of the result: kernels may round a number in
    two hundred the other way (tests/test_cpu_math.py counts them). In float64 the
    reference is no more exact than what it judges and rounds its arguments too: each gets the budget, and a whole unit of x.
    """
    compute = accumulate_dtype(x)
    own_rounding = (slope.abs() * ulp(x, compute)).nan_to_num(0.0, 0.0, 0.0)
    budget_error = budget * ulp(oracle, compute)
    allowed = 2 * (budget_error + own_rounding) if compute == torch.float64 else budget_error + own_rounding / 2
    sides = 2 if compute == torch.float64 else 1
    allowed = allowed + sides * absolute * torch.finfo(compute).eps / torch.finfo(torch.float32).eps
    return allowed if x.dtype == compute else allowed + ulp(oracle, x.dtype)


def worst_share(actual: Tensor, oracle: Tensor, allowed: Tensor) -> float:
    """The largest error as a share of what is allowed: passed up to 1. Infinities and NaN must be where the reference has them.

    NaN says that actual is NaN where the reference is not; see ``severity``.
    """
    if actual.shape != oracle.shape:
        return math.inf
    if (actual.isnan() & ~oracle.isnan()).any():
        return math.nan
    rounded = oracle.to(actual.dtype).double()
    actual, oracle, allowed = (value.double() for value in (actual, oracle, allowed))
    same = (actual == rounded) | (actual.isnan() & oracle.isnan())
    share = torch.where(same, 0.0, (actual - oracle).abs() / allowed)
    return share.nan_to_num(math.inf, math.inf).max().item() if share.numel() else 0.0


def severity(share: float) -> tuple[bool, float]:
    """What shares are sorted by: NaN is worse than infinity."""
    return share != share, share


def worst_composed_share(actual: Tensor, oracle: Tensor, plain: Tensor, terms: float = 0.0) -> float:
    """worst_share for reductions and what follows from them.

    Twice the largest error of PyTorch's own operations in the same dtype, ``plain``, is allowed, and FLOOR_ULP, counted in the
    dtype of the arithmetic, of the largest value or of ``terms``: how large the terms of a sum are together, their signs left out.
    """
    if not actual.is_floating_point():  # a count
        return 0.0 if torch.equal(actual, oracle) else math.inf
    largest = oracle.double().abs().max() if oracle.numel() else torch.zeros((), dtype=torch.float64)
    own = (plain.double() - oracle.double()).abs().max() if oracle.numel() else largest
    floor = FLOOR_ULP * ulp(largest.clamp(min=terms), accumulate_dtype(actual))
    if actual.dtype == torch.float64:  # where plain is the oracle itself
        floor = 2 * floor
    return worst_share(actual, oracle, (2 * own + floor).expand_as(oracle))
