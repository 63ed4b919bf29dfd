"""Activations made of sines, as pairs of Triton functions; conventions in activations.py."""
from __future__ import annotations

import triton
import triton.language as tl

from . import math, sines

_SINC_SERIES = tl.constexpr((
    -8.5099743753875053e-22, 3.9145882126782523e-19, -1.4797143443923793e-16, 4.4983316069528330e-14, -1.0706029224547743e-11,
    1.9270852604185937e-09, -2.5052108385441718e-07, 2.2045855379188714e-05, -1.1904761904761906e-03, 3.3333333333333333e-02,
    -3.3333333333333331e-01,
))  # (-1)^k 2 k / (2 k + 1)!, from k = 11 down
_SINC_SLOPE = tl.constexpr((
    -2.4753614979999838e-07, 2.2080861526774243e-05, -1.1905836872756481e-03, 3.3333417028188705e-02, -3.3333334326744080e-01,
))  # D of sinc' x = x D(x^2), within 2^-25 relative for |x| <= 1.76
_SINC_SLOPE_HALF = tl.constexpr((-1.1693040e-03, 3.33281780e-02, -3.33333139e-01))  # within 2^-20 for |x| <= 0.8


@triton.jit
def sinusoid(x, p):
    return sines.sin(x)


@triton.jit
def sinusoid_derivative(x, p):
    return (sines.cos(x),)


@triton.jit
def sinc(x, p):
    infinite = tl.abs(x) == float("inf")
    return tl.where(x == 0, 1.0, tl.where(infinite, 0.0, sines.sin(x) / x))


@triton.jit
def sinc_derivative(x, p):
    """x D(x^2) up to 1.75, else (cos x - sin x / x) / x."""
    sine, cosine = sines.sin_cos(x)
    far = (cosine - sine / x) / x
    square = x * x
    if x.dtype == tl.float64:
        series = tl.full(x.shape, 0.0, x.dtype)
        for k in tl.static_range(11):
            series = tl.fma(series, square, math.constant(x, _SINC_SERIES[k]))
        near = series * x
    else:
        near = math.polynomial(square, _SINC_SLOPE, 4) * x
    return (tl.where(tl.abs(x) <= 1.75, near, tl.where(tl.abs(x) == float("inf"), 0.0, far)),)


@triton.jit
def sinc_derivative_half(x, p):
    """The same with 0.8 for 1.75; the phase 0 at infinity makes it 0 there."""
    square = x * x
    parity, r = sines.half_phase(x, square)
    sine, cosine = sines.half_sin_cos(r)
    near = math.polynomial(square, _SINC_SLOPE_HALF, 2) * x
    return (tl.where(square <= 0.64, near, sines.signed((cosine - sine / x) / x, parity)),)


@triton.jit
def _product(alpha, x):
    """(y, low): alpha x is y + low; low is 0 where y is infinite."""
    y = alpha * x
    return y, tl.where(tl.abs(y) < float("inf"), math.rounding_of_product(alpha, x, y), 0.0)


@triton.jit
def _inverse(alpha):
    """1 / alpha, and 0 where alpha is 0, or nearly, and its reciprocal may be infinite."""
    zero = tl.abs(alpha) < 2.0**-126
    return tl.where(zero, 0.0, 1 / tl.where(zero, 1.0, alpha))


@triton.jit
def snake(x, p):
    """x + sin(alpha x)^2 / alpha; alpha = 0 gives x, and so does an infinite product.

    The sum may cancel by a factor of five: what rounding takes from the square and from the quotient is added last.
    """
    y, low = _product(p[0], x)
    square, rest = sines.sin_squared_of_pair(tl.where(tl.abs(y) == float("inf"), 0.0, y), low)
    inverse = _inverse(p[0])
    quotient = square * inverse
    rest = (rest - math.rounding_of_product(p[0], quotient, square)) * inverse
    return tl.where(tl.abs(y) > 0, (x + quotient) + rest, x)


@triton.jit
def snake_derivative(x, p):
    """df/dx is 1 + 2 sin cos = (sin + cos)^2; where the product overflows nobody knows the phase, and it is 0."""
    y, low = _product(p[0], x)
    y = tl.where((tl.abs(y) == float("inf")) & (tl.abs(x) < float("inf")), 0.0, y)
    inverse = _inverse(p[0])
    s, c = sines.sin_cos_of_pair(y, low)
    to_alpha = (s * inverse) * (tl.fma(2 * y, c, -s) * inverse)
    return (s + c) * (s + c), tl.where(inverse == 0, x * x, to_alpha)


@triton.jit
def snake_half(x, p):
    square = sines.sin_squared_near(sines.half_phase_of_product(p[0], x, 0.0))
    return tl.where(tl.abs(x) < float("inf"), tl.fma(square, tl.broadcast_to(_inverse(p[0]), x.shape), x), x)


@triton.jit
def snake_derivative_half(x, p):
    """(sin + cos)^2, u (x cos - u / 4) with u = 2 sin / alpha, and 2 x for alpha 0: parity does not matter."""
    inverse = _inverse(p[0])
    sine, cosine = sines.half_sin_cos(sines.half_phase_of_product(p[0], x, float("nan")))
    u = tl.where(inverse == 0, 2 * x, sine * (2 * inverse))
    both = sine + cosine
    return both * both, u * tl.fma(u, -0.25, x * cosine)
