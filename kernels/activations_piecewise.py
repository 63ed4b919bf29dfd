"""Activations made of lines, as pairs of Triton functions; conventions in activations.py."""
from __future__ import annotations

import triton
import triton.language as tl

from . import math

_LARGEST = tl.constexpr(3.4028234663852886e38)


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
def rrelu(x, p):
    """p: lower, upper and the element's uniform number."""
    return tl.where(x > 0, x, x * tl.fma(tl.broadcast_to(p[1] - p[0], x.shape), p[2], tl.broadcast_to(p[0], x.shape)))


@triton.jit
def rrelu_derivative(x, p):
    return (tl.where(x > 0, 1.0, tl.fma(tl.broadcast_to(p[1] - p[0], x.shape), p[2], tl.broadcast_to(p[0], x.shape))),)


@triton.jit
def _reach(slope):
    """The largest distance that a slope is multiplied with: infinity, but for slope 0, where the product is 0 out to infinity."""
    return tl.where(slope == 0, 1.0, float("inf")).to(slope.dtype)


@triton.jit
def _add(total, low, term, rest):
    """total + low with term + rest added, in two numbers again: what rounding takes from a sum of lines counts where lines cancel."""
    total, lost = math.exact_sum(total, term)
    return total, low + (lost + rest)


@triton.jit
def _add_line(total, low, slope, a, b):
    """_add of slope (a - b), where a slope of 0 makes 0 even of an infinite difference."""
    difference, rest = math.exact_sum(a, -b)
    rest = tl.where(tl.abs(difference) < float("inf"), rest, 0.0)
    difference = tl.where((slope == 0) & (tl.abs(difference) == float("inf")), 1.0, difference)
    product = slope * difference
    return _add(total, low, product, tl.fma(slope, rest, tl.fma(slope, difference, -product)))


@triton.jit
def _joined(total, low):
    return tl.where(tl.abs(total) < float("inf"), total + low, total)


@triton.jit
def srelu(x, p):
    t_l, a_l, t_r, a_r = p
    right = x >= t_r
    edge = tl.where(right, t_r, t_l)
    total, low = _add_line(edge, tl.zeros_like(x), tl.where(right, a_r, a_l), x, edge)
    return tl.where(right | (x <= t_l), _joined(total, low), x)


@triton.jit
def srelu_half(x, p):
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
    HINGES: tl.constexpr = len(p) // 2
    huge = tl.abs(x) > 2.0**100  # then partial sums might overflow
    scale = tl.where(huge, 2.0**-20, 1.0).to(x.dtype)
    scaled = x * scale
    total = math.at_least(scaled, 0.0)
    low = tl.zeros_like(x)
    for s in tl.static_range(HINGES):
        b = p[HINGES + s]
        total, low = _add_line(total, low, tl.where(x < b, p[s], 0.0), b * scale, scaled)
    return _joined(total, low) * tl.where(huge, 2.0**20, 1.0)


@triton.jit
def apl_half(x, p):
    """Hinges reach to the largest number only; where x is -infinity, the sum is replaced by its limit."""
    HINGES: tl.constexpr = len(p) // 2
    finite = math.at_least(x, -_LARGEST)
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
    low = tl.zeros_like(x)
    to_slopes = ()
    to_hinges = ()
    for s in tl.static_range(HINGES):
        b = p[HINGES + s]
        bent = tl.where(x < b, p[s], 0.0)
        slope, low = _add(slope, low, -bent, 0.0)
        to_slopes += (math.at_least(b - x, 0.0),)
        to_hinges += (bent,)
    return (_joined(slope, low),) + to_slopes + to_hinges


@triton.jit
def apl_derivative_half(x, p):
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
