"""Every activation as a pair of Triton functions, picked up by a row's name of fastlayers/specs.py.

``{name}(x, p)`` is f, ``{name}_derivative(x, p)`` the tuple (df/dx, df/d parameter ...), and where backward may keep y instead of x
``{name}_derivative_from_output(y, p)`` is (df/dx,). Where x follows from y ``{name}_inverse(y, p)`` is x, finite where y is. x and y
are float32 or float64; p is the tuple of learnable parameters, as values that broadcast against x, then constants. At +-inf functions
give the limit; NaN stays NaN.
"""
from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

_INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)
_TINY = tl.constexpr(2.0**-31)
_FAR = tl.constexpr(110.0)  # where the logistic function of -x, times x, is 0
_FAR_FLOAT64 = tl.constexpr(800.0)
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_GAUSSIAN_TAIL = tl.constexpr((
    1.0129082511411980e-04, -3.1535997551530600e-05, -1.0846275836229324e-03, -4.0738446841714904e-05, 7.9803299158811570e-03,
    -5.3332205861806870e-03, -6.3823744654655460e-02, 2.5266194343566895e-01, -5.2496314048767090e-01, 7.3345363140106200e-01,
))  # (a + 3.125) erfc(a / sqrt 2) exp(a^2 / 2) / 2 in powers of (a - 3.125) / (a + 3.125), within 2^-26 relative for 0 <= a <= 15
_INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)
_TANH = tl.constexpr((
    -5.830313079059124e-03, 2.074495144188404e-02, -5.3770240396261215e-02, 1.3331784307956696e-01, -3.3333292603492737e-01,
))  # P of tanh x = x + x^3 P(x^2), within 2^-28 relative for |x| < 0.61
_GELU_LINEAR = tl.constexpr(1.5957691216057308)  # 2 sqrt(2 / pi)
_GELU_LINEAR_REST = tl.constexpr(-4.534068032135963e-08)  # what rounding to float32 leaves of it
_GELU_CUBIC = tl.constexpr(0.07135481627260025)  # 0.044715 times that
_GELU_CUBIC_REST = tl.constexpr(2.3988323966106506e-09)
_GELU_FAR = tl.constexpr(10.9)  # where 2 u = 109.8, see _FAR
_GELU_FAR_FLOAT64 = tl.constexpr(22.0)


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
def identity_inverse(y, p):
    return y


@triton.jit
def relu(x, p):
    return _at_least(x, 0.0)


@triton.jit
def relu_derivative(x, p):
    return (tl.where(x <= 0, 0.0, 1.0).to(x.dtype),)  # 1 at NaN, as torch has it


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
def leaky_relu_inverse(y, p):
    return tl.where(y > 0, y, y / p[0])


@triton.jit
def _fast_exp(x, factor: tl.constexpr):
    """exp(factor x) within 2^-23 (1 + |factor x|) relative: for derivatives, where it counts little once it is small."""
    return tl.exp2(x * (factor * _LOG2_E)) if x.dtype == tl.float32 else tl.exp(x * factor)


@triton.jit
def _bounded(x, bound: tl.constexpr):
    """x between -bound and bound; keeps NaN."""
    return _at_most(_at_least(x, -bound), bound)


@triton.jit
def _logistic(y, excess):
    """(d, f): 1 / (1 + exp(y - excess)) is f / d, and both are normal numbers where the result is; excess must be tiny.

    f is 2^-31 for y above 64, where exp(y) may overflow, and else 1. float32: |y| at most 110.
    """
    if y.dtype == tl.float64:
        d = 1.0 + tl.exp(y)
        f = _constant(y, 1.0) + tl.zeros_like(y)
    else:
        f = tl.where(y > 64.0, _TINY, 1.0)
        t = y * _LOG2_E
        power = tl.exp2(t + tl.where(y > 64.0, -31.0, 0.0))
        d = tl.fma(power, tl.fma(t, -_LN_2, y) - excess, power) + f
    return d, f


@triton.jit
def _gate(x):
    """(s, n, x) for derivatives: the logistic functions of x and of -x, within 2^-22 absolute, and x bounded where they are 0."""
    bounded = _bounded(x, 80.0 if x.dtype == tl.float32 else 700.0)
    e = _fast_exp(bounded, -1.0)
    s = 1 / (1 + e)
    return s, e * s, bounded


@triton.jit
def sigmoid(x, p):
    d, f = _logistic(-_bounded(x, _FAR if x.dtype == tl.float32 else _FAR_FLOAT64), 0.0)
    return f / d


@triton.jit
def sigmoid_derivative(x, p):
    s, n, _ = _gate(x)
    return (s * n,)


@triton.jit
def sigmoid_derivative_from_output(y, p):
    return (y * (1 - y),)


@triton.jit
def tanh(x, p):
    """x + x^3 P(x^2) below 0.6, else 1 - 2 / (exp(2 |x|) + 1)."""
    if x.dtype == tl.float64:
        return _tanh_float64(x)
    else:
        a = tl.abs(x)
        double = _at_most(2 * a, 30.0)
        t = double * _LOG2_E
        power = tl.exp2(t)
        large = 1 - 2 / (tl.fma(power, tl.fma(t, -_LN_2, double), power) + 1)
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
    s, n, _ = _gate(2 * x)
    return (4 * s * n,)


@triton.jit
def tanh_derivative_from_output(y, p):
    return (1 - y * y,)


@triton.jit
def silu(x, p):
    FAR: tl.constexpr = _FAR if x.dtype == tl.float32 else _FAR_FLOAT64
    finite = _at_least(x, -FAR)
    d, f = _logistic(-_at_most(finite, FAR), 0.0)
    return finite / d * f


@triton.jit
def silu_derivative(x, p):
    s, n, bounded = _gate(x)
    return (tl.fma(bounded * n, s, s),)


@triton.jit
def _gelu_float64(x):
    """(x / 2 + |x| / 2 - gelu(x)), which is |x| erfc(|x| / sqrt 2) / 2, and |x| bounded where it is 0."""
    a = _at_most(tl.abs(x), 40.0)
    if _INTERPRET:
        return a * (0.5 - 0.5 * tl.erf(a * _constant(a, _SQRT_HALF))), a
    else:
        return a * (0.5 * libdevice.erfc(a * _constant(a, _SQRT_HALF))), a


@triton.jit
def gelu(x, p):
    """max(x, 0) - a erfc(a / sqrt 2) / 2, a = |x|; erfc is exp(-a^2 / 2), as the square of 2^t, times a polynomial.

    The last step multiplies by 1 - what the roundings of a^2 and t have added to the exponent.
    """
    positive = _at_least(x, 0.0)
    if x.dtype == tl.float64:
        return positive - _gelu_float64(x)[0]
    else:
        a = _at_most(tl.abs(x), 15.0)
        share = a / (a + 3.125)
        half = a * 0.5
        square = half * a
        t = square * (-0.5 * _LOG2_E)
        power = tl.exp2(t)
        excess = tl.fma(t, 2 * _LN_2, square) + tl.fma(half, a, -square)
        product = share * _polynomial(tl.fma(share, 2.0, -1.0), _GAUSSIAN_TAIL, 9) * power * power
        return tl.fma(product, excess, positive - product)


@triton.jit
def gelu_derivative(x, p):
    """erfc(-x / sqrt 2) / 2 + x exp(-x^2 / 2) / sqrt(2 pi)."""
    if x.dtype == tl.float64:
        product, a = _gelu_float64(x)
        tail = tl.where(a > 0, product / a, 0.5)
        below = tail - a * _constant(a, _INVERSE_SQRT_2_PI) * tl.exp(a * a * -0.5)
    else:
        a = _at_most(tl.abs(x), 15.0)
        inverse = 1 / (a + 3.125)
        tail = inverse * _polynomial(tl.fma(inverse, -6.25, 1.0), _GAUSSIAN_TAIL, 9)
        below = tl.fma(a, -_INVERSE_SQRT_2_PI, tail) * _fast_exp(a * a, -0.5)
    return (tl.where(x > 0, 1 - below, below),)


@triton.jit
def _gelu_tanh_argument(x):
    """(y, excess): y - excess = -2 u = -2 sqrt(2 / pi) (x + 0.044715 x^3); excess is what the roundings add, for y is an exponent."""
    opposite = -x
    square = x * x
    if x.dtype == tl.float64:
        y = opposite * (square * _constant(x, _GELU_CUBIC) + _constant(x, _GELU_LINEAR))
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
    FAR: tl.constexpr = _GELU_FAR if x.dtype == tl.float32 else _GELU_FAR_FLOAT64
    finite = _at_least(x, -FAR)
    y, excess = _gelu_tanh_argument(_at_most(finite, FAR))
    d, f = _logistic(y, excess)
    return finite / d * f


@triton.jit
def gelu_tanh_derivative(x, p):
    bounded = _bounded(x, 10.0 if x.dtype == tl.float32 else 20.0)
    square = bounded * bounded
    linear = tl.full(x.shape, _GELU_LINEAR, x.dtype)
    s, n, _ = _gate(bounded * tl.fma(square, tl.full(x.shape, _GELU_CUBIC, x.dtype), linear))
    slope = bounded * tl.fma(square, tl.full(x.shape, 3 * _GELU_CUBIC, x.dtype), linear)
    return (tl.fma(slope * n, s, s),)


@triton.jit
def prelu(x, p):
    return tl.where(x > 0, x, x * p[0])


@triton.jit
def prelu_derivative(x, p):
    return tl.where(x > 0, 1.0, p[0]).to(x.dtype), tl.where(x > 0, 0.0, x)


@triton.jit
def prelu_inverse(y, p):
    return tl.where(y > 0, y, y / p[0])
