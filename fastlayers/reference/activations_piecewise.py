"""Activations made of lines, as PyTorch; conventions in activations.py.

Autograd differentiates these functions where a transform asks for it. Their conditions are therefore those of the derivatives: ``clamp``
would pass a gradient on at both of its bounds, and none at NaN.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .limits import slope_times


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


def binary_step(x: Tensor, straight_through: float) -> Tensor:
    y = torch.where(x >= 0, torch.ones_like(x), torch.where(x < 0, torch.zeros_like(x), 0 * x))
    return y + straight_through * _zero_of_slope_one(x) if straight_through else y


def binary_step_derivative(x: Tensor, straight_through: float) -> tuple[Tensor]:
    return (torch.full_like(x, float(straight_through)),)


def rrelu(x: Tensor, lower: float, upper: float, uniform: Tensor) -> Tensor:
    return torch.where(x > 0, x, (lower + (upper - lower) * uniform) * x)


def rrelu_derivative(x: Tensor, lower: float, upper: float, uniform: Tensor) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), lower + (upper - lower) * uniform),)


def srelu(x: Tensor, t_l: Tensor, a_l: Tensor, t_r: Tensor, a_r: Tensor) -> Tensor:
    right = x >= t_r
    edge = torch.where(right, t_r, torch.where(x < t_l, t_l, x))
    line = edge + slope_times(torch.where(right, a_r, a_l), x - edge)
    return torch.where(right | (x <= t_l), line, x)


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
    return torch.where(x < 0, 0, x) + sum(slope_times(a, _hinge(b - x)) for a, b in zip(slopes, hinges, strict=True))


def apl_derivative(x: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    slopes, hinges = _halves(arguments)
    bent = [torch.where(x < b, a, torch.zeros_like(x)) for a, b in zip(slopes, hinges, strict=True)]
    return (~(x < 0)).to(x.dtype) - sum(bent), *[torch.relu(b - x) for b in hinges], *bent


def hardswish(x: Tensor) -> Tensor:
    between = torch.where((x > -3) & (x < 3), x, 0)
    return torch.where(x <= -3, 0, torch.where(x < 3, between * ((between + 3) / 6), x))


def hardswish_derivative(x: Tensor) -> tuple[Tensor]:
    zero = torch.zeros_like(x)
    return (torch.where(x <= -3, zero, torch.where(x < 3, x / 3 + 0.5, zero + 1)),)  # 1 at NaN, as torch has it


def hardsigmoid(x: Tensor) -> Tensor:
    return torch.where((x > -3) & (x < 3), x + 3, (x.detach() + 3).clamp(0, 6)) / 6


def hardsigmoid_derivative(x: Tensor) -> tuple[Tensor]:
    return (((x > -3) & (x < 3)).to(x.dtype) / 6,)


def hardtanh(x: Tensor, min_val: float, max_val: float) -> Tensor:
    return torch.where((x <= min_val) | (x >= max_val), x.detach().clamp(min_val, max_val), x)


def hardtanh_derivative(x: Tensor, min_val: float, max_val: float) -> tuple[Tensor]:
    return ((~((x <= min_val) | (x >= max_val))).to(x.dtype),)  # 1 at NaN, as torch has it


hardtanh_derivative_from_output = hardtanh_derivative


def relu6(x: Tensor) -> Tensor:
    return hardtanh(x, 0, 6)


def relu6_derivative(x: Tensor) -> tuple[Tensor]:
    return hardtanh_derivative(x, 0, 6)


relu6_derivative_from_output = relu6_derivative


def softshrink(x: Tensor, lambd: float) -> Tensor:
    return torch.where((x >= -lambd) & (x <= lambd), 0 * x, torch.where(x > 0, x - lambd, x + lambd))


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


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight * x)


def prelu_derivative(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(x > 0, torch.ones_like(x), weight), torch.where(x > 0, torch.zeros_like(x), x)


def prelu_inverse(y: Tensor, weight: Tensor) -> Tensor:
    return torch.where(y > 0, y, y / weight)


def _halves(arguments: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return arguments[:len(arguments) // 2], arguments[len(arguments) // 2:]


def _hinge(gap: Tensor) -> Tensor:
    """max(0, gap), of slope 0 at NaN too."""
    return torch.where(gap > 0, gap, 0 * torch.relu(gap))


def _zero_of_slope_one(x: Tensor) -> Tensor:
    within = torch.where(x.isinf(), 0, x)
    return within - within.detach()
