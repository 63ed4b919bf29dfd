"""Activations x g(x) with a smooth gate g, as PyTorch; conventions in activations.py."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from .limits import times_gate

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_QUICK = 1.702


def silu(x: Tensor) -> Tensor:
    return times_gate(x, torch.sigmoid(x))


def silu_derivative(x: Tensor) -> tuple[Tensor]:
    return (torch.sigmoid(x) + times_gate(x, torch.sigmoid(x) * torch.sigmoid(-x)),)


def gelu(x: Tensor) -> Tensor:
    return times_gate(x, 0.5 * torch.special.erfc(-_SQRT_HALF * x))


def gelu_derivative(x: Tensor) -> tuple[Tensor]:
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (0.5 * torch.special.erfc(-_SQRT_HALF * x) + times_gate(x, density),)


def gelu_tanh(x: Tensor) -> Tensor:
    return times_gate(x, torch.sigmoid(2 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3)))


def gelu_tanh_derivative(x: Tensor) -> tuple[Tensor]:
    u = 2 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3)
    gate, slope = torch.sigmoid(u), torch.sigmoid(u) * torch.sigmoid(-u)
    return (gate + times_gate(2 * _SQRT_2_OVER_PI * (x + 3 * 0.044715 * x**3), slope),)


def mish(x: Tensor) -> Tensor:
    return times_gate(x, torch.tanh(torch.logaddexp(x, torch.zeros_like(x))))


def mish_derivative(x: Tensor) -> tuple[Tensor]:
    """1 - tanh^2 is sech^2, which does not cancel, and sech(log(1 + exp(x))) = 2 s(-x) / (1 + s(-x)^2)."""
    gate, closed = torch.tanh(torch.logaddexp(x, torch.zeros_like(x))), torch.sigmoid(-x)
    sech = 2 * closed / (1 + closed * closed)
    return (gate + times_gate(x, sech * sech * torch.sigmoid(x)),)


def swish(x: Tensor, beta: Tensor | float) -> Tensor:
    return times_gate(x, torch.sigmoid(beta * x))


def swish_derivative(x: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    gate, slope = torch.sigmoid(beta * x), torch.sigmoid(beta * x) * torch.sigmoid(-beta * x)
    return gate + times_gate(beta * x, slope), times_gate(x * x, slope)


def quick_gelu(x: Tensor) -> Tensor:
    return swish(x, _QUICK)


def quick_gelu_derivative(x: Tensor) -> tuple[Tensor]:
    return swish_derivative(x, _QUICK)[:1]
