"""Sines of all arguments in float32 and float64, and what half types can do with; conventions in math.py."""
from __future__ import annotations

import triton
import triton.language as tl

from .math import HALF_PI, ROUND, polynomial

_INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)
_SINE = tl.constexpr((2.5931303753168322e-06, -1.9803960458375514e-04, 8.3329910412430763e-03, -1.6666656732559204e-01))
_COSINE = tl.constexpr((-2.6102154038198933e-07, 2.4764927729847841e-05, -1.3888505054637790e-03, 4.1666653007268906e-02))
# sin r = r + r^3 S(r^2) within 2^-26 relative, cos r = 1 - r^2 / 2 + r^4 C(r^2) within 2^-30, for |r| <= 1.63
_SINE_HALF = tl.constexpr((-1.8443e-04, 8.31119e-03, -1.6665645e-01))
_COSINE_HALF = tl.constexpr((2.3075006e-05, -1.38507911e-03, 4.16633362e-02, -4.99999093e-01))
# sin r = r + r^3 S(r^2) within 2^-19 relative, cos r = 1 + r^2 C(r^2) within 2^-23, for |r| <= 1.63
_SINE_SQUARED = tl.constexpr((
    8.4035377767577302e-08, -4.2558976929285564e-06, 1.4109259063843638e-04, -3.1746416352689266e-03, 4.4444482773542404e-02,
    -3.3333334326744080e-01,
))  # U of sin(r)^2 = q + q^2 U(q), q = r^2, within 2^-29 relative for |r| <= 1.6
_PI = tl.constexpr(3.1415927410125732)
_PI_REST = tl.constexpr(-8.742277657347586e-08)
_PI_REST_OF_REST = tl.constexpr(-3.4302490200117637e-15)
_INVERSE_PI = tl.constexpr(0.3183098861837907)
_HALF_PI_REST = tl.constexpr(-4.371138828673793e-08)
_NEAR_PAIR = tl.constexpr(262144.0)  # up to here half a unit is too small to bring a remainder out of its range
_KNOWN_PAIR = tl.constexpr(1099511627776.0)  # 2^40; half a unit of it is 2^16
_MODERATE = tl.constexpr(4194304.0)  # up to here x / pi, rounded, is an integer that float32 holds together with its fraction
_INVERSE_PI_0 = tl.constexpr(0x517CC1B727220A94)  # the first 256 bits of 1 / pi after the point
_INVERSE_PI_1 = tl.constexpr(0xFE13ABE8FA9A6EE0)
_INVERSE_PI_2 = tl.constexpr(0x6DB14ACC9E21C820)
_INVERSE_PI_3 = tl.constexpr(0xFF28B1D5EF5DE2B0)


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
def _beyond_moderate(x, square, BITS: tl.constexpr = 0x4A800000):
    """Whether any element is beyond 2^22, NaN too: squares are looked at where there are some, which spares the sign."""
    if square is None:
        return tl.max(tl.reshape(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, (x.numel,))) > BITS
    else:
        return tl.max(tl.reshape(square.to(tl.int32, bitcast=True), (x.numel,))) > 0x55800000


@triton.jit
def _reduce(
    x, SHIFTED: tl.constexpr, square=None, PARTS: tl.constexpr = 3, AT_INFINITY: tl.constexpr = float("nan"),
):
    """(parity, r): x, plus pi / 2 if SHIFTED, is n pi + r with |r| <= 1.63; the last bit of parity is that of n.

    Up to 2^22 by subtracting n times three parts of pi, or two, which leave out 2^-28; where a tile holds a larger number, its
    elements take the other path too. r is AT_INFINITY for infinities, and NaN where that is NaN.
    """
    if SHIFTED:
        t = tl.fma(x, _INVERSE_PI, 0.5) + ROUND
        n = (t - ROUND) - 0.5
    else:
        t = tl.fma(x, _INVERSE_PI, ROUND)
        n = t - ROUND
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
    return parity, r


@triton.jit
def _reduce_pair(x, low):
    """(parity, r, rest): x + low is n pi + r + rest as in _reduce, low being what the rounding to x left out; |rest| <= 2^-6.

    Beyond 2^18 x and low are reduced each for itself, and then their sum; beyond 2^40 low is left out. r is NaN at infinity.
    """
    t = tl.fma(x, _INVERSE_PI, ROUND)
    n = t - ROUND
    r = tl.fma(n, -_PI_REST_OF_REST, tl.fma(n, -_PI_REST, tl.fma(n, -_PI, x)))
    parity = t.to(tl.int32, bitcast=True)
    if _beyond_moderate(x, None, 0x48800000):
        far = tl.abs(x) > _NEAR_PAIR
        other_parity, other = _reduce_huge(x, False)
        t = tl.fma(low, _INVERSE_PI, ROUND)
        n = t - ROUND
        other += tl.where(tl.abs(x) < _KNOWN_PAIR, tl.fma(n, -_PI_REST, tl.fma(n, -_PI, low)), 0.0)
        again = tl.fma(other, _INVERSE_PI, ROUND)
        n = again - ROUND
        other = tl.fma(n, -_PI_REST, tl.fma(n, -_PI, other))
        parity = tl.where(far, other_parity + t.to(tl.int32, bitcast=True) + again.to(tl.int32, bitcast=True), parity)
        r = tl.where(far, other, r)
        r = tl.where(tl.abs(x) < float("inf"), r, float("nan"))
        low = tl.where(far, 0.0, low)
    return parity, r, low


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
        parity, r = _reduce(x, False)
        return signed(_sine(r), parity)


@triton.jit
def cos(x):
    """cos(x) for every x."""
    if x.dtype == tl.float64 or _INTERPRET:
        return tl.cos(x)
    else:
        parity, r = _reduce(x, True)
        return signed(_sine(r), parity)


@triton.jit
def sin_cos(x):
    """(sin, cos) for every x."""
    if x.dtype == tl.float64 or _INTERPRET:
        return tl.sin(x), tl.cos(x)
    else:
        parity, r = _reduce(x, False)
        return signed(_sine(r), parity), signed(_cosine(r), parity)


@triton.jit
def sin_cos_of_pair(x, low):
    """(sin, cos) of x + low for every x, low being what the rounding to x left out."""
    if x.dtype == tl.float64 or _INTERPRET:
        return tl.sin(x + low), tl.cos(x + low)
    else:
        parity, r, rest = _reduce_pair(x, low)
        angle = r + rest
        rest = (r - angle) + rest
        sine, cosine = _sine(angle), _cosine(angle)
        return signed(tl.fma(cosine, rest, sine), parity), signed(tl.fma(-sine, rest, cosine), parity)


@triton.jit
def half_sin_cos(r):
    """(sin, cos) for derivatives in half types, within 2^-19 for |r| <= 1.63."""
    if _INTERPRET:
        return tl.sin(r), tl.cos(r)
    else:
        square = r * r
        sine = tl.fma(polynomial(square, _SINE_HALF, 2) * square, r, r)
        return sine, tl.fma(polynomial(square, _COSINE_HALF, 3), square, 1.0)


@triton.jit
def half_phase(x, square):
    """(parity, r) of x for half_sin_cos, see _reduce; r is 0 at infinity. square is that of x."""
    if _INTERPRET:
        return tl.zeros_like(x).to(tl.int32), tl.where(tl.abs(x) == float("inf"), 0.0, x)
    else:
        return _reduce(x, False, square, 2, 0.0)


@triton.jit
def half_phase_of_product(a, x, AT_INFINITY: tl.constexpr):
    """r of a x = n pi + r for x of a half type, see _reduce: the upper 12 bits of a times x are exact."""
    if _INTERPRET:
        y = a * x
        return tl.where(tl.abs(y) < float("inf"), y, tl.where(tl.abs(x) < float("inf"), 0.0, tl.where(x == x, AT_INFINITY, x)))
    else:
        high = (a.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
        y = high * x
        n = tl.fma(x, tl.broadcast_to(a * _INVERSE_PI, x.shape), ROUND) - ROUND
        r = tl.fma(n, -_PI_REST, tl.fma(tl.broadcast_to(a - high, x.shape), x, tl.fma(n, -_PI, y)))
        if _beyond_moderate(y, None):
            _, other = _reduce_huge(a * x, False)
            r = tl.where(tl.abs(y) > _MODERATE, other, r)
            r = tl.where(tl.abs(a * x) < float("inf"), r, 0.0)  # whatever the phase of a product that overflows
            r = tl.where(tl.abs(x) < float("inf"), r, tl.where(x == x, AT_INFINITY, x))
        return r


@triton.jit
def sin_squared_of_pair(x, low):
    """(square, rest): sin(x + low)^2 is square + rest for every x, low being what the rounding to x left out.

    From q + q^2 U(q), q = r^2, and what rounding takes from q; beyond pi / 4 it is 1 - cos^2.
    """
    if x.dtype == tl.float64 or _INTERPRET:
        sine = tl.sin(x + low)
        return sine * sine, tl.zeros_like(x)
    else:
        _, r, rest = _reduce_pair(x, low)
        a = tl.abs(r)
        rest = tl.where(r < 0, -rest, rest)
        large = a > 0.5 * HALF_PI
        near = tl.where(large, HALF_PI - a, a)
        rest = tl.where(large, _HALF_PI_REST - rest, rest)
        q = near * near
        q_rest = tl.fma(near + near, rest, tl.fma(near, near, -q))
        rest = tl.fma(polynomial(q, _SINE_SQUARED, 5) * q, q, q_rest * tl.fma(q, -2 / 3, 1.0))
        square = 1 - q
        return tl.where(large, square, q), tl.where(large, ((1 - square) - q) - rest, rest)


@triton.jit
def sin_squared_near(r):
    """sin(r)^2 for |r| <= 1.6; interpreted for every r, which nothing has brought nearer to 0 then."""
    if _INTERPRET:
        sine = tl.sin(r)
        return sine * sine
    else:
        square = r * r
        return tl.fma(polynomial(square, _SINE_SQUARED, 5) * square, square, square)
