"""The soft exponential, as PyTorch; conventions in activations.py."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from .limits import slope_times

_LARGE = 50.0  # beyond it 1 is nothing beside exp(v)


def soft_exponential(x: Tensor, alpha: Tensor) -> Tensor:
    below, above = _by_sign(alpha)
    logarithm = -torch.log1p(-below * (torch.where(alpha < 0, x, 0) + below)) / below
    v = above * torch.where(alpha > 0, x, 0)
    root = _root(v)
    exponential = torch.where(v > _LARGE, root * (root / above), torch.expm1(torch.where(v > _LARGE, 0, v)) / above) + above
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
    v = slope_times(alpha, right)
    near = torch.where(v.abs() < 0.5, v, 0)
    series = sum((k + 1) / math.factorial(k + 2) * near**k for k in range(16))
    outside = v.clamp(min=-1000)
    root = _root(outside)
    far = torch.where(v > _LARGE, ((outside - 1) / above * root) * (root / above),
                      ((outside - 1) * torch.exp(outside.clamp(max=_LARGE)) + 1) / above / above)
    g = torch.where(v.abs() < 0.5, right.square() * series, far)
    return (
        torch.where(alpha < 0, 1 / (1 + w), torch.exp(v)),
        torch.where(alpha < 0, h + 1 / (1 + w), 1 + g),
    )


def _root(v: Tensor) -> Tensor:
    """exp(v / 2) for large v, where exp(v) may overflow before what it is divided in does."""
    return torch.exp(v.clamp(min=_LARGE) / 2)


def _by_sign(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """alpha where it is negative, alpha where it is positive, and harmless numbers elsewhere."""
    return torch.where(alpha < 0, alpha, -1), torch.where(alpha > 0, alpha, 1)
