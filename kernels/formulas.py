"""The functions that formulas are made of in Triton, and the functions generated from formulas (fastlayers/formulas/printer.py).

All take float32 or float64, tensors or scalars. The accuracy is libdevice's, two units in the last place or so; Triton's interpreter
has no libdevice and gets formulas of its own.
"""
from __future__ import annotations

import sys
from functools import lru_cache

import triton
import triton.language as tl
from triton.language.extra import libdevice

from .. import generated
from . import activations, activations_smooth
from .math import constant

_INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def like(x, value):
    """A value that does not depend on x, in the shape of x."""
    return value + tl.zeros_like(x)


@triton.jit
def where(condition, a, b):
    return tl.where(condition, a, b)


@triton.jit
def both(a, b):
    """a and b; in whole numbers, since the interpreter cannot combine a condition with one that is a scalar."""
    return tl.where(a, tl.where(b, 1, 0), 0) != 0


@triton.jit
def either(a, b):
    return tl.where(a, 1, tl.where(b, 1, 0)) != 0


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def absolute(u):
    return tl.abs(u)


@triton.jit
def sign(u):
    return tl.where(u > 0, constant(u, 1.0), tl.where(u < 0, constant(u, -1.0), u))


@triton.jit
def step(u, middle):
    """0 below 0, middle at 0, 1 above."""
    return tl.where(u > 0, constant(u, 1.0), tl.where(u < 0, constant(u, 0.0), middle))


@triton.jit
def sqrt(u):
    return tl.sqrt(u)


@triton.jit
def exp(u):
    if _INTERPRET:
        return tl.exp(u)
    else:
        return libdevice.exp(u)


@triton.jit
def log(u):
    if _INTERPRET:
        return tl.log(u)
    else:
        return libdevice.log(u)


@triton.jit
def log1p(u):
    """In the interpreter log(w) u / (w - 1), w = 1 + u rounded: the errors of both differences cancel."""
    if _INTERPRET:
        w = 1.0 + u
        difference = w - 1.0
        exact = (difference == 0.0) | (w == float("inf"))
        return tl.where(difference == 0.0, u, tl.log(w) * tl.where(exact, 1.0, u / tl.where(exact, 1.0, difference)))
    else:
        return libdevice.log1p(u)


@triton.jit
def expm1(u):
    """In the interpreter (w - 1) u / log(w), w = exp(u) rounded."""
    if _INTERPRET:
        w = tl.exp(u)
        near = (tl.abs(u) < 1.0) & (w != 1.0)
        inside = (w - 1.0) * (u / tl.where(near, tl.log(w), 1.0))
        return tl.where(near, inside, tl.where(w == 1.0, u, w - 1.0))
    else:
        return libdevice.expm1(u)


@triton.jit
def sigmoid(u):
    """1 / (1 + exp(-u)), of a non-negative power so that nothing overflows."""
    power_ = exp(-tl.abs(u))
    return tl.where(u < 0, power_, constant(u, 1.0)) / (1.0 + power_)


@triton.jit
def softplus(u):
    """log(1 + exp(u))."""
    return maximum(u, constant(u, 0.0)) + log1p(exp(-tl.abs(u)))


@triton.jit
def tanh(u):
    return activations_smooth.tanh(u, ())


@triton.jit
def sin(u):
    return tl.sin(u)


@triton.jit
def cos(u):
    return tl.cos(u)


@triton.jit
def tan(u):
    if _INTERPRET:
        return tl.sin(u) / tl.cos(u)
    else:
        return libdevice.tan(u)


@triton.jit
def _atan_series(u, TERMS: tl.constexpr):
    """atan for |u| < 0.2."""
    square = u * u
    total = tl.zeros_like(u)
    for k in tl.static_range(TERMS):
        total = total * square + constant(u, (1 - (TERMS - 1 - k) % 2 * 2) / (2 * (TERMS - 1 - k) + 1))
    return total * u


@triton.jit
def atan(u):
    """In the interpreter through atan(u) = 2 atan(u / (1 + sqrt(1 + u^2))), three times, and a series."""
    if _INTERPRET:
        inverse = tl.abs(u) > 1.0
        a = tl.where(inverse, 1.0 / tl.where(inverse, u, 1.0), u)
        for _ in tl.static_range(2):
            a = a / (1.0 + tl.sqrt(1.0 + a * a))
        angle = 4.0 * _atan_series(a, 12)
        return tl.where(inverse, tl.where(u > 0, constant(u, 1.5707963267948966), constant(u, -1.5707963267948966)) - angle, angle)
    else:
        return libdevice.atan(u)


@triton.jit
def sinh(u):
    if _INTERPRET:
        w = expm1(tl.abs(u))
        magnitude = 0.5 * (w + tl.where(w == float("inf"), 0.0, w / (1.0 + w)))
        return tl.where(u < 0, -magnitude, magnitude)
    else:
        return libdevice.sinh(u)


@triton.jit
def cosh(u):
    if _INTERPRET:
        return 0.5 * (tl.exp(u) + tl.exp(-u))
    else:
        return libdevice.cosh(u)


@triton.jit
def asinh(u):
    if _INTERPRET:
        a = tl.abs(u)
        magnitude = log1p(a + a * a / (1.0 + tl.sqrt(1.0 + a * a)))
        return tl.where(u < 0, -magnitude, magnitude)
    else:
        return libdevice.asinh(u)


@triton.jit
def erf(u):
    return tl.erf(u)


@triton.jit
def erfc(u):
    """In the interpreter 1 - erf(u), which keeps no digits in the right tail."""
    if _INTERPRET:
        return 1.0 - tl.erf(u)
    else:
        return libdevice.erfc(u)


@triton.jit
def power(base, exponent):
    """In the interpreter exp(exponent log(base)): NaN for a negative base, whatever the exponent."""
    if _INTERPRET:
        return tl.exp(exponent * tl.log(base))
    else:
        return libdevice.pow(base, exponent)


def function(name: str, kind: str, half: bool) -> object:
    """The Triton function of a row, or its derivative, built in or registered; half: for float16 and bfloat16."""
    if name not in generated.REGISTERED:
        return activations.function(name, kind, half)
    source = generated.REGISTERED[name]
    return _compiled(source)[f"{source.name}_{kind}" if kind else source.name]


@lru_cache
def _compiled(source: generated.Generated) -> dict[str, object]:
    return generated.load(source.triton, f"{source.name} in Triton", {
        "triton": triton, "tl": tl, "formulas": sys.modules[__name__], "__name__": __name__})
