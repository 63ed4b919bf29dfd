"""Every activation as PyTorch, written as its formula reads: the oracle of all tests.

Under a row's name stand a function ``f(x, *arguments)`` and its derivative ``f_derivative(x, *arguments)``, which returns
df/dx and df/d(parameter) for each learnable parameter. Arguments are the learnable parameters, then the constants, in the
order of the row in specs.py; a random row takes uniform numbers after them. Where backward may keep y instead of x,
``f_derivative_from_output(y, *arguments)`` gives df/dx. Where the row says that x follows from y, ``f_inverse(y, *arguments)`` is x;
where many x round to one y it is one of them, and finite.
Everything is differentiable, so that second derivatives go through here.
"""
from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .. import generated
from . import formulas

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_QUICK = 1.702
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def identity(x: Tensor) -> Tensor:
    return x


def identity_derivative(x: Tensor) -> tuple[Tensor]:
    return (torch.ones_like(x),)


identity_derivative_from_output = identity_derivative
identity_inverse = identity


def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


def relu_derivative(x: Tensor) -> tuple[Tensor]:
    return ((~(x <= 0)).to(x.dtype),)  # 1 at NaN, as torch has it


relu_derivative_from_output = relu_derivative


def leaky_relu(x: Tensor, negative_slope: float) -> Tensor:
    return torch.where(x > 0, x, negative_slope * x)


def leaky_relu_derivative(x: Tensor, negative_slope: float) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), torch.full_like(x, negative_slope)),)


leaky_relu_derivative_from_output = leaky_relu_derivative


def leaky_relu_inverse(y: Tensor, negative_slope: float) -> Tensor:
    return torch.where(y > 0, y, y / negative_slope)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def sigmoid_derivative(x: Tensor) -> tuple[Tensor]:
    return (torch.sigmoid(x) * torch.sigmoid(-x),)


def sigmoid_derivative_from_output(y: Tensor) -> tuple[Tensor]:
    return (y * (1 - y),)


def tanh(x: Tensor) -> Tensor:
    return torch.tanh(x)


def tanh_derivative(x: Tensor) -> tuple[Tensor]:
    return (4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x),)


def tanh_derivative_from_output(y: Tensor) -> tuple[Tensor]:
    return (1 - y * y,)


def arctan(x: Tensor) -> Tensor:
    return torch.atan(x)


def arctan_derivative(x: Tensor) -> tuple[Tensor]:
    near, inverse, far = _near_and_far(x)
    return (torch.where(far, inverse * inverse, 1 / (1 + near * near)),)


def softsign(x: Tensor) -> Tensor:
    x = _finite(x)
    return x / (1 + x.abs())


def softsign_derivative(x: Tensor) -> tuple[Tensor]:
    return ((1 / (1 + x.abs())).square(),)


def isru(x: Tensor, alpha: float) -> Tensor:
    near, inverse, far = _near_and_far(x)
    return torch.where(far, torch.sign(x) / torch.sqrt(alpha + inverse * inverse), near / torch.sqrt(1 + alpha * near * near))


def isru_derivative(x: Tensor, alpha: float) -> tuple[Tensor]:
    near, inverse, far = _near_and_far(x)
    outside = (inverse.abs() / torch.sqrt(alpha + inverse * inverse)) ** 3
    return (torch.where(far, outside, (1 + alpha * near * near) ** -1.5),)


def isrlu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, isru(x.clamp(max=0), alpha))


def isrlu_derivative(x: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(x >= 0, torch.ones_like(x), isru_derivative(x.clamp(max=0), alpha)[0]),)


def isrlu_inverse(y: Tensor, alpha: float) -> Tensor:
    reached = math.sqrt(alpha) * y.abs()
    left = ((1 - reached) * (1 + reached)).clamp(min=torch.finfo(y.dtype).eps / 2)
    return torch.where(y >= 0, y, y / torch.sqrt(left))


def binary_step(x: Tensor, straight_through: float) -> Tensor:
    return torch.where(x >= 0, torch.ones_like(x), torch.where(x < 0, torch.zeros_like(x), x))


def binary_step_derivative(x: Tensor, straight_through: float) -> tuple[Tensor]:
    return (torch.full_like(x, float(straight_through)),)


def rrelu(x: Tensor, lower: float, upper: float, uniform: Tensor) -> Tensor:
    return torch.where(x > 0, x, (lower + (upper - lower) * uniform) * x)


def rrelu_derivative(x: Tensor, lower: float, upper: float, uniform: Tensor) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), lower + (upper - lower) * uniform),)


def elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def elu_derivative(x: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), alpha * torch.exp(x.clamp(max=0))),)


def elu_derivative_from_output(y: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(y > 0, torch.ones_like(y), y + alpha),)


def elu_inverse(y: Tensor, alpha: float) -> Tensor:
    return torch.where(y > 0, y, _bounded_log1p(y.clamp(max=0) / alpha))


def selu(x: Tensor) -> Tensor:
    return _SELU_SCALE * elu(x, _SELU_ALPHA)


def selu_derivative(x: Tensor) -> tuple[Tensor]:
    return (_SELU_SCALE * elu_derivative(x, _SELU_ALPHA)[0],)


def selu_derivative_from_output(y: Tensor) -> tuple[Tensor]:
    return (torch.where(y > 0, torch.full_like(y, _SELU_SCALE), y + _SELU_SCALE * _SELU_ALPHA),)


def selu_inverse(y: Tensor) -> Tensor:
    return elu_inverse(y / _SELU_SCALE, _SELU_ALPHA)


def celu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0) / alpha))


def celu_derivative(x: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), torch.exp(x.clamp(max=0) / alpha)),)


def celu_derivative_from_output(y: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(y > 0, torch.ones_like(y), y / alpha + 1),)


def celu_inverse(y: Tensor, alpha: float) -> Tensor:
    return torch.where(y > 0, y, alpha * _bounded_log1p(y.clamp(max=0) / alpha))


def srelu(x: Tensor, t_l: Tensor, a_l: Tensor, t_r: Tensor, a_r: Tensor) -> Tensor:
    right, left = x >= t_r, x <= t_l
    return torch.where(right, t_r + _slope_times(a_r, x - t_r), torch.where(left, t_l + _slope_times(a_l, x - t_l), x))


def srelu_derivative(x: Tensor, t_l: Tensor, a_l: Tensor, t_r: Tensor, a_r: Tensor) -> tuple[Tensor, ...]:
    right, zero = x >= t_r, torch.zeros_like(x)
    left = ~right & (x < t_l)
    return (
        torch.where(right, a_r, torch.where(left, a_l, torch.ones_like(x))),
        torch.where(left, 1 - a_l, zero), torch.where(left, x - t_l, zero),
        torch.where(right, 1 - a_r, zero), torch.where(right, x - t_r, zero),
    )


def apl(x: Tensor, *arguments: Tensor) -> Tensor:
    slopes, hinges = _halves(arguments)
    return torch.relu(x) + sum(_slope_times(a, torch.relu(b - x)) for a, b in zip(slopes, hinges, strict=True))


def apl_derivative(x: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    slopes, hinges = _halves(arguments)
    bent = [torch.where(x < b, a, torch.zeros_like(x)) for a, b in zip(slopes, hinges, strict=True)]
    return (~(x < 0)).to(x.dtype) - sum(bent), *[torch.relu(b - x) for b in hinges], *bent


def softplus(x: Tensor, beta: float, threshold: float) -> Tensor:
    scaled = beta * x
    return torch.where(scaled > threshold, x, torch.logaddexp(scaled, torch.zeros_like(x)) / beta)


def softplus_derivative(x: Tensor, beta: float, threshold: float) -> tuple[Tensor]:
    scaled = beta * x
    slope = torch.where(scaled < -50, torch.exp(scaled.clamp(max=0)), torch.sigmoid(scaled))  # torch.sigmoid gives up before exp does
    return (torch.where(scaled > threshold, torch.ones_like(x), slope),)


def softplus_inverse(y: Tensor, beta: float, threshold: float) -> Tensor:
    share = -torch.expm1(-beta * y)  # of exp(beta x) in 1 + exp(beta x)
    return torch.where(beta * y > threshold, y, y + torch.log(share.clamp(min=2.0**-100)) / beta)


def bent_identity(x: Tensor) -> Tensor:
    near, _, far = _near_and_far(x)
    outside = torch.where(x > 0, 1.5 * x, 0.5 * x) - 0.5
    return torch.where(far, outside, near * near / (2 * (torch.sqrt(near * near + 1) + 1)) + near)


def bent_identity_derivative(x: Tensor) -> tuple[Tensor]:
    near, _, far = _near_and_far(x)
    return (torch.where(far, 1 + torch.sign(x) / 2, near / (2 * torch.sqrt(near * near + 1)) + 1),)


def bent_identity_inverse(y: Tensor) -> Tensor:
    near = y.clamp(-1e8, 1e8)
    length = torch.sqrt((2 * near + 1).square() + 3)
    small, middle = 4 * near * (near + 1) / (4 * near + 2 + length), (4 * near + 2 - length) / 3
    far = torch.where(y > 0, y / 1.5, 2 * y)
    return torch.where(near.abs() < 0.5, small, torch.where(near == y, middle, far))


def silu(x: Tensor) -> Tensor:
    return _times_gate(x, torch.sigmoid(x))


def silu_derivative(x: Tensor) -> tuple[Tensor]:
    return (torch.sigmoid(x) + _times_gate(x, torch.sigmoid(x) * torch.sigmoid(-x)),)


def gelu(x: Tensor) -> Tensor:
    return _times_gate(x, 0.5 * torch.special.erfc(-_SQRT_HALF * x))


def gelu_derivative(x: Tensor) -> tuple[Tensor]:
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (0.5 * torch.special.erfc(-_SQRT_HALF * x) + _times_gate(x, density),)


def gelu_tanh(x: Tensor) -> Tensor:
    return _times_gate(x, torch.sigmoid(2 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3)))


def gelu_tanh_derivative(x: Tensor) -> tuple[Tensor]:
    u = 2 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3)
    gate, slope = torch.sigmoid(u), torch.sigmoid(u) * torch.sigmoid(-u)
    return (gate + _times_gate(2 * _SQRT_2_OVER_PI * (x + 3 * 0.044715 * x**3), slope),)


def soft_exponential(x: Tensor, alpha: Tensor) -> Tensor:
    below, above = _by_sign(alpha)
    logarithm = -torch.log1p(-below * (torch.where(alpha < 0, x, 0) + below)) / below
    exponential = torch.expm1(above * torch.where(alpha > 0, x, 0)) / above + above
    return torch.where(alpha < 0, logarithm, torch.where(alpha > 0, exponential, x))


def soft_exponential_derivative(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """With v = alpha x and w = -alpha (x + alpha), df/dalpha is 1 + x^2 g(v), or 1 / (1 + w) + (x + alpha)^2 h(w) where alpha < 0.

    g(v) = ((v - 1) e^v + 1) / v^2 and h(w) = (log(1 + w) - w / (1 + w)) / w^2 are both 1/2 at 0, and series near it.
    """
    below, above = _by_sign(alpha)
    left = torch.where(alpha < 0, x, 0)
    w = -below * (left + below)
    near = torch.where(w.abs() < 0.1, w, 0)
    series = sum((-1) ** k * (k + 1) / (k + 2) * near**k for k in range(16))
    h = torch.where(w.abs() < 0.1, (left + below).square() * series, (torch.log1p(w) - 1 + 1 / (1 + w)) / below / below)
    right = torch.where(alpha < 0, 0, x)
    v = _slope_times(alpha, right)
    near = torch.where(v.abs() < 0.5, v, 0)
    series = sum((k + 1) / math.factorial(k + 2) * near**k for k in range(16))
    outside = v.clamp(min=-1000)
    g = torch.where(v.abs() < 0.5, right.square() * series, ((outside - 1) * torch.exp(outside) + 1) / above / above)
    return (
        torch.where(alpha < 0, 1 / (1 + w), torch.exp(v)),
        torch.where(alpha < 0, h + 1 / (1 + w), 1 + g),
    )


def sinusoid(x: Tensor) -> Tensor:
    return torch.sin(x)


def sinusoid_derivative(x: Tensor) -> tuple[Tensor]:
    return (torch.cos(x),)


def sinc(x: Tensor) -> Tensor:
    outside = torch.where((x == 0) | x.isinf(), 1, x)
    return torch.where(x == 0, 1, torch.where(x.isinf(), 0, torch.sin(outside) / outside))


def sinc_derivative(x: Tensor) -> tuple[Tensor]:
    small = x.abs() < 0.3
    outside, near = torch.where(small | x.isinf(), 1, x), torch.where(small, x, 0)
    series = sum((-1) ** k * 2 * k / math.factorial(2 * k + 1) * near ** (2 * k - 1) for k in range(1, 9))
    slope = (torch.cos(outside) - torch.sin(outside) / outside) / outside
    return (torch.where(small, series, torch.where(x.isinf(), 0, slope)),)


def mish(x: Tensor) -> Tensor:
    return _times_gate(x, torch.tanh(torch.logaddexp(x, torch.zeros_like(x))))


def mish_derivative(x: Tensor) -> tuple[Tensor]:
    """1 - tanh^2 is sech^2, which does not cancel, and sech(log(1 + exp(x))) = 2 s(-x) / (1 + s(-x)^2)."""
    gate, closed = torch.tanh(torch.logaddexp(x, torch.zeros_like(x))), torch.sigmoid(-x)
    sech = 2 * closed / (1 + closed * closed)
    return (gate + _times_gate(x, sech * sech * torch.sigmoid(x)),)


def swish(x: Tensor, beta: Tensor | float) -> Tensor:
    return _times_gate(x, torch.sigmoid(beta * x))


def swish_derivative(x: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    gate, slope = torch.sigmoid(beta * x), torch.sigmoid(beta * x) * torch.sigmoid(-beta * x)
    return gate + _times_gate(beta * x, slope), _times_gate(x * x, slope)


def quick_gelu(x: Tensor) -> Tensor:
    return swish(x, _QUICK)


def quick_gelu_derivative(x: Tensor) -> tuple[Tensor]:
    return swish_derivative(x, _QUICK)[:1]


def hardswish(x: Tensor) -> Tensor:
    return _times_gate(x, hardsigmoid(x))


def hardswish_derivative(x: Tensor) -> tuple[Tensor]:
    zero = torch.zeros_like(x)
    return (torch.where(x <= -3, zero, torch.where(x < 3, x / 3 + 0.5, zero + 1)),)  # 1 at NaN, as torch has it


def hardsigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def hardsigmoid_derivative(x: Tensor) -> tuple[Tensor]:
    return (((x > -3) & (x < 3)).to(x.dtype) / 6,)


def hardtanh(x: Tensor, min_val: float, max_val: float) -> Tensor:
    return x.clamp(min_val, max_val)


def hardtanh_derivative(x: Tensor, min_val: float, max_val: float) -> tuple[Tensor]:
    return ((~((x <= min_val) | (x >= max_val))).to(x.dtype),)  # 1 at NaN, as torch has it


hardtanh_derivative_from_output = hardtanh_derivative


def relu6(x: Tensor) -> Tensor:
    return hardtanh(x, 0, 6)


def relu6_derivative(x: Tensor) -> tuple[Tensor]:
    return hardtanh_derivative(x, 0, 6)


relu6_derivative_from_output = relu6_derivative


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.logaddexp(-x, torch.zeros_like(x))


def log_sigmoid_derivative(x: Tensor) -> tuple[Tensor]:
    return (torch.sigmoid(-x),)


def log_sigmoid_derivative_from_output(y: Tensor) -> tuple[Tensor]:
    return (-torch.expm1(y),)


def tanhshrink(x: Tensor) -> Tensor:
    near = torch.where(x.abs() < 0.6, x, 0)
    series = sum(-c * near ** (2 * k + 3) for k, c in enumerate(_tanh_series(22)[1:]))
    return torch.where(x.abs() < 0.6, series, x - torch.tanh(x))


def tanhshrink_derivative(x: Tensor) -> tuple[Tensor]:
    return (torch.tanh(x).square(),)


def softshrink(x: Tensor, lambd: float) -> Tensor:
    return torch.where(x > lambd, x - lambd, torch.where(x < -lambd, x + lambd, 0 * x))


def softshrink_derivative(x: Tensor, lambd: float) -> tuple[Tensor]:
    return ((~((x >= -lambd) & (x <= lambd))).to(x.dtype),)  # 1 at NaN, as torch has it


def softshrink_derivative_from_output(y: Tensor, lambd: float) -> tuple[Tensor]:
    return ((y != 0).to(y.dtype),)


def hardshrink(x: Tensor, lambd: float) -> Tensor:
    return torch.where((x >= -lambd) & (x <= lambd), torch.zeros_like(x), x)


hardshrink_derivative = softshrink_derivative
hardshrink_derivative_from_output = softshrink_derivative_from_output


def threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    return torch.where(x <= threshold, torch.full_like(x, value), x)


def threshold_derivative(x: Tensor, threshold: float, value: float) -> tuple[Tensor]:
    return ((~(x <= threshold)).to(x.dtype),)  # 1 at NaN, as torch has it


def squared_relu(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def squared_relu_derivative(x: Tensor) -> tuple[Tensor]:
    return (2 * torch.relu(x),)


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    rate = torch.where(alpha == 0, 1, alpha)
    return torch.where(alpha == 0, x, x + torch.sin(_phase(rate, torch.where(x.isinf(), 0, x))).square() / rate)


def snake_derivative(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """1 + sin(2 v) = (sin v + cos v)^2 with v = alpha x."""
    rate = torch.where(alpha == 0, 1, alpha)
    sine, cosine = torch.sin(_phase(rate, x)), torch.cos(_phase(rate, x))
    to_rate = torch.where(alpha == 0, x * x, (2 * x * sine * cosine - sine.square() / rate) / rate)
    phase = _phase(alpha, x)
    return (torch.sin(phase) + torch.cos(phase)).square(), to_rate


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight * x)


def prelu_derivative(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(x > 0, torch.ones_like(x), weight), torch.where(x > 0, torch.zeros_like(x), x)


def prelu_inverse(y: Tensor, weight: Tensor) -> Tensor:
    return torch.where(y > 0, y, y / weight)


def _times_gate(x: Tensor, gate: Tensor) -> Tensor:
    """x * gate with the limit 0, not NaN, where the gate has closed and x is infinite."""
    return torch.where(gate == 0, torch.zeros_like(x), x * gate)


def _slope_times(slope: Tensor, x: Tensor) -> Tensor:
    """slope * x with the limit 0, not NaN, where the slope is 0 and x infinite."""
    return slope * torch.where((slope == 0) & x.isinf(), 0, x)


def _phase(rate: Tensor, x: Tensor) -> Tensor:
    """rate * x for a sine, finite where x is."""
    return torch.where(x.isinf(), math.nan, _finite(rate * x))


def _finite(x: Tensor) -> Tensor:
    """x with the largest finite number for infinity."""
    limits = torch.finfo(x.dtype)
    return x.clamp(limits.min, limits.max)


def _near_and_far(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x, 1 / x, whether x is so large that x^2 + 1 is x^2), the first two with a harmless number where the other is to be used."""
    far = x.abs() > 1e10
    return torch.where(far, 0, x), 1 / torch.where(far, x, 1), far


def _bounded_log1p(x: Tensor) -> Tensor:
    """log(1 + x) for x <= 0, as if no x were nearer to -1 than half a unit."""
    return torch.log1p(x.clamp(min=torch.finfo(x.dtype).eps / 2 - 1))


def _halves(arguments: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return arguments[:len(arguments) // 2], arguments[len(arguments) // 2:]


def _by_sign(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """alpha where it is negative, alpha where it is positive, and harmless numbers elsewhere."""
    return torch.where(alpha < 0, alpha, -1), torch.where(alpha > 0, alpha, 1)


@lru_cache
def _tanh_series(count: int) -> list[float]:
    """Coefficients of tanh x in x, x^3, x^5, ..., which follow from tanh' = 1 - tanh^2."""
    series = [1.0]
    for k in range(1, count):
        series.append(-sum(series[i] * series[k - 1 - i] for i in range(k)) / (2 * k + 1))
    return series


def function(name: str, kind: str = "") -> Callable[..., Tensor]:
    """The function of row ``name``; kind is "", "derivative", "derivative_from_output" or "inverse"."""
    if name in generated.REGISTERED:
        return formulas.function(name, kind)
    return getattr(sys.modules[__name__], f"{name}_{kind}" if kind else name)  # not globals(), which Dynamo does not trace
