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
_LN_2_HIGH = tl.constexpr(0.693145751953125)  # its first 15 bits
_LN_2_LOW = tl.constexpr(1.4286068203094173e-06)
_TINY = tl.constexpr(2.0**-31)
_HUGE = tl.constexpr(2.0**31)
_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, which then stands in the last bits
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
_EXPM1 = tl.constexpr((
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
_SINE = tl.constexpr((2.5931303753168322e-06, -1.9803960458375514e-04, 8.3329910412430763e-03, -1.6666656732559204e-01))
_COSINE = tl.constexpr((-2.6102154038198933e-07, 2.4764927729847841e-05, -1.3888505054637790e-03, 4.1666653007268906e-02))
# sin r = r + r^3 S(r^2) within 2^-26 relative, cos r = 1 - r^2 / 2 + r^4 C(r^2) within 2^-30, for |r| <= 1.63
_SINE_HALF = tl.constexpr((-1.8443e-04, 8.31119e-03, -1.6665645e-01))
_COSINE_HALF = tl.constexpr((2.3075006e-05, -1.38507911e-03, 4.16633362e-02, -4.99999093e-01))
_TWICE_COSINE_HALF = tl.constexpr((4.6150012e-05, -2.77015822e-03, 8.33266724e-02, -9.99998186e-01))
# sin r = r + r^3 S(r^2) within 2^-19 relative, cos r = 1 + r^2 C(r^2) within 2^-23, for |r| <= 1.63
_SINE_SQUARED = tl.constexpr((
    8.4035377767577302e-08, -4.2558976929285564e-06, 1.4109259063843638e-04, -3.1746416352689266e-03, 4.4444482773542404e-02,
    -3.3333334326744080e-01,
))  # U of sin(r)^2 = q + q^2 U(q), q = r^2, within 2^-29 relative for |r| <= 1.6
_ARCTAN = tl.constexpr((
    2.9203195590525866e-03, -1.6364932060241699e-02, 4.3206214904785156e-02, -7.5517408549785614e-02, 1.0665788501501083e-01,
    -1.4211003482341766e-01, 1.9993767142295837e-01, -3.3333152532577515e-01,
))  # A of arctan t = t + t^3 A(t^2), within 2^-24 relative for |t| <= 1
_PI = tl.constexpr(3.1415927410125732)
_PI_REST = tl.constexpr(-8.742277657347586e-08)
_PI_REST_OF_REST = tl.constexpr(-3.4302490200117637e-15)
_INVERSE_PI = tl.constexpr(0.3183098861837907)
_HALF_PI = tl.constexpr(1.5707963267948966)
_MODERATE = tl.constexpr(4194304.0)  # up to here x / pi, rounded, is an integer that float32 holds together with its fraction
_INVERSE_PI_0 = tl.constexpr(0x517CC1B727220A94)  # the first 256 bits of 1 / pi after the point
_INVERSE_PI_1 = tl.constexpr(0xFE13ABE8FA9A6EE0)
_INVERSE_PI_2 = tl.constexpr(0x6DB14ACC9E21C820)
_INVERSE_PI_3 = tl.constexpr(0xFF28B1D5EF5DE2B0)


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
def exp(y, low):
    """exp(y + low) from 0 to infinity."""
    if y.dtype == tl.float64:
        return tl.exp(y)
    else:
        near = bounded(y, 110.0)
        t = near * LOG2_E
        shift = tl.where(near < -64.0, 31.0, tl.where(near > 64.0, -31.0, 0.0))
        power = tl.exp2(t + shift)
        return tl.fma(power, tl.fma(t, -LN_2, near) + low, power) * tl.where(
            near < -64.0, _TINY, tl.where(near > 64.0, _HUGE, 1.0))


@triton.jit
def logistic(y, excess):
    """(d, f): 1 / (1 + exp(y - excess)) is f / d, and both are normal numbers where the result is; excess must be tiny.

    f is 2^-31 for y above 64, where exp(y) may overflow, and else 1. float32: |y| at most 110.
    """
    if y.dtype == tl.float64:
        d = 1.0 + tl.exp(y)
        f = constant(y, 1.0) + tl.zeros_like(y)
    else:
        f = tl.where(y > 64.0, _TINY, 1.0)
        t = y * LOG2_E
        power = tl.exp2(t + tl.where(y > 64.0, -31.0, 0.0))
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
        t = tl.fma(near, LOG2_E, _ROUND)
        n = t - _ROUND
        r = tl.fma(n, -_LN_2_LOW, tl.fma(n, -_LN_2_HIGH, near) + low)
        q = tl.fma(polynomial(r, _EXPM1, 4) * r, r, r)
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
        f = tl.where(near, w, mantissa - 1)
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
    angle = tl.where(far, constant(x, _HALF_PI) - angle, angle)
    return tl.where(x < 0, -angle, angle)


@triton.jit
def _reduce_huge(x, SHIFTED: tl.constexpr):
    """(parity, r) as in _reduce for any finite float32 of 2^22 or more: 64 bits of the product of x's mantissa with a window of 1 / pi."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) & 0xFF) - 151  # |x| = mantissa 2^(exponent + 1)
    shift = tl.maximum(exponent, 0).to(tl.uint64)
    mantissa = ((bits & 0x7FFFFF) | 0x800000).to(tl.uint64)
    upper = shift >= 64
    first = tl.where(upper, tl.full((), _INVERSE_PI_1, tl.uint64), tl.full((), _INVERSE_PI_0, tl.uint64))
    second = tl.where(upper, tl.full((), _INVERSE_PI_2, tl.uint64), tl.full((), _INVERSE_PI_1, tl.uint64))
    third = tl.where(upper, tl.full((), _INVERSE_PI_3, tl.uint64), tl.full((), _INVERSE_PI_2, tl.uint64))
    left = shift & 63
    right = 63 - left
    high = ((first << left) | ((second >> 1) >> right)) >> tl.maximum(-exponent, 0).to(tl.uint64)
    rest = (second << left) | ((third >> 1) >> right)
    product = mantissa * high + ((mantissa * (rest >> 32)) >> 32)  # |x| / pi in units of 2^-63, without its even part
    product = tl.where((bits < 0), 0 - product, product) + (0x4000000000000000 if SHIFTED else 0)
    parity = ((product + 0x4000000000000000) >> 63).to(tl.int32)
    return parity, (product << 1).to(tl.int64).to(tl.float32) * (_PI * 2.0**-64)


@triton.jit
def _beyond_moderate(x, square):
    """Whether any element is beyond 2^22, NaN too: squares are looked at where there are some, which spares the sign."""
    if square is None:
        return tl.max(tl.reshape(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, (x.numel,))) > 0x4A800000
    else:
        return tl.max(tl.reshape(square.to(tl.int32, bitcast=True), (x.numel,))) > 0x55800000


@triton.jit
def _reduce(
    x, low, SHIFTED: tl.constexpr, square=None, PARTS: tl.constexpr = 3, AT_INFINITY: tl.constexpr = float("nan"),
):
    """(parity, r): x + low, plus pi / 2 if SHIFTED, is n pi + r with |r| <= 1.63; the last bit of parity is that of n. low may be None.

    Up to 2^22 by subtracting n times three parts of pi, or two, which leave out 2^-28; where a tile holds a larger number, its
    elements take the other path too. r is AT_INFINITY for infinities, and NaN where that is NaN.
    """
    if SHIFTED:
        t = tl.fma(x, _INVERSE_PI, 0.5) + _ROUND
        n = (t - _ROUND) - 0.5
    else:
        t = tl.fma(x, _INVERSE_PI, _ROUND)
        n = t - _ROUND
    r = tl.fma(n, -_PI_REST, tl.fma(n, -_PI, x))
    if PARTS == 3:
        r = tl.fma(n, -_PI_REST_OF_REST, r)
    parity = t.to(tl.int32, bitcast=True)
    if _beyond_moderate(x, square):
        other_parity, other = _reduce_huge(x, SHIFTED)
        huge = tl.abs(x) > _MODERATE
        parity = tl.where(huge, other_parity, parity)
        r = tl.where(huge, other, r)
        r = tl.where(tl.abs(x) < float("inf"), r, AT_INFINITY)
    if low is not None:
        r = r + low
    return parity, r


@triton.jit
def signed(value, parity):
    """value with its sign changed where parity is odd."""
    return (value.to(tl.int32, bitcast=True) ^ (parity << 31)).to(tl.float32, bitcast=True)


@triton.jit
def _sine(r):
    square = r * r
    return tl.fma(polynomial(square, _SINE, 3) * square, r, r)


@triton.jit
def _cosine(r):
    square = r * r
    return tl.fma(tl.fma(polynomial(square, _COSINE, 3), square, -0.5), square, 1.0)


@triton.jit
def sin(x):
    """sin(x) for every x."""
    if x.dtype == tl.float64 or _INTERPRET:
        return tl.sin(x)
    else:
        parity, r = _reduce(x, None, False)
        return signed(_sine(r), parity)


@triton.jit
def cos(x):
    """cos(x) for every x."""
    if x.dtype == tl.float64 or _INTERPRET:
        return tl.cos(x)
    else:
        parity, r = _reduce(x, None, True)
        return signed(_sine(r), parity)


@triton.jit
def sin_cos(x, low):
    """(sin, cos) of x + low for every x; low must be tiny."""
    if x.dtype == tl.float64 or _INTERPRET:
        return tl.sin(x + low), tl.cos(x + low)
    else:
        parity, r = _reduce(x, low, False)
        return signed(_sine(r), parity), signed(_cosine(r), parity)


@triton.jit
def half_sin_cos(r, TWICE: tl.constexpr):
    """(sin, cos) or, if TWICE, (sin, 2 cos) for derivatives in half types, within 2^-19 for |r| <= 1.63."""
    if _INTERPRET:
        return tl.sin(r), tl.cos(r) * (2.0 if TWICE else 1.0)
    else:
        square = r * r
        sine = tl.fma(polynomial(square, _SINE_HALF, 2) * square, r, r)
        if TWICE:
            return sine, tl.fma(polynomial(square, _TWICE_COSINE_HALF, 3), square, 2.0)
        else:
            return sine, tl.fma(polynomial(square, _COSINE_HALF, 3), square, 1.0)


@triton.jit
def half_phase(x, square):
    """(parity, r) of x for half_sin_cos, see _reduce; r is 0 at infinity. square is that of x."""
    if _INTERPRET:
        return tl.zeros_like(x).to(tl.int32), tl.where(tl.abs(x) == float("inf"), 0.0, x)
    else:
        return _reduce(x, None, False, square, 2, 0.0)


@triton.jit
def half_phase_of_product(a, x, AT_INFINITY: tl.constexpr):
    """r of a x = n pi + r for x of a half type, see _reduce: the upper 12 bits of a times x are exact."""
    if _INTERPRET:
        y = a * x
        return tl.where(tl.abs(y) == float("inf"), AT_INFINITY, y)
    else:
        high = (a.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
        y = high * x
        n = tl.fma(x, tl.broadcast_to(a * _INVERSE_PI, x.shape), _ROUND) - _ROUND
        r = tl.fma(n, -_PI_REST, tl.fma(tl.broadcast_to(a - high, x.shape), x, tl.fma(n, -_PI, y)))
        if _beyond_moderate(y, None):
            _, other = _reduce_huge(a * x, False)
            r = tl.where(tl.abs(y) > _MODERATE, other, r)
            r = tl.where(tl.abs(a * x) < float("inf"), r, tl.where(y == y, AT_INFINITY, y))
        return r


@triton.jit
def sin_squared(x, low):
    """sin(x + low)^2 for every x; low must be tiny. Beyond pi / 4 it is 1 - cos^2, a unit more exact."""
    if x.dtype == tl.float64 or _INTERPRET:
        sine = tl.sin(x + low)
        return sine * sine
    else:
        _, r = _reduce(x, low, False)
        large = tl.abs(r) > 0.5 * _HALF_PI
        square = sin_squared_near(tl.where(large, _HALF_PI - tl.abs(r), r))
        return tl.where(large, 1 - square, square)


@triton.jit
def sin_squared_near(r):
    """sin(r)^2 for |r| <= 1.6."""
    square = r * r
    return tl.fma(polynomial(square, _SINE_SQUARED, 5) * square, square, square)
