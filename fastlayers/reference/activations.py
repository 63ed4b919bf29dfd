"""Every activation as PyTorch, written as its formula reads: the oracle of all tests.

Under a row's name stand a function ``f(x, *arguments)`` and its derivative ``f_derivative(x, *arguments)``, which returns
df/dx and df/d(parameter) for each learnable parameter. Arguments are the learnable parameters, then the constants, in the
order of the row in specs.py. Where backward may keep y instead of x, ``f_derivative_from_output(y, *arguments)`` gives df/dx.
Where the row says that x follows from y, ``f_inverse(y, *arguments)`` is x; where many x round to one y it is one of them, and finite.
Everything is differentiable, so that second derivatives go through here.
"""
from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


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


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight * x)


def prelu_derivative(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(x > 0, torch.ones_like(x), weight), torch.where(x > 0, torch.zeros_like(x), x)


def prelu_inverse(y: Tensor, weight: Tensor) -> Tensor:
    return torch.where(y > 0, y, y / weight)


def _times_gate(x: Tensor, gate: Tensor) -> Tensor:
    """x * gate with the limit 0, not NaN, where the gate has closed and x is infinite."""
    return torch.where(gate == 0, torch.zeros_like(x), x * gate)


def function(name: str, kind: str = "") -> Callable[..., Tensor]:
    """The function of row ``name``; kind is "", "derivative", "derivative_from_output" or "inverse"."""
    return getattr(sys.modules[__name__], f"{name}_{kind}" if kind else name)  # not globals(), which Dynamo does not trace
