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
_TINY = tl.constexpr(2.0**-31)
_FAR = tl.constexpr(800.0)  # where every logistic gate is 0 or 1 in float64 too
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_GAUSSIAN_TAIL = tl.constexpr((
    -7.917700713733211e-05, 2.6673118554754183e-05, 7.26799073163e-04, 8.892506011761725e-04, -1.8911991501227021e-03,
    -6.753652356564999e-03, -4.832387785427272e-04, 3.672191500663757e-02, 2.8798408806324005e-02, -3.3140456676483154e-01,
    6.724079847335815e-01,
))  # see _gaussian
_INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)
_TANH = tl.constexpr((
    -5.830313079059124e-03, 2.074495144188404e-02, -5.3770240396261215e-02, 1.3331784307956696e-01, -3.3333292603492737e-01,
))  # P of tanh x = x + x^3 P(x^2), within 2^-28 relative for |x| < 0.61
_GELU_LINEAR = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_GELU_LINEAR_REST = tl.constexpr(-4.534068032135963e-08)  # what rounding to float32 leaves of it
_GELU_CUBIC = tl.constexpr(0.07135481627260025)  # 0.044715 times that
_GELU_CUBIC_REST = tl.constexpr(2.3988323966106506e-09)
_GELU_FAR = tl.constexpr(22.0)  # where 2 u > 750


@triton.jit
def _constant(x, value: tl.constexpr):
    """A number in x's dtype: a bare literal is rounded to float32."""
    return tl.full((), value, x.dtype)


@triton.jit
def _polynomial(x, coefficients: tl.constexpr, DEGREE: tl.constexpr):
    """Horner's rule, the highest power first."""
    value = tl.full(x.shape, coefficients[0], x.dtype)
    for k in tl.static_range(1, DEGREE + 1):
        value = tl.fma(value, x, coefficients[k])
    return value


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
def _exp_negative(a, rest):
    """2^31 exp(-(a + rest)) for finite a >= 0 and a tiny rest, float32: the factor keeps it a normal number up to a = 108.

    2^t with t = 31 - a log2(e) rounded, times 1 + what the rounding has left of a: t - 31 and back is exact.
    """
    shifted = tl.fma(a, -_LOG2_E, 31.0) - 31.0
    power = tl.exp2(shifted + 31.0)
    return tl.fma(power, tl.fma(shifted, -_LN_2, -a) - rest, power)


@triton.jit
def _logistic(x):
    """(n, s): the logistic function of |x| is s, and of -|x| it is n s 2^-31 (float64: n s)."""
    if x.dtype == tl.float64:
        n = tl.exp(-tl.abs(x))
        return n, 1.0 / (1.0 + n)
    n = _exp_negative(_at_most(tl.abs(x), _FAR), 0.0)
    return n, 1.0 / tl.fma(n, _TINY, 1.0)


@triton.jit
def _gate(value, x, n, s):
    """value times the logistic function of x, from _logistic(x); value must be finite where x is negative."""
    tiny = _constant(x, 1.0 if x.dtype == tl.float64 else _TINY)
    return tl.where(x < 0, value * n, value) * tl.where(x < 0, s * tiny, s)


@triton.jit
def _gate_slope(n, s):
    """Derivative of the logistic function, from _logistic(x)."""
    return n * s * s * _constant(s, 1.0 if s.dtype == tl.float64 else _TINY)


@triton.jit
def sigmoid(x, p):
    n, s = _logistic(x)
    return _gate(1.0, x, n, s)


@triton.jit
def sigmoid_derivative(x, p):
    n, s = _logistic(x)
    return (_gate_slope(n, s),)


@triton.jit
def sigmoid_derivative_from_output(y, p):
    return (y * (1 - y),)


@triton.jit
def tanh(x, p):
    """x + x^3 P(x^2) below 0.6, else 1 - 2 / (exp(2 |x|) + 1)."""
    if x.dtype == tl.float64:
        return _tanh_float64(x)
    a = tl.abs(x)
    n = _exp_negative(_at_most(2 * a, 30.0), 0.0)
    large = 1 - 2 * n / (n + 1 / _TINY)
    square = x * x
    small = tl.fma(_polynomial(square, _TANH, 4) * square, x, x)
    return tl.where(a < 0.6, small, tl.where(x < 0, -large, large))


@triton.jit
def _tanh_float64(x):
    if _INTERPRET:
        return 2 * tl.sigmoid(2 * x) - 1
    else:
        return libdevice.tanh(x)


@triton.jit
def tanh_derivative(x, p):
    n, s = _logistic(2 * x)
    return (4 * _gate_slope(n, s),)


@triton.jit
def tanh_derivative_from_output(y, p):
    return (1 - y * y,)


@triton.jit
def silu(x, p):
    n, s = _logistic(x)
    return _gate(_at_least(x, -_FAR), x, n, s)


@triton.jit
def silu_derivative(x, p):
    n, s = _logistic(x)
    return (_gate(1.0, x, n, s) + _at_most(_at_least(x, -_FAR), _FAR) * _gate_slope(n, s),)


@triton.jit
def _gaussian(x):
    """(a, r, e): a = |x|, and erfc(a / sqrt 2) / 2 = r e 2^-31 with e = 2^31 exp(-a^2 / 2); in float64 it is r, and e = 2^31.

    float32: (a + 2) r is a polynomial of degree ten in (a - 2) / (a + 2), within 2^-25 relative on 0 <= a <= 15, beyond which
    the product is 0. The exponent carries what the rounding of a^2 leaves.
    """
    if x.dtype == tl.float64:
        return _gaussian_float64(x)
    a = _at_most(tl.abs(x), 15.0)
    inverse = 1 / (a + 2)
    r = inverse * _polynomial(tl.fma(inverse, -4.0, 1.0), _GAUSSIAN_TAIL, 10)
    half = a * 0.5
    square = half * a
    return a, r, _exp_negative(square, tl.fma(half, a, -square))


@triton.jit
def _gaussian_float64(x):
    a = _at_most(tl.abs(x), 40.0)
    if _INTERPRET:
        tail = 0.5 - 0.5 * tl.erf(a * _constant(a, _SQRT_HALF))
    else:
        tail = 0.5 * libdevice.erfc(a * _constant(a, _SQRT_HALF))
    return a, tail, _constant(x, 1 / _TINY)


@triton.jit
def gelu(x, p):
    a, r, e = _gaussian(x)
    return tl.fma(-(a * r * e), _constant(x, _TINY) + tl.zeros_like(a), _at_least(x, 0.0))


@triton.jit
def gelu_derivative(x, p):
    a, r, e = _gaussian(x)
    if x.dtype == tl.float64:
        below = r - a * _constant(a, _INVERSE_SQRT_2_PI) * tl.exp(a * a * -0.5)
    else:
        below = tl.fma(a, -_INVERSE_SQRT_2_PI, r) * e * _TINY
    return (tl.where(x > 0, 1 - below, below),)


@triton.jit
def _gelu_tanh_argument(a):
    """(v, rest): v + rest = 2 sqrt(2 / pi) (a + 0.044715 a^3), rest what the roundings leave: v is an exponent."""
    if a.dtype == tl.float64:
        return a * (a * a * _constant(a, _GELU_CUBIC) + _constant(a, _GELU_LINEAR)), 0.0
    square = a * a
    cubic = square * _GELU_CUBIC
    factor = cubic + _GELU_LINEAR
    rest = tl.fma(square, _GELU_CUBIC, -cubic) + tl.fma(tl.fma(a, a, -square), _GELU_CUBIC, _GELU_LINEAR - (factor - cubic))
    rest = tl.fma(square, _GELU_CUBIC_REST, rest) + _GELU_LINEAR_REST
    value = a * factor
    return value, tl.fma(a, rest, tl.fma(a, factor, -value))


@triton.jit
def _gelu_tanh_logistic(x):
    """_logistic(2 u)."""
    value, rest = _gelu_tanh_argument(_at_most(tl.abs(x), _GELU_FAR))
    if x.dtype == tl.float64:
        return _logistic(value)
    n = _exp_negative(value, rest)
    return n, 1.0 / tl.fma(n, _TINY, 1.0)


@triton.jit
def gelu_tanh(x, p):
    n, s = _gelu_tanh_logistic(x)
    return _gate(_at_least(x, -_FAR), x, n, s)


@triton.jit
def gelu_tanh_derivative(x, p):
    n, s = _gelu_tanh_logistic(x)
    bounded = _at_most(_at_least(x, -_FAR), _FAR)
    slope = bounded * (bounded * bounded * _constant(x, 3 * _GELU_CUBIC) + _constant(x, _GELU_LINEAR))
    return (_gate(1.0, x, n, s) + slope * _gate_slope(n, s),)


@triton.jit
def prelu(x, p):
    return tl.where(x > 0, x, x * p[0])


@triton.jit
def prelu_derivative(x, p):
    return tl.where(x > 0, 1.0, p[0]).to(x.dtype), tl.where(x > 0, 0.0, x)
