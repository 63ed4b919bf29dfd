"""The functions that formulas are made of as PyTorch, and the functions generated from formulas (fastlayers/formulas/printer.py)."""
from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import generated

absolute, asinh, atan, cos, cosh, erf = torch.abs, torch.asinh, torch.atan, torch.cos, torch.cosh, torch.erf
exp, expm1 = torch.exp, torch.expm1
erfc, log, log1p, maximum, minimum, power = torch.erfc, torch.log, torch.log1p, torch.maximum, torch.minimum, torch.pow
both, either, sigmoid, sign, sin, sinh, sqrt, tan, tanh, where = (
    torch.logical_and, torch.logical_or, torch.sigmoid, torch.sign, torch.sin, torch.sinh, torch.sqrt, torch.tan, torch.tanh, torch.where)


def constant(x: Tensor, value: float) -> Tensor:
    """A number in x's dtype."""
    return x.new_full((), value)


def like(x: Tensor, value: Tensor) -> Tensor:
    """A value that does not depend on x, in the shape of x."""
    return value + torch.zeros_like(x)


def softplus(u: Tensor) -> Tensor:
    """log(1 + exp(u))."""
    return torch.logaddexp(u, torch.zeros_like(u))


def step(u: Tensor, middle: Tensor) -> Tensor:
    """0 below 0, middle at 0, 1 above."""
    return torch.where(u > 0, torch.ones_like(u), torch.where(u < 0, torch.zeros_like(u), middle))


def function(name: str, kind: str = "") -> Callable[..., Any]:
    """The function of a registered row, or its derivative."""
    return compiled(generated.REGISTERED[name], kind)


@lru_cache
def compiled(source: generated.Generated, kind: str = "") -> Callable[..., Any]:
    """A function that was generated from a formula."""
    names = generated.load(source.torch, f"{source.name} as PyTorch", {"formulas": sys.modules[__name__], "__name__": __name__})
    return names[f"{source.name}_{kind}" if kind else source.name]
