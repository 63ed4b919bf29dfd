"""Gated units y = dropout(a * activation(b)), a and b the halves of x along a dimension, and their gradients, as PyTorch.

Conventions are those of epilogue.py, and these beside them: x has an even size along ``dim`` >= 0, and with gate_first b is its first
half and a its second. Seen in memory order x is [outer, 2, inner], whatever the order of its dimensions, and y [outer, inner]: y keeps
the order of x's dimensions (see empty_halved). Dropout's mask is numbered over y. Learnable parameters are one value each; an
activation that draws random numbers has no gated form.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import activations
from .dropout import multiplier_like
from .dtypes import accumulate_dtype
from .epilogue import _like, activation_arguments, passed_on


def empty_halved(x: Tensor, dim: int) -> Tensor:
    """Memory for y: half of x along ``dim``, its dimensions in the order that those of x have in memory."""
    step, size = x.stride(dim), list(x.size())
    size[dim] = size[dim] // 2
    return torch.empty_strided(
        size, [stride if stride <= step else stride // 2 for stride in x.stride()], dtype=x.dtype, device=x.device)


def gated_forward(
    x: Tensor, parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, dim: int,
    gate_first: bool,
) -> Tensor:
    """y, with the dtype of x and half its size along ``dim``."""
    value, gate = _halves(x, dim, gate_first)
    y = empty_halved(x, dim)
    gated = value * activations.function(activation)(gate, *activation_arguments(gate, parameters, activation, constants, None, dim))
    return _like(gated * multiplier_like(y, p, seed), y)


def gated_backward(
    dy: Tensor, x: Tensor, parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float,
    dim: int, gate_first: bool, output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dparameters), None where output_mask says that nobody asks; dy has y's shape and strides.

    With g = dy * mask: da = g activation(b), db = g a activation'(b), and dparameters[k] = sum g a d activation(b) / d parameter k.
    """
    value, gate = _halves(x, dim, gate_first)
    arguments = activation_arguments(gate, parameters, activation, constants, None, dim)
    slopes = activations.function(activation, "derivative")(gate, *arguments)
    gradient = dy.to(value.dtype) * multiplier_like(dy, p, seed)
    want_dx, want_dparameters = output_mask
    dx = dparameters = None
    if want_dx:
        dvalue, dgate = gradient * activations.function(activation)(gate, *arguments), passed_on(gradient * value, slopes[0], activation)
        dx = _like(torch.cat([dgate, dvalue] if gate_first else [dvalue, dgate], dim), x)
    if want_dparameters:
        dparameters = torch.stack([(gradient * value * slope).sum() for slope in slopes[1:]]).view(parameters.shape)
    return dx, dparameters


def _halves(x: Tensor, dim: int, gate_first: bool) -> tuple[Tensor, Tensor]:
    """(a, b) in the compute dtype."""
    first, second = x.to(accumulate_dtype(x)).chunk(2, dim) if x.size(dim) else (x, x)
    return (second, first) if gate_first else (first, second)
