"""Keeping y in place of x: when x can be recovered from it, and how."""
from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor

from .. import specs
from ..context import observed
from ..reference.activations import function
from ..rows import SMALLEST_SLOPE

_FLAT = 2.0**-90
"""A slope from which no inverse finds back: softplus's ends at 2^-100."""


def restorable(
    y: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None,
    seed: Tensor | None, row: specs.Activation, constants: tuple[float, ...],
) -> bool:
    """Whether x follows from y: no dropout, an invertible activation, and no channel's weight so small that rounding y loses x.

    Not where an activation is flat and y of a half type. Elsewhere rounding moves (activation's input - bias - residual) by about half a
    unit of 1 + |bias| + |residual|, and the normalised x by that over |weight|, which must not exceed the square root of the unit; where
    the activation has a flat end, |y| / slope counts too, that of the least y.
    """
    dtype = y.dtype
    unseen = torch.compiler.is_compiling() or observed() or y.is_meta  # there are no values to look at
    if seed is not None or unseen or not row.inverts(constants):
        return False
    if row.saturates and dtype.itemsize == 2:
        return False
    if parameters is not None and not bool((parameters >= SMALLEST_SLOPE).all()):
        return False
    flattening = row.saturates and y.numel() > 0
    if weight is None and bias is None and residual is None and not flattening:
        return True
    size = 1 if bias is None else 1 + bias.abs()
    if flattening:
        least = y.detach().amin()
        value, derivative, inverse = (function(row.name, kind) for kind in ("", "derivative", "inverse"))
        end = value(torch.full_like(least, -math.inf), *constants)
        slope = derivative(inverse(least, *constants), *constants)[0]
        told = (slope > _FLAT) & (least - end > 4 * torch.finfo(dtype).eps * end.abs())  # else any x further out has this y
        size = size + torch.where(told, least.abs() / slope, math.inf)
    if residual is not None and residual.numel():
        size = size + torch.linalg.vector_norm(residual, float("inf")).float()
    large = (1 if weight is None else weight.abs()) >= 0.5 * torch.finfo(dtype).eps ** 0.5 * size
    return large if isinstance(large, bool) else bool(large.all())


def restored(
    kernels: ModuleType, y: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, row: specs.Activation, constants: tuple[float, ...], channel_dim: int,
) -> Tensor:
    """x from y."""
    scale = rstd if weight is None else weight * rstd
    return kernels.epilogue_inverse(y, mean, scale, bias, residual, parameters, row.name, constants, channel_dim)
