"""Elementary functions of activations, in float32 and float64: exact where an activation has to be, cheap where it may be.

x is a tensor of either type; y a tensor that was rounded, ``low`` what its rounding left out: exp(y + low) is meant. Functions are free
of local memory and of anything that a compiler may approximate in its own way, and keep NaN unless they say otherwise.
"""
from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.target_info import is_cuda

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FAR = tl.constexpr(110.0)  # where the logistic function of -x, times x, is 0
FAR_FLOAT64 = tl.constexpr(800.0)
NEAR = tl.constexpr(1000.0)  # products beyond it need no low part
_INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)
LN_2_HIGH = tl.constexpr(0.693145751953125)  # its first 15 bits
LN_2_LOW = tl.constexpr(1.4286068203094173e-06)
_TINY = tl.constexpr(2.0**-31)
_HUGE = tl.constexpr(2.0**31)
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, which then stands in the last bits
_TANH = tl.constexpr((
    -5.830313079059124e-03, 2.074495144188404e-02, -5.3770240396261215e-02, 1.3331784307956696e-01, -3.3333292603492737e-01,
))  # P of tanh x = x + x^3 P(x^2), within 2^-28 relative for |x| < 0.61
_TANHSHRINK = tl.constexpr((
    -2.0831597794312984e-04, 1.1583836749196053e-03, -3.5391740966588259e-03, 8.9325681328773499e-03, -2.1915404126048088e-02,
    5.3978566080331802e-02, -1.3333413004875183e-01, 3.3333334326744080e-01,
))  # P of x - tanh x = x^3 P(x^2), within 2^-25 relative for |x| <= 1
_TANHSHRINK_SERIES = tl.constexpr((
    929569 / 638512875, -21844 / 6081075, 1382 / 155925, -62 / 2835, 17 / 315, -2 / 15, 1 / 3,
))  # x - tanh x in powers of x, from x^15 down to x^3
EXPM1 = tl.constexpr((
    1.3841916806995869e-03, 8.3677005022764206e-03, 4.1667714715003967e-02, 1.6666534543037415e-01, 4.9999997019767761e-01,
))  # R of exp(r) = 1 + r + r^2 R(r), within 2^-26 of exp(r) - 1 for |r| <= 0.35
_LOG1P = tl.constexpr((
    -3.2904685940593481e-03, 2.0086241886019707e-02, -5.7457230985164642e-02, 1.0661128163337708e-01, -1.5344880521297455e-01,
    1.9692102074623108e-01, -2.4958018958568573e-01, 3.3330464363098145e-01, -4.9999931454658508e-01,
))  # Q of log(1 + e) = e + e^2 Q(e), within 2^-27 relative for 0 <= e <= 1
_LOG1P_HALF = tl.constexpr((
    -8.7760621681809425e-03, 4.4977400451898575e-02, -1.0901144891977310e-01, 1.7846515774726868e-01, -2.4536657333374023e-01,
    3.3284035325050354e-01, -4.9998179078102112e-01,
))  # the same within 2^-22
_LOGARITHM = tl.constexpr((
    -4.5617487281560898e-02, 1.0573947429656982e-01, -1.3211199641227722e-01, 1.4475622773170471e-01, -1.6642579436302185e-01,
    1.9990397989749908e-01, -2.5000193715095520e-01, 3.3333462476730347e-01, -5.0000000000000000e-01,
))  # Q of log(1 + w) = w + w^2 Q(w), within 2^-24 relative for -0.25 <= w <= 0.5
_ARCTAN = tl.constexpr((
    2.9203195590525866e-03, -1.6364932060241699e-02, 4.3206214904785156e-02, -7.5517408549785614e-02, 1.0665788501501083e-01,
    -1.4211003482341766e-01, 1.9993767142295837e-01, -3.3333152532577515e-01,
))  # A of arctan t = t + t^3 A(t^2), within 2^-24 relative for |t| <= 1
HALF_PI = tl.constexpr(1.5707963267948966)


@triton.jit
def constant(x, value: tl.constexpr):
    """A number in x's dtype: a bare literal is rounded to float32."""
    return tl.full((), value, x.dtype)


@triton.jit
def polynomial(x, coefficients: tl.constexpr, DEGREE: tl.constexpr):
    """Horner's rule, the highest power first."""
    value = tl.full(x.shape, coefficients[0], x.dtype)
    for k in tl.static_range(1, DEGREE + 1):
        value = tl.fma(value, x, coefficients[k])
    return value


@triton.jit
def at_most(x, bound: tl.constexpr):
    """min(x, bound) that keeps NaN."""
    return tl.minimum(x, tl.full(x.shape, bound, x.dtype), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def at_least(x, bound: tl.constexpr):
    """max(x, bound) that keeps NaN."""
    return tl.maximum(x, tl.full(x.shape, bound, x.dtype), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def bounded(x, bound: tl.constexpr):
    """x between -bound and bound; keeps NaN."""
    return at_most(at_least(x, -bound), bound)


@triton.jit
def smaller(x, y):
    """min(x, y) that keeps NaN."""
    return tl.minimum(x, tl.broadcast_to(y, x.shape), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def larger(x, y):
    """max(x, y) that keeps NaN."""
    return tl.maximum(x, tl.broadcast_to(y, x.shape), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exact_sum(a, b):
    """(sum, rest): a + b is sum + rest."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@triton.jit
def rounding_of_product(a, x, y):
    """a x - y, what rounding to y = a x left out; 0 in float64, where nothing is amplified enough to matter."""
    if x.dtype == tl.float64:
        return tl.zeros_like(y)
    else:
        return tl.fma(tl.broadcast_to(a, x.shape), x, -y)


@triton.jit
def fast_exp(x, factor: tl.constexpr):
    """exp(factor x) within 2^-23 (1 + |factor x|) relative: for derivatives, where it counts little once it is small."""
    return tl.exp2(x * (factor * LOG2_E)) if x.dtype == tl.float32 else tl.exp(x * factor)


@triton.jit
def fast_log2(x):
    """log2(x) of a float32 within 2^-22 absolute between 1/2 and 2, else relative: the hardware's own, which Triton has no name for."""
    if _INTERPRET or not is_cuda():
        return tl.log2(x)
    else:
        return tl.inline_asm_elementwise("lg2.approx.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def fast_reciprocal(x):
    """1 / x of a float32 within one unit: the hardware's own, which Triton has no name for."""
    if _INTERPRET or not is_cuda():
        return 1.0 / x
    else:
        return tl.inline_asm_elementwise("rcp.approx.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def scaled_exp(y, low):
    """(e, f): exp(y + low) is e f, and e is a normal number; low must be tiny.

    f is 2^-31 for y below -64, where the result may be too small for a normal number, and else 1. float32: -110 <= y <= 88.
    """
    if y.dtype == tl.float64:
        return tl.exp(y), tl.full(y.shape, 1.0, y.dtype)
    else:
        small = y < -64.0
        t = y * LOG2_E
        power = tl.exp2(t + tl.where(small, 31.0, 0.0))
        return tl.fma(power, tl.fma(t, -LN_2, y) + low, power), tl.where(small, _TINY, 1.0)


@triton.jit
def exp_scaled(y, low):
    """(e, f): exp(y + low), from 0 to infinity, is e f; where |y| > 64 f is a power of two that keeps e far from the ends."""
    if y.dtype == tl.float64:
        return tl.exp(y), constant(y, 1.0) + tl.zeros_like(y)
    else:
        near = bounded(y, 110.0)
        t = near * LOG2_E
        shift = tl.where(near < -64.0, 31.0, tl.where(near > 64.0, -31.0, 0.0))
        power = tl.exp2(t + shift)
        e = tl.fma(power, tl.fma(t, -LN_2, near) + low, power)
        return e, tl.where(near < -64.0, _TINY, tl.where(near > 64.0, _HUGE, 1.0))


@triton.jit
def exp(y, low):
    """exp(y + low) from 0 to infinity."""
    e, scale = exp_scaled(y, low)
    return e * scale


@triton.jit
def logistic(y, excess):
    """(d, f): 1 / (1 + exp(y - excess)) is f / d, and both are normal numbers where the result is; excess must be tiny.

    f is 2^-90 for y above 64, where exp(y) may overflow, and else 1. float32: |y| at most 150.
    """
    if y.dtype == tl.float64:
        d = 1.0 + tl.exp(y)
        f = constant(y, 1.0) + tl.zeros_like(y)
    else:
        f = tl.where(y > 64.0, 2.0**-90, 1.0)
        t = y * LOG2_E
        power = tl.exp2(t + tl.where(y > 64.0, -90.0, 0.0))
        d = tl.fma(power, tl.fma(t, -LN_2, y) - excess, power) + f
    return d, f


@triton.jit
def gate(x):
    """(s, n, x) for derivatives: the logistic functions of x and of -x, within 2^-22 absolute, s from 0 on, and x bounded."""
    near = at_most(at_least(x, -110.0 if x.dtype == tl.float32 else -800.0), 80.0 if x.dtype == tl.float32 else 700.0)
    e = fast_exp(near, 1.0)
    n = 1 / (1 + e)
    return e * n, n, near


@triton.jit
def half_gate(x):
    """The logistic function of x for values of half types: 1 / (1 + exp(-x)) without overflow, within 2^-149 absolute where it is tiny."""
    return 2.0**-40 / (2.0**-40 + tl.exp2(tl.fma(x, -LOG2_E, -40.0)))


@triton.jit
def expm1(y, low, NEGATIVE: tl.constexpr):
    """exp(y + low) - 1; NEGATIVE promises that y is not positive, or that the result will not be used where it is."""
    if y.dtype == tl.float64:
        e = tl.exp(y)
        ratio = (e - 1) / tl.where((e == 1) | (e == float("inf")), 1.0, tl.log(e))
        return tl.where(e == 1, y, tl.where(e == 0, -1.0, tl.where(e == float("inf"), e, ratio * y)))
    else:
        near = at_least(y, -87.0) if NEGATIVE else at_most(at_least(y, -87.0), 89.0)
        t = tl.fma(near, LOG2_E, ROUND)
        n = t - ROUND
        r = tl.fma(n, -LN_2_LOW, tl.fma(n, -LN_2_HIGH, near) + low)
        q = tl.fma(polynomial(r, EXPM1, 4) * r, r, r)
        exponent = t.to(tl.int32, bitcast=True) << 23
        if NEGATIVE:
            power = (exponent + (127 << 23)).to(tl.float32, bitcast=True)
            return tl.fma(q, power, power - 1)
        else:
            half_power = (exponent + (126 << 23)).to(tl.float32, bitcast=True)
            return 2 * tl.fma(q, half_power, half_power - 0.5)


@triton.jit
def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1."""
    if e.dtype == tl.float64:
        u = 1 + e
        return tl.where(u == 1, e, tl.log(u) * (e / tl.where(u == 1, 1.0, u - 1)))
    else:
        return tl.fma(polynomial(e, _LOG1P, 8) * e, e, e)


@triton.jit
def log1p_half(e):
    """log(1 + e) for 0 <= e <= 1, within 2^-22 relative."""
    return tl.fma(polynomial(e, _LOG1P_HALF, 6) * e, e, e)


@triton.jit
def log_near_one(u, w):
    """(log(1 + w), Q, near): u = (1 + w) / 2^32 and w, exact each where it counts; where near, log(1 + w) = w + w^2 Q.

    NaN where u is negative; w may be anything far from 0. float64: Q only where |w| < 0.01.
    """
    if u.dtype == tl.float64:
        near = tl.abs(w) < 0.01
        small = tl.where(near, w, 0.0)
        q = tl.full(w.shape, 0.0, w.dtype)
        for k in tl.static_range(9):
            q = q * small + constant(w, (-1.0 if k % 2 == 0 else 1.0) / (10 - k))
        logarithm = tl.log(u) + constant(u, 32 * 0.6931471805599453)
        return tl.where(near, tl.fma(small * q, small, small), logarithm), q, near
    else:
        bits = u.to(tl.int32, bitcast=True) - 0x3F400000  # 0.75: mantissas lie in [0.75, 1.5)
        k = (bits >> 23) + 32
        near = k == 0
        mantissa = ((bits & 0x7FFFFF) + 0x3F400000).to(tl.float32, bitcast=True)
        f = tl.where(near, w, tl.where((w < 0) & (w >= -0.5), tl.fma(w, 2.0, 1.0), mantissa - 1))  # w is closer than u there
        q = polynomial(f, _LOGARITHM, 8)
        logarithm = tl.fma(k.to(tl.float32), LN_2, tl.fma(q * f, f, f))
        edge = tl.where(u == 0, -float("inf"), tl.where(u == float("inf"), u, float("nan")))
        return tl.where((u > 0) & (u < float("inf")), logarithm, edge), q, near


@triton.jit
def tanh(x):
    """x + x^3 P(x^2) below 0.6, else 1 - 2 / (exp(2 |x|) + 1)."""
    if x.dtype == tl.float64:
        return _tanh_float64(x)
    else:
        a = tl.abs(x)
        large = 1 - _twice_logistic(a)
        square = x * x
        small = tl.fma(polynomial(square, _TANH, 4) * square, x, x)
        return tl.where(a < 0.6, small, tl.where(x < 0, -large, large))


@triton.jit
def _twice_logistic(a):
    """2 / (exp(2 a) + 1) for a >= 0."""
    double = at_most(2 * a, 30.0)
    t = double * LOG2_E
    power = tl.exp2(t)
    return 2 / (tl.fma(power, tl.fma(t, -LN_2, double), power) + 1)


@triton.jit
def _tanh_float64(x):
    if _INTERPRET:
        return 2 * tl.sigmoid(2 * x) - 1
    else:
        return libdevice.tanh(x)


@triton.jit
def x_minus_tanh(x):
    """x - tanh x, x^3 P(x^2) up to 1."""
    if x.dtype == tl.float64:
        square = x * x
        series = tl.full(x.shape, 0.0, x.dtype)
        for k in tl.static_range(7):
            series = series * square + constant(x, _TANHSHRINK_SERIES[k])
        return tl.where(tl.abs(x) < 0.1, series * square * x, x - _tanh_float64(x))
    else:
        a = tl.abs(x)
        square = x * x
        large = (a - 1) + _twice_logistic(a)
        small = polynomial(square, _TANHSHRINK, 7) * square * x
        return tl.where(a <= 1, small, tl.where(x < 0, -large, large))


@triton.jit
def arctan(x):
    """t + t^3 A(t^2) with t = 1 / |x| where |x| is above 1, taken from pi / 2."""
    a = tl.abs(x)
    far = a > 1
    if x.dtype == tl.float64:
        t = tl.where(far, 1 / a, a)
        for _ in tl.static_range(2):
            t = t / (1 + tl.sqrt(1 + t * t))
        square = t * t
        series = tl.full(x.shape, 0.0, x.dtype)
        for k in tl.static_range(12):
            series = series * square + constant(x, (1.0 if k % 2 == 0 else -1.0) / (25 - 2 * k))
        angle = 4 * tl.fma(series * square, t, t)
    else:
        t = tl.where(far, 1 / a, a)
        square = t * t
        angle = tl.fma(polynomial(square, _ARCTAN, 7) * square, t, t)
    angle = tl.where(far, constant(x, HALF_PI) - angle, angle)
    return tl.where(x < 0, -angle, angle)
