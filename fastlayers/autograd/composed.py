"""The layers under a torch.func transform: the reference formulas, which vmap, grad, jvp and whatever is stacked of them can follow.

autograd.Functions of the kind that transforms accept cost more a call than those of this package, and kernels would still need a
rule for every transform.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import reference
from ..reference.batch_norm import move_running, moved_running
from ..reference.dtypes import accumulate_dtype
from .common import finite_or_old, is_dense

if TYPE_CHECKING:
    from .batch_norm import Arguments


def epilogue(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    arguments: tuple, residual_after: Tensor | None = None,
) -> Tensor:
    """As autograd.epilogue."""
    row, constants, p, channel_dim, by_channel, outcome = arguments
    compute = accumulate_dtype(x)
    x = _numbered(x, seed)
    sample = x.numel() // max(x.size(0), 1) if by_channel else 0
    return reference.epilogue_forward(
        x, None, _wide(scale, compute), _wide(shift, compute), residual, _wide(parameters, compute), seed, row.name, constants, p,
        channel_dim, residual_after, sample, outcome)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, arguments: Arguments,
) -> Tensor:
    """As autograd.batch_norm; running statistics can be moved in place only where the transform allows it."""
    y, moved = batch_norm_and_statistics(
        x, weight, bias, residual, parameters, seed, running_mean, running_var, num_batches_tracked, arguments)
    if arguments.training:
        if arguments.skip_nonfinite and running_mean is not None:
            moved = finite_or_old(moved, (running_mean, running_var, num_batches_tracked))
        move_running(running_mean, running_var, num_batches_tracked, moved)
    return y


def batch_norm_and_statistics(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, arguments: Arguments,
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """(y, new running mean, variance and batch count); nothing is changed in place."""
    channel_dim, eps = arguments.channel_dim, arguments.eps
    compute = accumulate_dtype(x)
    x = _numbered(x, seed)
    if arguments.training:
        mean, m2 = reference.batch_norm_statistics(x, channel_dim)
        count = x.numel() // max(x.size(channel_dim), 1)
        moved = moved_running(running_mean, running_var, num_batches_tracked, mean.detach(), m2.detach(), count,
                              arguments.momentum)
        rstd = (m2 / count + eps).rsqrt()
    else:
        moved = (running_mean, running_var, num_batches_tracked)
        mean, rstd = running_mean.to(compute), (running_var.to(compute) + eps).rsqrt()
    scale = rstd if weight is None else weight.to(compute) * rstd
    y = reference.epilogue_forward(
        x, mean, scale, _wide(bias, compute), residual, _wide(parameters, compute), seed, arguments.row.name, arguments.constants,
        arguments.p, channel_dim)
    return y, moved


def _numbered(x: Tensor, seed: Tensor | None) -> Tensor:
    """x with a memory order by which the elements of a dropout mask can be numbered; vmap's batch may lie in the midst of it."""
    return x if seed is None or is_dense(x) else x.contiguous()


def _wide(values: Tensor | None, compute: torch.dtype) -> Tensor | None:
    return None if values is None else values.to(compute)
