"""Every activation as a pair of Triton functions, picked up by a row's name of fastlayers/specs.py.

``{name}(x, p)`` is f, ``{name}_derivative(x, p)`` the tuple (df/dx, df/d parameter ...), and where backward may keep y instead of x
``{name}_derivative_from_output(y, p)`` is (df/dx,). x is float32 or float64; p is the tuple of learnable parameters, as values that
broadcast against x, then constants. At +-inf they give the limit; NaN stays NaN.
"""
from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

_INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)
_GELU_LINEAR = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_GELU_CUBIC = tl.constexpr(0.07135481627260025)  # 0.044715 times that


@triton.jit
def _constant(x, value: tl.constexpr):
    """A number in x's dtype: a bare literal is rounded to float32."""
    return tl.full((), value, x.dtype)


@triton.jit
def _exp(x):
    """exp(x) for finite x below 88: 2^t with t = x log2(e) rounded, times 1 + what the rounding of t has left of x."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    t = x * _LOG2_E
    power = tl.exp2(t)
    return tl.fma(power, tl.fma(t, -_LN_2, x), power)


@triton.jit
def _at_most(x, bound: tl.constexpr):
    """min(x, bound) that keeps NaN."""
    return tl.minimum(x, tl.full(x.shape, bound, x.dtype), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _at_least(x, bound: tl.constexpr):
    """max(x, bound) that keeps NaN."""
    return tl.maximum(x, tl.full(x.shape, bound, x.dtype), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def identity(x, p):
    return x


@triton.jit
def identity_derivative(x, p):
    return (tl.full(x.shape, 1.0, x.dtype),)


@triton.jit
def identity_derivative_from_output(y, p):
    return identity_derivative(y, p)


@triton.jit
def relu(x, p):
    return _at_least(x, 0.0)


@triton.jit
def relu_derivative(x, p):
    return (tl.where(x > 0, 1.0, 0.0).to(x.dtype),)


@triton.jit
def relu_derivative_from_output(y, p):
    return relu_derivative(y, p)


@triton.jit
def leaky_relu(x, p):
    return tl.where(x > 0, x, x * p[0])


@triton.jit
def leaky_relu_derivative(x, p):
    return (tl.where(x > 0, 1.0, p[0]).to(x.dtype),)


@triton.jit
def leaky_relu_derivative_from_output(y, p):
    return leaky_relu_derivative(y, p)


@triton.jit
def _logistic(x):
    """(h, s): h = exp(-|x| / 2) and s = 1 / (1 + h^2), the logistic function of |x|; of -|x| it is h^2 s.

    Half of the exponent keeps h a normal number wherever x times the logistic function is one.
    """
    h = _exp(_at_least(tl.abs(x) * -0.5, -400.0 if x.dtype == tl.float64 else -60.0))
    return h, 1.0 / (1.0 + h * h)


@triton.jit
def sigmoid(x, p):
    h, s = _logistic(x)
    return tl.where(x < 0, s * h * h, s)


@triton.jit
def sigmoid_derivative(x, p):
    h, s = _logistic(x)
    return (s * h * (s * h),)


@triton.jit
def sigmoid_derivative_from_output(y, p):
    return (y * (1 - y),)


@triton.jit
def tanh(x, p):
    if x.dtype == tl.float64:
        return _tanh_float64(x)
    a = tl.abs(x)
    power = _exp(_at_most(2 * a, 30.0))
    large = 1 - 2 / (power + 1)
    square = x * x
    series = tl.fma(square, -0.0056827990, 0.020780480)
    series = tl.fma(series, square, -0.053750125)
    series = tl.fma(series, square, 0.13331423)
    series = tl.fma(series, square, -0.33333298)
    small = tl.fma(series * square, x, x)
    return tl.where(a < 0.6, small, tl.where(x < 0, -large, large))


@triton.jit
def _tanh_float64(x):
    if _INTERPRET:
        return 2 * tl.sigmoid(2 * x) - 1
    else:
        return libdevice.tanh(x)


@triton.jit
def tanh_derivative(x, p):
    h, s = _logistic(2 * x)
    return (4 * (s * h) * (s * h),)


@triton.jit
def tanh_derivative_from_output(y, p):
    return (1 - y * y,)


@triton.jit
def silu(x, p):
    h, s = _logistic(x)
    bounded = _at_least(x, -800.0 if x.dtype == tl.float64 else -120.0)
    return tl.where(x < 0, bounded * h * s * h, x * s)


@triton.jit
def silu_derivative(x, p):
    h, s = _logistic(x)
    slope = s * h * (s * h)
    bounded = _at_most(_at_least(x, -800.0), 800.0)
    return (tl.fma(bounded, slope, tl.where(x < 0, s * h * h, s)),)


@triton.jit
def _gaussian(x):
    """(a, r, e): a = |x| bounded, e = exp(-a^2 / 2) and r = erfc(a / sqrt 2) / (2 e), so that erfc(a / sqrt 2) / 2 = r e.

    r is a polynomial in (a - 2) / (a + 2), within 2^-25 of the exact value on 0 <= a <= 15.
    """
    if x.dtype == tl.float64:
        return _gaussian_float64(x)
    a = _at_most(tl.abs(x), 15.0)
    u = 1 - 4 / (a + 2)
    r = tl.fma(u, 0.0, 0.0)
    square = a * a
    t = square * (-0.5 * _LOG2_E)
    left = tl.fma(t, -_LN_2, square * -0.5) - 0.5 * tl.fma(a, a, -square)
    power = tl.exp2(t)
    return a, r, tl.fma(power, left, power)


@triton.jit
def _gaussian_float64(x):
    a = _at_most(tl.abs(x), 40.0)
    if _INTERPRET:
        tail = 0.5 - 0.5 * tl.erf(a * _constant(a, _SQRT_HALF))
    else:
        tail = 0.5 * libdevice.erfc(a * _constant(a, _SQRT_HALF))
    return a, tail, tl.exp(a * a * -0.5)


@triton.jit
def gelu(x, p):
    a, r, e = _gaussian(x)
    if x.dtype == tl.float64:
        return tl.fma(-a, r, _at_least(x, 0.0))
    return tl.fma(-(a * r), e, _at_least(x, 0.0))


@triton.jit
def gelu_derivative(x, p):
    a, r, e = _gaussian(x)
    if x.dtype == tl.float64:
        below = r - a * _constant(a, _INVERSE_SQRT_2_PI) * e
    else:
        below = tl.fma(a, -_INVERSE_SQRT_2_PI, r) * e
    return (tl.where(x > 0, 1 - below, below),)


@triton.jit
def _gelu_tanh_argument(x):
    return x * (x * x * _constant(x, _GELU_CUBIC) + _constant(x, _GELU_LINEAR))


@triton.jit
def gelu_tanh(x, p):
    bounded = _at_least(x, -16.0)
    h, s = _logistic(_gelu_tanh_argument(_at_most(bounded, 16.0)))
    return tl.where(x < 0, bounded * h * s * h, x * s)


@triton.jit
def gelu_tanh_derivative(x, p):
    bounded = _at_most(_at_least(x, -16.0), 16.0)
    h, s = _logistic(_gelu_tanh_argument(bounded))
    slope = bounded * (bounded * bounded * _constant(x, 3 * _GELU_CUBIC) + _constant(x, _GELU_LINEAR))
    return (tl.fma(slope, s * h * (s * h), tl.where(x < 0, s * h * h, s)),)


@triton.jit
def prelu(x, p):
    return tl.where(x > 0, x, x * p[0])


@triton.jit
def prelu_derivative(x, p):
    return tl.where(x > 0, 1.0, p[0]).to(x.dtype), tl.where(x > 0, 0.0, x)
