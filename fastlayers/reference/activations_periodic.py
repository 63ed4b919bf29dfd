"""Activations made of sines, as PyTorch; conventions in activations.py."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from .limits import finite


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


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    zero = _vanishes(alpha)
    rate = torch.where(zero, 1, alpha)
    return torch.where(zero, x, x + torch.sin(_phase(rate, torch.where(x.isinf(), 0, x))).square() / rate)


def snake_derivative(x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """1 + sin(2 v) = (sin v + cos v)^2 with v = alpha x."""
    zero = _vanishes(alpha)
    rate = torch.where(zero, 1, alpha)
    sine, cosine = torch.sin(_phase(rate, x)), torch.cos(_phase(rate, x))
    far = sine / rate  # x near 0: squares of such sines would underflow
    turned = x * cosine
    to_rate = torch.where(zero, x * x, far * turned + far * (turned - far))  # 2 x may overflow
    phase = _phase(alpha, x)
    return (torch.sin(phase) + torch.cos(phase)).square(), to_rate


def _vanishes(alpha: Tensor) -> Tensor:
    """Where alpha is nearly 0, and its reciprocal may be infinite."""
    return alpha.abs() < torch.finfo(alpha.dtype).tiny


def _phase(rate: Tensor, x: Tensor) -> Tensor:
    """rate * x for a sine, finite where x is."""
    return torch.where(x.isinf(), math.nan, finite(rate * x))
