"""Keeping y in place of x: when x can be had back from it, and how."""
from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from .. import specs
from ..rows import SMALLEST_SLOPE


def restorable(
    dtype: torch.dtype, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None,
    seed: Tensor | None, row: specs.Activation, constants: tuple[float, ...],
) -> bool:
    """Whether x follows from y: no dropout, an invertible activation, and no channel's weight so small that rounding y loses x.

    Not where an activation is flat and y of a half type. Elsewhere rounding moves (activation's input - bias - residual) by about half a
    unit of 1 + |bias| + |residual|, and the normalised x by that over |weight|, which must not exceed the square root of the unit.
    """
    if seed is not None or torch.compiler.is_compiling() or not row.inverts(constants):
        return False
    if row.saturates and dtype.itemsize == 2:
        return False
    if parameters is not None and not bool((parameters >= SMALLEST_SLOPE).all()):
        return False
    if weight is None and residual is None:
        return True
    size = 1 if bias is None else 1 + bias.abs()
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
