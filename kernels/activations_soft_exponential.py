"""The soft exponential and its derivatives in Triton; conventions in activations.py."""
from __future__ import annotations

import triton
import triton.language as tl

from . import math
from .math import EXPM1, LN_2, LN_2_HIGH, LN_2_LOW, LOG2_E, NEAR, ROUND

_SOFT_SERIES = tl.constexpr((
    4.4983316069528330e-14, 7.1692159985810778e-13, 1.0706029224547743e-11, 1.4911969277048643e-10, 1.9270852604185937e-09,
    2.2964432686654910e-08, 2.5052108385441718e-07, 2.4801587301587302e-06, 2.2045855379188714e-05, 1.7361111111111112e-04,
    1.1904761904761906e-03, 6.9444444444444441e-03, 3.3333333333333333e-02, 1.2500000000000000e-01, 3.3333333333333331e-01,
    5.0000000000000000e-01,
))  # (k + 1) / (k + 2)!, from k = 15 down
_LOGARITHM_HALF = tl.constexpr((0.154892276, -0.179100826, 0.199660057, -0.249703089, 0.333335438, -0.500001039))
# Q of log(1 + w) = w + w^2 Q(w), within 2^-18 relative for |w| <= 0.25
_EXPONENTIAL_HALF = tl.constexpr((0.00833333, 0.0417751505, 0.166667393, 0.499998309, 0.999999992))
# P of exp(v) = 1 + v P(v), within 2^-23 relative for |v| <= 0.25
_TO_ALPHA_HALF = tl.constexpr((0.00118703713, 0.00700929347, 0.0333362068, 0.124993994, 0.333333118, 0.500000081))
# G of (v - 1) exp(v) + 1 = v^2 G(v), within 2^-22 relative for |v| <= 0.5


@triton.jit
def _soft_logarithm(x, alpha):
    """(f, df/dx, df/dalpha) for alpha < 0: -log(1 + w) / alpha with w = -alpha (x + alpha).

    1 + w is taken from alpha x and the two parts of 1 - alpha^2, times 2^-32 lest it overflow. df/dalpha is
    1 / (1 + w) + (x + alpha)^2 h with h = (log(1 + w) - w / (1 + w)) / w^2, which is 1 / (1 + w) + Q near 0.
    """
    SCALE: tl.constexpr = 2.0**-32
    square = alpha * alpha
    offset = 1 - square
    rest = ((1 - offset) - square) - math.rounding_of_product(alpha, alpha, square)
    shift = x + alpha
    w = -alpha * shift
    u = tl.fma(x, tl.broadcast_to(-alpha * SCALE, x.shape), tl.broadcast_to(offset * SCALE, x.shape)) + rest * SCALE
    logarithm, q, near = math.log_near_one(u, w)
    inverse = SCALE / u
    outside = ((logarithm - 1 + inverse) / alpha) / alpha
    return -logarithm / alpha, inverse, tl.where(near, shift * shift * (inverse + q), outside) + inverse


@triton.jit
def _grown(x, v, low, rate):
    """(exp(v + low) - 1) / rate + rate for v = rate x in float32, exact in relative terms where it crosses zero, too.

    exp(v) is 2^n (1 + r + r^2 R), times 2^40 or 2^-40 far out; 2^n + rate^2 - 1 and 2^n r are added with what rounding takes from
    the sums. rate from 2 on is added last, for its square may be infinite.
    """
    near = math.at_most(math.at_least(v, -104.0), 110.0)
    t = tl.fma(near, LOG2_E, ROUND)
    n = t - ROUND
    upper = tl.fma(n, -LN_2_HIGH, near)
    lower = tl.fma(n, -LN_2_LOW, low)
    r = upper + lower
    tail = tl.fma(math.polynomial(r, EXPM1, 4) * r, r, (upper - r) + lower)
    shift = tl.where(near < -64.0, 40, tl.where(near > 64.0, -40, 0))
    power = ((t.to(tl.int32, bitcast=True) + (127 + shift)) << 23).to(tl.float32, bitcast=True)
    unit = tl.where(near < -64.0, 2.0**40, tl.where(near > 64.0, 2.0**-40, 1.0))
    small = tl.where(rate < 2.0, rate, 0.0)
    square = small * small
    offset, rest = math.exact_sum(square, tl.full(square.shape, -1.0, square.dtype))
    rest += math.rounding_of_product(small, small, square)
    whole, first = math.exact_sum(power, offset * unit)
    total, second = math.exact_sum(whole, power * r)
    total += tl.fma(power, tail, rest * unit) + (first + second)
    return tl.where(tl.abs(v) < 2.0**-26, x + rate, total / rate * (1 / unit) + tl.where(rate < 2.0, 0.0, rate))


@triton.jit
def _soft_exponential(x, alpha):
    """(f, df/dx, df/dalpha) for alpha >= 0: (exp(v) - 1) / alpha + alpha with v = alpha x, and x for alpha = 0.

    df/dalpha is 1 + x^2 g with g = ((v - 1) exp(v) + 1) / v^2, which is 1 / 2 at 0.
    """
    rate = tl.where(alpha > 0, alpha, 1.0).to(x.dtype)
    v = tl.where(alpha > 0, alpha * x, tl.where(x == x, 0.0, x))
    low = tl.where(tl.abs(v) < NEAR, math.rounding_of_product(alpha, x, v), 0.0)
    low = tl.where(alpha > 0, low, 0.0)
    scaled, scale = math.exp_scaled(v, low)
    slope = scaled * scale
    large = scale > 1  # slope may overflow before what it is divided in does
    e = tl.where(large, scaled, slope)
    grown = tl.where(large, scaled, math.expm1(v, low, False))
    unit = tl.where(large, scale, 1.0)
    small = tl.where(tl.abs(v) < 0.5, v, 0.0)
    g = tl.full(x.shape, 0.0, x.dtype)
    for k in tl.static_range(10 if x.dtype == tl.float32 else 16):
        g = tl.fma(g, small, math.constant(x, _SOFT_SERIES[(6 if x.dtype == tl.float32 else 0) + k]))
    finite = math.at_least(v, -1000.0)
    outside = (tl.fma(finite, e, -tl.where(grown < float("inf"), grown, 0.0)) / rate) / rate * unit
    to_alpha = 1 + tl.where(tl.abs(v) < 0.5, x * x * g, outside)
    value = _grown(x, v, low, rate) if x.dtype == tl.float32 else grown / rate * unit + alpha
    return tl.where(alpha > 0, value, x), slope, to_alpha


@triton.jit
def _half_logarithm(x, alpha):
    """_soft_logarithm for half types, from the hardware's logarithm and reciprocal; near 0 log(1 + w) is w + w^2 Q."""
    SCALE: tl.constexpr = 2.0**-32
    square = alpha * alpha
    offset = 1 - square
    rest = ((1 - offset) - square) - math.rounding_of_product(alpha, alpha, square)
    shift = x + alpha
    w = -alpha * shift
    near = tl.abs(w) < 0.25
    q = math.polynomial(w, _LOGARITHM_HALF, 5)
    u = tl.fma(x, tl.broadcast_to(-alpha * SCALE, x.shape), tl.broadcast_to(offset * SCALE, x.shape)) + rest * SCALE
    exponent = math.fast_log2(u)
    slope = math.fast_reciprocal(u) * SCALE
    rate = math.constant(x, -LN_2) / alpha
    value = tl.where(near, tl.fma(w * q, shift, shift), tl.fma(exponent, tl.broadcast_to(rate, x.shape), 32 * rate))
    outside = (tl.fma(exponent, LN_2, 32 * LN_2 - 1) + slope) / alpha / alpha
    return value, slope, tl.where(near, shift * shift * (slope + q), outside) + slope


@triton.jit
def _half_exponential(x, alpha):
    """_soft_exponential for half types and alpha > 0; near 0 exp(v) is 1 + v P, and df/dalpha is 1 + x^2 G."""
    v = alpha * x
    root = tl.exp2(x * (alpha * (0.5 * LOG2_E)))
    slope = root * root
    near = tl.fma(x, math.polynomial(v, _EXPONENTIAL_HALF, 4), tl.broadcast_to(alpha, x.shape))
    inverse = 1 / alpha
    shared = root * inverse
    far = tl.fma(shared, root, tl.broadcast_to(alpha - inverse, x.shape))
    finite = math.at_least(v, -1000.0)
    outside = tl.fma((finite - 1) * shared, shared, tl.broadcast_to(inverse * inverse, x.shape))
    inside = x * (x * math.polynomial(v, _TO_ALPHA_HALF, 5))
    return tl.where(tl.abs(v) < 0.25, near, far), slope, tl.where(tl.abs(v) < 0.5, inside, outside) + 1


@triton.jit
def _linear(x):
    """(f, df/dx, df/dalpha) for alpha = 0."""
    return x, tl.where(x == x, 1.0, x), tl.fma(0.5 * x, x, 1.0)


@triton.jit
def _choose(condition, these, those):
    """One of two tuples of three, element by element."""
    return (tl.where(condition, these[0], those[0]), tl.where(condition, these[1], those[1]), tl.where(condition, these[2], those[2]))


@triton.jit
def _by_sign(x, alpha):
    """(f, df/dx, df/dalpha) of soft_exponential; one alpha for all of x takes one side only."""
    if alpha.type.is_block():
        below = alpha < 0
        result = _choose(below, _soft_logarithm(x, tl.where(below, alpha, -1.0)), _soft_exponential(x, tl.where(below, 0.0, alpha)))
    elif alpha < 0:
        result = _soft_logarithm(x, alpha)
    else:
        result = _soft_exponential(x, alpha)
    return result


@triton.jit
def _half_by_sign(x, alpha):
    """_by_sign for half types."""
    if alpha.type.is_block():
        below = alpha < 0
        above = alpha > 0
        curved = _choose(below, _half_logarithm(x, tl.where(below, alpha, -1.0)), _half_exponential(x, tl.where(above, alpha, 1.0)))
        result = _choose(below | above, curved, _linear(x))
    elif alpha < 0:
        result = _half_logarithm(x, alpha)
    elif alpha > 0:
        result = _half_exponential(x, alpha)
    else:
        result = _linear(x)
    return result


@triton.jit
def soft_exponential(x, p):
    return _by_sign(x, p[0])[0]


@triton.jit
def soft_exponential_derivative(x, p):
    _, slope, to_alpha = _by_sign(x, p[0])
    return slope, to_alpha


@triton.jit
def soft_exponential_half(x, p):
    return _half_by_sign(x, p[0])[0]


@triton.jit
def soft_exponential_derivative_half(x, p):
    _, slope, to_alpha = _half_by_sign(x, p[0])
    return slope, to_alpha
