"""Activations x g(x) with a smooth gate g, as pairs of Triton functions; conventions in activations.py."""
from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from . import math
from .math import FAR, FAR_FLOAT64, LN_2, LOG2_E

_INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)
_OPEN = tl.constexpr(30.0)  # where a gate is 1
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_GAUSSIAN_TAIL = tl.constexpr((
    1.0129082511411980e-04, -3.1535997551530600e-05, -1.0846275836229324e-03, -4.0738446841714904e-05, 7.9803299158811570e-03,
    -5.3332205861806870e-03, -6.3823744654655460e-02, 2.5266194343566895e-01, -5.2496314048767090e-01, 7.3345363140106200e-01,
))  # (a + 3.125) erfc(a / sqrt 2) exp(a^2 / 2) / 2 in powers of (a - 3.125) / (a + 3.125), within 2^-26 relative for 0 <= a <= 15
_GAUSSIAN_TAIL_HALF = tl.constexpr((
    3.0000579833984375e+02, -3.3762643432617188e+02, 8.8506790161132812e+01, 7.6742343902587891e+00, 8.7793426513671875e+00,
    3.5099759101867676e+00, 1.2450191974639893e+00, 3.9898410439491272e-01,
))  # the same in powers of 1 / (a + 3.125), within 2^-21
_INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)
_GELU_LINEAR = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_GELU_LINEAR_REST = tl.constexpr(-4.534068032135963e-08)  # what rounding to float32 leaves of it
_GELU_CUBIC = tl.constexpr(0.07135481627260025)  # 0.044715 times that
_GELU_CUBIC_REST = tl.constexpr(2.3988323966106506e-09)
_GELU_FAR = tl.constexpr(10.9)  # where 2 u = 109.8, see FAR
_GELU_FAR_FLOAT64 = tl.constexpr(22.0)
_SWISH_FAR = tl.constexpr(150.0)  # beyond FAR, for x is large where beta is small
_QUICK = tl.constexpr(1.702)
_QUICK_REST = tl.constexpr(-2.1934509319976314e-08)
_QUICK_FAR = tl.constexpr(64.5)  # 110 / 1.702
_QUICK_FAR_FLOAT64 = tl.constexpr(470.0)


@triton.jit
def silu(x, p):
    LIMIT: tl.constexpr = FAR if x.dtype == tl.float32 else FAR_FLOAT64
    finite = math.at_least(x, -LIMIT)
    d, f = math.logistic(-math.at_most(finite, LIMIT), 0.0)
    return finite / d * f


@triton.jit
def silu_derivative(x, p):
    s, n, near = math.gate(x)
    return (tl.fma(near * n, s, s),)


@triton.jit
def silu_half(x, p):
    finite = math.at_least(x, -FAR)
    return finite * math.half_gate(finite)


@triton.jit
def _gelu_float64(x):
    """(x / 2 + |x| / 2 - gelu(x)), which is |x| erfc(|x| / sqrt 2) / 2, and |x| bounded where it is 0."""
    a = math.at_most(tl.abs(x), 40.0)
    if _INTERPRET:
        return a * (0.5 - 0.5 * tl.erf(a * math.constant(a, _SQRT_HALF))), a
    else:
        return a * (0.5 * libdevice.erfc(a * math.constant(a, _SQRT_HALF))), a


@triton.jit
def gelu(x, p):
    """max(x, 0) - a erfc(a / sqrt 2) / 2, a = |x|; erfc is exp(-a^2 / 2), as the square of 2^t, times a polynomial.

    The last step multiplies by 1 - what the roundings of a^2 and t have added to the exponent.
    """
    positive = math.at_least(x, 0.0)
    if x.dtype == tl.float64:
        return positive - _gelu_float64(x)[0]
    else:
        a = math.at_most(tl.abs(x), 15.0)
        share = a / (a + 3.125)
        half = a * 0.5
        square = half * a
        t = square * (-0.5 * LOG2_E)
        power = tl.exp2(t)
        excess = tl.fma(t, 2 * LN_2, square) + tl.fma(half, a, -square)
        product = share * math.polynomial(tl.fma(share, 2.0, -1.0), _GAUSSIAN_TAIL, 9) * power * power
        return tl.fma(product, excess, positive - product)


@triton.jit
def gelu_derivative(x, p):
    """erfc(-x / sqrt 2) / 2 + x exp(-x^2 / 2) / sqrt(2 pi)."""
    if x.dtype == tl.float64:
        product, a = _gelu_float64(x)
        tail = tl.where(a > 0, product / a, 0.5)
        below = tail - a * math.constant(a, _INVERSE_SQRT_2_PI) * tl.exp(a * a * -0.5)
    else:
        a = math.at_most(tl.abs(x), 15.0)
        inverse = 1 / (a + 3.125)
        tail = inverse * math.polynomial(tl.fma(a * inverse, 2.0, -1.0), _GAUSSIAN_TAIL, 9)
        below = tl.fma(a, -_INVERSE_SQRT_2_PI, tail) * math.fast_exp(a * a, -0.5)
    return (tl.where(x > 0, 1 - below, below),)


@triton.jit
def gelu_half(x, p):
    a = math.at_most(tl.abs(x), 15.0)
    inverse = 1 / (a + 3.125)
    power = tl.exp2(a * (a * (-0.25 * LOG2_E)))
    tail = a * inverse * math.polynomial(inverse, _GAUSSIAN_TAIL_HALF, 7)
    return math.at_least(x, 0.0) - tail * power * power


@triton.jit
def gelu_derivative_half(x, p):
    a = math.at_most(tl.abs(x), 15.0)
    inverse = 1 / (a + 3.125)
    tail = inverse * math.polynomial(inverse, _GAUSSIAN_TAIL_HALF, 7)
    below = tl.fma(a, -_INVERSE_SQRT_2_PI, tail) * math.fast_exp(a * a, -0.5)
    return (tl.where(x > 0, 1 - below, below),)


@triton.jit
def _gelu_tanh_argument(x):
    """(y, excess): y - excess = -2 u = -2 sqrt(2 / pi) (x + 0.044715 x^3); excess is what the roundings add, for y is an exponent."""
    opposite = -x
    square = x * x
    if x.dtype == tl.float64:
        y = opposite * (square * math.constant(x, _GELU_CUBIC) + math.constant(x, _GELU_LINEAR))
        excess = tl.zeros_like(x)
    else:
        cubic = square * _GELU_CUBIC
        factor = cubic + _GELU_LINEAR
        over = tl.fma(square, -_GELU_CUBIC, cubic) + tl.fma(
            tl.fma(opposite, x, square), _GELU_CUBIC, (factor - cubic) - _GELU_LINEAR)
        over = tl.fma(square, -_GELU_CUBIC_REST, over) - _GELU_LINEAR_REST
        y = opposite * factor
        excess = tl.fma(opposite, over, tl.fma(x, factor, y))
    return y, excess


@triton.jit
def gelu_tanh(x, p):
    LIMIT: tl.constexpr = _GELU_FAR if x.dtype == tl.float32 else _GELU_FAR_FLOAT64
    finite = math.at_least(x, -LIMIT)
    y, excess = _gelu_tanh_argument(math.at_most(finite, LIMIT))
    d, f = math.logistic(y, excess)
    return finite / d * f


@triton.jit
def gelu_tanh_derivative(x, p):
    near = math.bounded(x, 11.0 if x.dtype == tl.float32 else 20.0)
    square = near * near
    linear = tl.full(x.shape, _GELU_LINEAR, x.dtype)
    s, n, _ = math.gate(near * tl.fma(square, tl.full(x.shape, _GELU_CUBIC, x.dtype), linear))
    slope = near * tl.fma(square, tl.full(x.shape, 3 * _GELU_CUBIC, x.dtype), linear)
    return (tl.fma(slope * n, s, s),)


@triton.jit
def mish(x, p):
    """x n / (n + 2), n = e (e + 2), e = exp(x)."""
    finite = math.at_least(x, -FAR if x.dtype == tl.float32 else -FAR_FLOAT64)
    e, f = math.scaled_exp(math.at_most(finite, _OPEN), 0.0)
    n = e * (e + 2)
    return finite * (n / (n + 2)) * f


@triton.jit
def mish_derivative(x, p):
    """t + x (1 - t^2) s, with t = n / (n + 2), 1 - t^2 = 4 (n + 1) / (n + 2)^2, n + 1 = (e + 1)^2 and s = e / (e + 1)."""
    near = math.at_most(math.at_least(x, -FAR if x.dtype == tl.float32 else -FAR_FLOAT64), _OPEN)
    e = math.fast_exp(near, 1.0)
    n = e * (e + 2)
    inverse = 1 / (n + 2)
    return (inverse * tl.fma(4 * near * e * (e + 1), inverse, n),)


@triton.jit
def _swish(x, y, excess):
    """x / (1 + exp(y - excess)) for y between -150 and 150."""
    d, f = math.logistic(y, excess)
    return x / d * f


@triton.jit
def swish(x, p):
    LIMIT: tl.constexpr = _SWISH_FAR if x.dtype == tl.float32 else FAR_FLOAT64
    y = -p[0] * x
    far = tl.abs(y) >= LIMIT
    near = math.bounded(y, LIMIT)
    excess = tl.where(far, 0.0, -math.rounding_of_product(-p[0], x, y))
    return _swish(tl.where(far & (y > 0), 0.0, x), near, excess)


@triton.jit
def swish_derivative(x, p):
    y = p[0] * x
    s, n, near = math.gate(y)
    inside = tl.where(near == y, x, 0.0)
    return tl.fma(near * n, s, s), inside * (n * s) * inside


@triton.jit
def quick_gelu(x, p):
    LIMIT: tl.constexpr = _QUICK_FAR if x.dtype == tl.float32 else _QUICK_FAR_FLOAT64
    finite = math.at_least(x, -LIMIT)
    near = math.at_most(finite, LIMIT)
    if x.dtype == tl.float64:
        y = near * math.constant(x, -_QUICK)
        excess = tl.zeros_like(y)
    else:
        y = near * -_QUICK
        excess = tl.fma(near, _QUICK_REST, tl.fma(near, _QUICK, y))
    return _swish(finite, y, excess)


@triton.jit
def quick_gelu_derivative(x, p):
    s, n, near = math.gate(x * math.constant(x, _QUICK))
    return (tl.fma(near * n, s, s),)
