"""The inverses of activations, ``{name}_inverse(y, p)``: an x of which the activation makes y, finite where y is. Arguments as in
activations.py."""
from __future__ import annotations

import triton
import triton.language as tl

from . import math
from .activations_smooth import SELU_SCALE, SELU_SLOPE

_HALF_UNIT = tl.constexpr(2.0**-24)  # half a unit of 1, the distance to the number below it
_HALF_UNIT_FLOAT64 = tl.constexpr(2.0**-53)
_SCALE = tl.constexpr(2.0**-32)  # of what math.log_near_one takes the logarithm


@triton.jit
def _half_unit(x):
    UNIT: tl.constexpr = _HALF_UNIT if x.dtype == tl.float32 else _HALF_UNIT_FLOAT64
    return math.constant(x, UNIT)


@triton.jit
def _log1p(x):
    return math.log_near_one((1 + x) * _SCALE, x)[0]


@triton.jit
def _bounded_log1p(x):
    """log(1 + x) for x <= 0, as if no x were nearer to -1 than half a unit."""
    nearest = _half_unit(x) - 1
    return _log1p(tl.where(x < nearest, nearest, x))


@triton.jit
def identity_inverse(y, p):
    return y


@triton.jit
def leaky_relu_inverse(y, p):
    return tl.where(y > 0, y, y / p[0])


@triton.jit
def prelu_inverse(y, p):
    return tl.where(y > 0, y, y / p[0])


@triton.jit
def elu_inverse(y, p):
    return tl.where(y > 0, y, _bounded_log1p(math.at_most(y, 0.0) / p[0]))


@triton.jit
def selu_inverse(y, p):
    left = _bounded_log1p(math.at_most(y, 0.0) / math.constant(y, SELU_SLOPE))
    return tl.where(y > 0, y / math.constant(y, SELU_SCALE), left)


@triton.jit
def celu_inverse(y, p):
    return tl.where(y > 0, y, p[0] * _bounded_log1p(math.at_most(y, 0.0) / p[0]))


@triton.jit
def softplus_inverse(y, p):
    """share: of exp(beta x) in 1 + exp(beta x)."""
    scaled = y * p[0]
    share = math.at_least(-math.expm1(-math.at_least(scaled, 0.0), 0.0, True), 2.0**-90)
    return tl.where(scaled > p[1], y, y + math.log_near_one(share * _SCALE, share - 1)[0] / p[0])


@triton.jit
def isrlu_inverse(y, p):
    reached = tl.sqrt(p[0]) * tl.abs(y)
    left = math.larger((1 - reached) * (1 + reached), _half_unit(y) + tl.zeros_like(y))
    return tl.where(y >= 0, y, y / tl.sqrt(left))


@triton.jit
def bent_identity_inverse(y, p):
    """With w = y + 1/2, x = (4 w - sqrt(4 w^2 + 3)) / 3."""
    w = y + 0.5
    near = math.bounded(w, 2.0**30)
    length = tl.sqrt(tl.fma(near * 4, near, 3.0))
    small = 4 * y * (y + 1) / (4 * near + length)
    middle = (4 * near - length) / 3
    return tl.where(tl.abs(y) < 0.5, small, tl.where(near == w, middle, tl.where(y > 0, y / 1.5, y + y)))
