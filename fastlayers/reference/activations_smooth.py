"""Smooth activations that saturate or turn linear, as PyTorch; conventions in activations.py."""
from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from .limits import finite

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


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
    x = finite(x)
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
    return torch.where(x >= 0, x, isru(_at_most_zero(x), alpha))


def isrlu_derivative(x: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(x >= 0, torch.ones_like(x), isru_derivative(_at_most_zero(x), alpha)[0]),)


def isrlu_inverse(y: Tensor, alpha: float) -> Tensor:
    reached = math.sqrt(alpha) * y.abs()
    left = ((1 - reached) * (1 + reached)).clamp(min=torch.finfo(y.dtype).eps / 2)
    return torch.where(y >= 0, y, y / torch.sqrt(left))


def elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(_at_most_zero(x)))


def elu_derivative(x: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), alpha * torch.exp(_at_most_zero(x))),)


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
    return torch.where(x > 0, x, alpha * torch.expm1(_at_most_zero(x) / alpha))


def celu_derivative(x: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(x > 0, torch.ones_like(x), torch.exp(_at_most_zero(x) / alpha)),)


def celu_derivative_from_output(y: Tensor, alpha: float) -> tuple[Tensor]:
    return (torch.where(y > 0, torch.ones_like(y), y / alpha + 1),)


def celu_inverse(y: Tensor, alpha: float) -> Tensor:
    return torch.where(y > 0, y, alpha * _bounded_log1p(y.clamp(max=0) / alpha))


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


def _at_most_zero(x: Tensor) -> Tensor:
    """min(x, 0), of slope 1 at NaN, where that of clamp is 0."""
    return torch.where(x > 0, 0, x)


def _near_and_far(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x, 1 / x, whether x is so large that x^2 + 1 is x^2), the first two with a harmless number where the other is to be used."""
    far = x.abs() > 1e10
    return torch.where(far, 0, x), 1 / torch.where(far, x, 1), far


def _bounded_log1p(x: Tensor) -> Tensor:
    """log(1 + x) for x <= 0, as if no x were nearer to -1 than half a unit."""
    return torch.log1p(x.clamp(min=torch.finfo(x.dtype).eps / 2 - 1))


@lru_cache
def _tanh_series(count: int) -> list[float]:
    """Coefficients of tanh x in x, x^3, x^5, ..., which follow from tanh' = 1 - tanh^2."""
    series = [1.0]
    for k in range(1, count):
        series.append(-sum(series[i] * series[k - 1 - i] for i in range(k)) / (2 * k + 1))
    return series
