"""Every activation as a pair of Triton functions, picked up by a row's name of fastlayers/specs.py.

``{name}(x, p)`` is f, ``{name}_derivative(x, p)`` the tuple (df/dx, df/d parameter ...), and where backward may keep y instead of x
``{name}_derivative_from_output(y, p)`` is (df/dx,). x and y are float32 or float64; p is the tuple of learnable parameters, as values
that broadcast against x, then constants, then for a random row a uniform number per element. At +-inf they give the limit; NaN stays NaN.
A name that ends in ``_half`` is what float16 and bfloat16 take in place of the function of that name, where cheaper arithmetic in
float32 leaves the rounding to 16 bits right. Elementary functions are those of math.py.
"""
from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from . import math

_INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)
_FAR = tl.constexpr(110.0)  # where the logistic function of -x, times x, is 0
_FAR_FLOAT64 = tl.constexpr(800.0)
_NEAR = tl.constexpr(1000.0)  # products beyond it need no low part
_OPEN = tl.constexpr(30.0)  # where a gate is 1
_FLAT = tl.constexpr(1e18)  # where 1 + x^2 is x^2
_LARGEST = tl.constexpr(3.4028234663852886e38)
_LARGEST_FLOAT64 = tl.constexpr(1.7976931348623157e308)
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_SELU_SCALE = tl.constexpr(1.0507009873554805)
_SELU_SLOPE = tl.constexpr(1.7580993408473766)  # times alpha
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
_GELU_FAR = tl.constexpr(10.9)  # where 2 u = 109.8, see _FAR
_GELU_FAR_FLOAT64 = tl.constexpr(22.0)
_QUICK = tl.constexpr(1.702)
_QUICK_REST = tl.constexpr(-2.1934509319976314e-08)
_QUICK_FAR = tl.constexpr(64.5)  # 110 / 1.702
_QUICK_FAR_FLOAT64 = tl.constexpr(470.0)
_SOFT_SERIES = tl.constexpr((
    4.4983316069528330e-14, 7.1692159985810778e-13, 1.0706029224547743e-11, 1.4911969277048643e-10, 1.9270852604185937e-09,
    2.2964432686654910e-08, 2.5052108385441718e-07, 2.4801587301587302e-06, 2.2045855379188714e-05, 1.7361111111111112e-04,
    1.1904761904761906e-03, 6.9444444444444441e-03, 3.3333333333333333e-02, 1.2500000000000000e-01, 3.3333333333333331e-01,
    5.0000000000000000e-01,
))  # (k + 1) / (k + 2)!, from k = 15 down
_SINC_SERIES = tl.constexpr((
    -8.5099743753875053e-22, 3.9145882126782523e-19, -1.4797143443923793e-16, 4.4983316069528330e-14, -1.0706029224547743e-11,
    1.9270852604185937e-09, -2.5052108385441718e-07, 2.2045855379188714e-05, -1.1904761904761906e-03, 3.3333333333333333e-02,
    -3.3333333333333331e-01,
))  # (-1)^k 2 k / (2 k + 1)!, from k = 11 down
_SINC_SLOPE = tl.constexpr((
    -2.4753614979999838e-07, 2.2080861526774243e-05, -1.1905836872756481e-03, 3.3333417028188705e-02, -3.3333334326744080e-01,
))  # D of sinc' x = x D(x^2), within 2^-25 relative for |x| <= 1.76


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
    return math.at_least(x, 0.0)


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
def sigmoid(x, p):
    d, f = math.logistic(-math.bounded(x, _FAR if x.dtype == tl.float32 else _FAR_FLOAT64), 0.0)
    return f / d


@triton.jit
def sigmoid_derivative(x, p):
    s, n, _ = math.gate(-tl.abs(x))
    return (s * n,)


@triton.jit
def sigmoid_derivative_from_output(y, p):
    return (y * (1 - y),)


@triton.jit
def tanh(x, p):
    return math.tanh(x)


@triton.jit
def tanh_derivative(x, p):
    s, n, _ = math.gate(-2 * tl.abs(x))
    return (4 * s * n,)


@triton.jit
def tanh_derivative_from_output(y, p):
    return (1 - y * y,)


@triton.jit
def silu(x, p):
    FAR: tl.constexpr = _FAR if x.dtype == tl.float32 else _FAR_FLOAT64
    finite = math.at_least(x, -FAR)
    d, f = math.logistic(-math.at_most(finite, FAR), 0.0)
    return finite / d * f


@triton.jit
def silu_derivative(x, p):
    s, n, near = math.gate(x)
    return (tl.fma(near * n, s, s),)


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
        t = square * (-0.5 * _LOG2_E)
        power = tl.exp2(t)
        excess = tl.fma(t, 2 * _LN_2, square) + tl.fma(half, a, -square)
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
    FAR: tl.constexpr = _GELU_FAR if x.dtype == tl.float32 else _GELU_FAR_FLOAT64
    finite = math.at_least(x, -FAR)
    y, excess = _gelu_tanh_argument(math.at_most(finite, FAR))
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
def prelu(x, p):
    return tl.where(x > 0, x, x * p[0])


@triton.jit
def prelu_derivative(x, p):
    return tl.where(x > 0, 1.0, p[0]).to(x.dtype), tl.where(x > 0, 0.0, x)


@triton.jit
def binary_step(x, p):
    return tl.where(x >= 0, 1.0, tl.where(x < 0, 0.0, x)).to(x.dtype)


@triton.jit
def binary_step_derivative(x, p):
    return (tl.broadcast_to(p[0], x.shape),)


@triton.jit
def arctan(x, p):
    return math.arctan(x)


@triton.jit
def arctan_derivative(x, p):
    """In units of 2^32, so that x^2 does not overflow before the result is 0."""
    scaled = x * 2.0**-16
    return (1 / tl.fma(scaled, scaled, 2.0**-32) * 2.0**-32,)


@triton.jit
def softsign(x, p):
    near = math.bounded(x, _FLAT)
    return near / (1 + tl.abs(near))


@triton.jit
def softsign_derivative(x, p):
    inverse = 1 / (1 + tl.abs(x))
    return (inverse * inverse,)


@triton.jit
def isru(x, p):
    limit = _FLAT / tl.sqrt(p[0])
    near = math.larger(math.smaller(x, limit), -limit)
    return near / tl.sqrt(tl.fma(near * near, tl.broadcast_to(p[0], x.shape), 1.0))


@triton.jit
def isru_derivative(x, p):
    inverse = 1 / tl.fma(x * x, tl.broadcast_to(p[0], x.shape), 1.0)
    return (inverse * tl.sqrt(inverse),)


@triton.jit
def isrlu(x, p):
    return tl.where(x >= 0, x, isru(x, p))


@triton.jit
def isrlu_derivative(x, p):
    return (tl.where(x >= 0, 1.0, isru_derivative(x, p)[0]),)


@triton.jit
def rrelu(x, p):
    """p: lower, upper and the element's uniform number."""
    return tl.where(x > 0, x, x * tl.fma(tl.broadcast_to(p[1] - p[0], x.shape), p[2], tl.broadcast_to(p[0], x.shape)))


@triton.jit
def rrelu_derivative(x, p):
    return (tl.where(x > 0, 1.0, tl.fma(tl.broadcast_to(p[1] - p[0], x.shape), p[2], tl.broadcast_to(p[0], x.shape))),)


@triton.jit
def elu(x, p):
    return tl.where(x > 0, x, p[0] * math.expm1(x, 0.0, True))


@triton.jit
def elu_derivative(x, p):
    return (tl.where(x > 0, 1.0, p[0] * math.fast_exp(x, 1.0)),)


@triton.jit
def elu_derivative_from_output(y, p):
    return (tl.where(y > 0, 1.0, y + p[0]),)


@triton.jit
def selu(x, p):
    return tl.where(x > 0, x * math.constant(x, _SELU_SCALE), math.expm1(x, 0.0, True) * math.constant(x, _SELU_SLOPE))


@triton.jit
def selu_derivative(x, p):
    return (tl.where(x > 0, math.constant(x, _SELU_SCALE), math.fast_exp(x, 1.0) * math.constant(x, _SELU_SLOPE)),)


@triton.jit
def selu_derivative_from_output(y, p):
    return (tl.where(y > 0, math.constant(y, _SELU_SCALE), y + math.constant(y, _SELU_SLOPE)),)


@triton.jit
def _ratio(x, alpha):
    """(y, low): x / alpha is y + low."""
    inverse = 1 / alpha
    y = x * inverse
    return y, -math.rounding_of_product(alpha, y, x) * inverse


@triton.jit
def celu(x, p):
    y, low = _ratio(x, p[0])
    return tl.where(x > 0, x, p[0] * math.expm1(y, tl.where(tl.abs(y) < _NEAR, low, 0.0), False))


@triton.jit
def celu_derivative(x, p):
    return (tl.where(x > 0, 1.0, math.fast_exp(x * (1 / p[0]), 1.0)),)


@triton.jit
def celu_derivative_from_output(y, p):
    return (tl.where(y > 0, 1.0, y * (1 / p[0]) + 1),)


@triton.jit
def _reach(slope):
    """The largest distance that a slope is multiplied with: infinity, but for slope 0, where the product is 0 out to infinity."""
    return tl.where(slope == 0, 1.0, float("inf")).to(slope.dtype)


@triton.jit
def srelu(x, p):
    t_l, a_l, t_r, a_r = p
    right = tl.fma(tl.broadcast_to(a_r, x.shape), math.smaller(x - t_r, _reach(a_r)), tl.broadcast_to(t_r, x.shape))
    left = tl.fma(tl.broadcast_to(a_l, x.shape), math.larger(x - t_l, -_reach(a_l)), tl.broadcast_to(t_l, x.shape))
    return tl.where(x >= t_r, right, tl.where(x <= t_l, left, x))


@triton.jit
def srelu_derivative(x, p):
    t_l, a_l, t_r, a_r = p
    right = x >= t_r
    left = (x < t_l) & (x < t_r)
    return (
        tl.where(right, a_r, tl.where(left, a_l, 1.0)), tl.where(left, 1 - a_l, 0.0), tl.where(left, x - t_l, 0.0),
        tl.where(right, 1 - a_r, 0.0), tl.where(right, x - t_r, 0.0),
    )


@triton.jit
def apl(x, p):
    """Hinges reach to the largest number only; where x is -infinity, the sum is replaced by its limit."""
    HINGES: tl.constexpr = len(p) // 2
    finite = math.at_least(x, -_LARGEST if x.dtype == tl.float32 else -_LARGEST_FLOAT64)
    value = math.at_least(x, 0.0)
    limit = tl.zeros_like(p[0])
    for s in tl.static_range(HINGES):
        a = p[s]
        value = tl.fma(tl.broadcast_to(a, x.shape), math.at_least(p[HINGES + s] - finite, 0.0), value)
        limit += tl.where(a == 0, 0.0, a * float("inf"))
    return tl.where(x == -float("inf"), limit, value)


@triton.jit
def apl_derivative(x, p):
    HINGES: tl.constexpr = len(p) // 2
    slope = tl.where(x < 0, 0.0, 1.0).to(x.dtype)
    to_slopes = ()
    to_hinges = ()
    for s in tl.static_range(HINGES):
        distance = p[HINGES + s] - x
        bent = tl.where(distance > 0, p[s], 0.0)
        slope -= bent
        to_slopes += (math.at_least(distance, 0.0),)
        to_hinges += (bent,)
    return (slope,) + to_slopes + to_hinges


@triton.jit
def _softplus(y, low):
    """log(1 + exp(y + low))."""
    LIMIT: tl.constexpr = -_FAR if y.dtype == tl.float32 else -_FAR_FLOAT64
    e, f = math.scaled_exp(math.at_least(-tl.abs(y), LIMIT), tl.where(y > 0, -low, low))
    return tl.fma(math.log1p_unit(e), f, math.at_least(y, 0.0))


@triton.jit
def softplus(x, p):
    beta, threshold = p
    y = x * beta
    low = tl.where(tl.abs(y) < _NEAR, math.rounding_of_product(beta, x, y), 0.0)
    return tl.where(y > threshold, x, _softplus(y, low) * (1 / beta))


@triton.jit
def softplus_derivative(x, p):
    beta, threshold = p
    y = x * beta
    near = math.bounded(y, _FAR if x.dtype == tl.float32 else _FAR_FLOAT64)
    low = tl.where(near == y, math.rounding_of_product(beta, x, y), 0.0)
    d, f = math.logistic(-near, low)
    return (tl.where(y > threshold, 1.0, f / d),)


@triton.jit
def bent_identity(x, p):
    near = math.bounded(x, _FLAT)
    return x * tl.fma(near / (tl.sqrt(tl.fma(near, near, 1.0)) + 1), 0.5, 1.0)


@triton.jit
def bent_identity_derivative(x, p):
    near = math.bounded(x, _FLAT)
    return (tl.fma(near / tl.sqrt(tl.fma(near, near, 1.0)), 0.5, 1.0),)


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
    inverse = tl.where(u < 0, float("nan"), inverse)
    return -logarithm / alpha, inverse, tl.where(near, shift * shift * (inverse + q), outside) + inverse


@triton.jit
def _soft_exponential(x, alpha):
    """(f, df/dx, df/dalpha) for alpha >= 0: (exp(v) - 1) / alpha + alpha with v = alpha x, and x for alpha = 0.

    df/dalpha is 1 + x^2 g with g = ((v - 1) exp(v) + 1) / v^2, which is 1 / 2 at 0.
    """
    rate = tl.where(alpha > 0, alpha, 1.0).to(x.dtype)
    v = tl.where(alpha > 0, alpha * x, tl.where(x == x, 0.0, x))
    low = tl.where(tl.abs(v) < _NEAR, math.rounding_of_product(alpha, x, v), 0.0)
    low = tl.where(alpha > 0, low, 0.0)
    grown = math.expm1(v, low, False)
    slope = math.exp(v, low)
    small = tl.where(tl.abs(v) < 0.5, v, 0.0)
    g = tl.full(x.shape, 0.0, x.dtype)
    for k in tl.static_range(10 if x.dtype == tl.float32 else 16):
        g = tl.fma(g, small, _SOFT_SERIES[(6 if x.dtype == tl.float32 else 0) + k])
    finite = math.at_least(v, -1000.0)
    outside = ((tl.fma(finite, slope, -grown)) / rate) / rate
    to_alpha = 1 + tl.where(tl.abs(v) < 0.5, x * x * g, outside)
    return tl.where(alpha > 0, grown / rate + alpha, x), slope, to_alpha


@triton.jit
def _by_sign(x, alpha):
    """(f, df/dx, df/dalpha) of soft_exponential; one alpha for all of x takes one side only."""
    if alpha.type.is_block():
        below = alpha < 0
        f, slope, to_alpha = _soft_logarithm(x, tl.where(below, alpha, -1.0))
        g, other_slope, other_to_alpha = _soft_exponential(x, tl.where(below, 0.0, alpha))
        f = tl.where(below, f, g)
        slope = tl.where(below, slope, other_slope)
        to_alpha = tl.where(below, to_alpha, other_to_alpha)
    elif alpha < 0:
        f, slope, to_alpha = _soft_logarithm(x, alpha)
    else:
        f, slope, to_alpha = _soft_exponential(x, alpha)
    return f, slope, to_alpha


@triton.jit
def soft_exponential(x, p):
    return _by_sign(x, p[0])[0]


@triton.jit
def soft_exponential_derivative(x, p):
    _, slope, to_alpha = _by_sign(x, p[0])
    return slope, to_alpha


@triton.jit
def sinusoid(x, p):
    return math.sin(x, 0.0)


@triton.jit
def sinusoid_derivative(x, p):
    return (math.cos(x, 0.0),)


@triton.jit
def sinc(x, p):
    infinite = tl.abs(x) == float("inf")
    return tl.where(x == 0, 1.0, tl.where(infinite, 0.0, math.sin(x, 0.0) / x))


@triton.jit
def sinc_derivative(x, p):
    """x D(x^2) up to 1.75, else (cos x - sin x / x) / x."""
    sine, cosine = math.sin_cos(x, 0.0)
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
def mish(x, p):
    """x n / (n + 2), n = e (e + 2), e = exp(x)."""
    finite = math.at_least(x, -_FAR if x.dtype == tl.float32 else -_FAR_FLOAT64)
    e, f = math.scaled_exp(math.at_most(finite, _OPEN), 0.0)
    n = e * (e + 2)
    return finite * (n / (n + 2)) * f


@triton.jit
def mish_derivative(x, p):
    """t + x (1 - t^2) s, with t = n / (n + 2), 1 - t^2 = 4 (n + 1) / (n + 2)^2, n + 1 = (e + 1)^2 and s = e / (e + 1)."""
    near = math.at_most(math.at_least(x, -_FAR if x.dtype == tl.float32 else -_FAR_FLOAT64), _OPEN)
    e = math.fast_exp(near, 1.0)
    n = e * (e + 2)
    inverse = 1 / (n + 2)
    return (inverse * tl.fma(4 * near * e * (e + 1), inverse, n),)


@triton.jit
def _swish(x, y, excess):
    """x / (1 + exp(y - excess)) for y between -110 and 110."""
    d, f = math.logistic(y, excess)
    return x / d * f


@triton.jit
def swish(x, p):
    y = -p[0] * x
    far = tl.abs(y) >= (_FAR if x.dtype == tl.float32 else _FAR_FLOAT64)
    near = math.bounded(y, _FAR if x.dtype == tl.float32 else _FAR_FLOAT64)
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
    FAR: tl.constexpr = _QUICK_FAR if x.dtype == tl.float32 else _QUICK_FAR_FLOAT64
    finite = math.at_least(x, -FAR)
    near = math.at_most(finite, FAR)
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


@triton.jit
def hardswish(x, p):
    finite = math.at_least(x, -3.0)
    return finite * (math.at_most(finite + 3, 6.0) * math.constant(x, 1 / 6))


@triton.jit
def hardswish_derivative(x, p):
    return (tl.where(x <= -3, 0.0, tl.where(x < 3, (x + 1.5) * math.constant(x, 1 / 3), 1.0)),)  # 1 at NaN, as torch has it


@triton.jit
def hardsigmoid(x, p):
    return math.at_most(math.at_least(x + 3, 0.0), 6.0) * math.constant(x, 1 / 6)


@triton.jit
def hardsigmoid_derivative(x, p):
    return (tl.where(tl.abs(x) < 3, math.constant(x, 1 / 6), 0.0),)


@triton.jit
def hardtanh(x, p):
    return math.smaller(math.larger(x, p[0]), p[1])


@triton.jit
def hardtanh_derivative(x, p):
    return (tl.where((x <= p[0]) | (x >= p[1]), 0.0, 1.0).to(x.dtype),)  # 1 at NaN, as torch has it


hardtanh_derivative_from_output = hardtanh_derivative


@triton.jit
def relu6(x, p):
    return math.at_most(math.at_least(x, 0.0), 6.0)


@triton.jit
def relu6_derivative(x, p):
    return (tl.where((x <= 0) | (x >= 6), 0.0, 1.0).to(x.dtype),)  # 1 at NaN, as torch has it


relu6_derivative_from_output = relu6_derivative


@triton.jit
def log_sigmoid(x, p):
    return -_softplus(-x, tl.zeros_like(x))


@triton.jit
def log_sigmoid_derivative(x, p):
    return (math.gate(-x)[0],)


@triton.jit
def log_sigmoid_derivative_from_output(y, p):
    return (-math.expm1(y, 0.0, True),)


@triton.jit
def tanhshrink(x, p):
    return math.x_minus_tanh(x)


@triton.jit
def tanhshrink_derivative(x, p):
    value = math.tanh(x)
    return (value * value,)


@triton.jit
def softshrink(x, p):
    return x - math.larger(math.smaller(x, p[0]), -p[0])


@triton.jit
def hardshrink(x, p):
    return tl.where(tl.abs(x) <= p[0], 0.0, x)


@triton.jit
def hardshrink_derivative(x, p):
    return (tl.where(tl.abs(x) <= p[0], 0.0, 1.0).to(x.dtype),)  # 1 at NaN, as torch has it


@triton.jit
def hardshrink_derivative_from_output(y, p):
    return (tl.where(y == 0, 0.0, 1.0).to(y.dtype),)


softshrink_derivative = hardshrink_derivative
softshrink_derivative_from_output = hardshrink_derivative_from_output


@triton.jit
def threshold(x, p):
    return tl.where(x <= p[0], p[1], x)


@triton.jit
def threshold_derivative(x, p):
    return (tl.where(x <= p[0], 0.0, 1.0).to(x.dtype),)  # 1 at NaN, as torch has it


@triton.jit
def squared_relu(x, p):
    positive = math.at_least(x, 0.0)
    return positive * positive


@triton.jit
def squared_relu_derivative(x, p):
    return (2 * math.at_least(x, 0.0),)


@triton.jit
def _phase(x, alpha):
    """(y, low, rate): alpha x is y + low, or so large that its sine is left out: then y is 0; rate is alpha, but 1 for alpha 0."""
    y = alpha * x
    known = tl.abs(y) == float("inf")
    low = tl.where(tl.abs(y) < 1e30, math.rounding_of_product(alpha, x, y), 0.0)
    return tl.where(known, 0.0, y), low, tl.where(alpha == 0, 1.0, alpha)


@triton.jit
def _snake(x, p, HALF: tl.constexpr):
    """x + sin(alpha x)^2 / alpha; alpha = 0 gives x."""
    y, low, rate = _phase(x, p[0])
    return tl.where(tl.abs(y) > 0, tl.fma(math.sin_squared(y, low, HALF), tl.broadcast_to(1 / rate, x.shape), x), x)


@triton.jit
def snake(x, p):
    return _snake(x, p, False)


@triton.jit
def snake_derivative(x, p):
    """df/dx is 1 + 2 sin cos = (sin + cos)^2."""
    y = p[0] * x
    low = tl.where(tl.abs(y) < 1e30, math.rounding_of_product(p[0], x, y), 0.0)
    inverse = 1 / tl.where(p[0] == 0, 1.0, p[0])
    s, c = math.sin_cos(y, low)
    to_alpha = (s * inverse) * (tl.fma(2 * y, c, -s) * inverse)
    return (s + c) * (s + c), tl.where(p[0] == 0, x * x, to_alpha)


@triton.jit
def silu_half(x, p):
    finite = math.at_least(x, -_FAR)
    return finite * math.half_gate(finite)


@triton.jit
def gelu_half(x, p):
    a = math.at_most(tl.abs(x), 15.0)
    inverse = 1 / (a + 3.125)
    power = tl.exp2(a * (a * (-0.25 * _LOG2_E)))
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
def softplus_half(x, p):
    beta, threshold = p
    y = x * beta
    root = math.fast_exp(tl.abs(y), -0.5)
    e = root * root
    return tl.where(y > threshold, x, (math.log1p_half(e) + math.at_least(y, 0.0)) * (1 / beta))


@triton.jit
def bent_identity_half(x, p):
    """Far from 0 the terms one by one: their sum lies close to the middle of two numbers of half types, and must stay on its side."""
    a = tl.abs(x)
    root = tl.sqrt(tl.fma(x, x, 1.0))
    far = (tl.fma(a, 0.5, x) - math.at_least(a * 2.0**-22, 0.5)) + 0.5 / (root + a)
    return tl.where(a > 16, tl.where(a == float("inf"), x, far), x * tl.fma(x / (root + 1), 0.5, 1.0))


@triton.jit
def snake_half(x, p):
    return _snake(x, p, True)


def function(name: str, kind: str, half: bool) -> triton.runtime.JITFunction:
    """The function of row ``name`` for half types or not; kind is "", "derivative" or "derivative_from_output"."""
    full = f"{name}_{kind}" if kind else name
    return globals().get(f"{full}_half", globals()[full]) if half else globals()[full]
