"""Activations made of lines, as PyTorch; conventions in activations.py."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .limits import slope_times, times_gate


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
    return torch.where(x >= 0, torch.ones_like(x), torch.where(x < 0, torch.zeros_like(x), x))


def binary_step_derivative(x: Tensor, straight_through: float) -> tuple[Tensor]:
    return (torch.full_like(x, float(straight_through)),)


def rrelu(x: Tensor, lower: float, upper: float, uniform: Tensor) -> Tensor:
    return torch.where(x > 0, x, (lower + (upper - lower) * uniform) * x)


def rrelu_derivative(x: Tensor, lower: float, upper: float, uniform: Tensor) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), lower + (upper - lower) * uniform),)


def srelu(x: Tensor, t_l: Tensor, a_l: Tensor, t_r: Tensor, a_r: Tensor) -> Tensor:
    right, left = x >= t_r, x <= t_l
    return torch.where(right, t_r + slope_times(a_r, x - t_r), torch.where(left, t_l + slope_times(a_l, x - t_l), x))


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
    return torch.relu(x) + sum(slope_times(a, torch.relu(b - x)) for a, b in zip(slopes, hinges, strict=True))


def apl_derivative(x: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    slopes, hinges = _halves(arguments)
    bent = [torch.where(x < b, a, torch.zeros_like(x)) for a, b in zip(slopes, hinges, strict=True)]
    return (~(x < 0)).to(x.dtype) - sum(bent), *[torch.relu(b - x) for b in hinges], *bent


def hardswish(x: Tensor) -> Tensor:
    return times_gate(x, hardsigmoid(x))


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


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight * x)


def prelu_derivative(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(x > 0, torch.ones_like(x), weight), torch.where(x > 0, torch.zeros_like(x), x)


def prelu_inverse(y: Tensor, weight: Tensor) -> Tensor:
    return torch.where(y > 0, y, y / weight)


def _halves(arguments: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return arguments[:len(arguments) // 2], arguments[len(arguments) // 2:]
