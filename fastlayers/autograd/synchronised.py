"""Batch norm over a batch that the ranks of a process group hold together.

A forward gathers (mean, M2, count) of every rank, a backward the two sums that dx needs, in float64 and added in the order of the
ranks: all ranks get the same bits, on every run. Functional collectives: any backend of torch.distributed, eager and compiled.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as distributed
from torch import Tensor

from .. import checks
from ..reference.batch_norm import move_running, moved_running
from ..reference.dtypes import accumulate_dtype
from ..strides import with_stride
from .common import KernelFunction, hands_on, kernels_for
from .restoring import restorable, restored

if TYPE_CHECKING:
    from .batch_norm import Arguments


class SynchronisedBatchNorm(KernelFunction):
    """y = dropout(activation((x - mean) * rstd * weight + bias + residual)), mean and rstd those of ``total`` values on all ranks.

    Saved for backward as by BatchNorm.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, residual, parameters, seed, mean, rstd, total, arguments):
        row, constants = arguments.row, arguments.constants
        kernels = kernels_for(x, row.name)
        scale = rstd if weight is None else weight * rstd
        y = kernels.epilogue_forward(x, mean, scale, bias, residual, parameters, seed, row.name, constants, arguments.p,
                                     arguments.channel_dim)
        ctx.keeps_output = (
            arguments.inplace and any(ctx.needs_input_grad) and restorable(y, weight, bias, residual, parameters, seed, row, constants))
        if row.name == "identity" and not ctx.keeps_output:
            residual = None
        ctx.save_for_backward(y if ctx.keeps_output else x, mean, rstd, total, weight, bias, residual, parameters, seed)
        ctx.kernels, ctx.arguments, ctx.stride = kernels, arguments, x.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        x, mean, rstd, total, weight, bias, residual, parameters, seed = ctx.saved_tensors
        arguments = ctx.arguments
        row, constants, p, channel_dim = arguments.row, arguments.constants, arguments.p, arguments.channel_dim
        checks.once_synchronised("batch_norm", torch.compiler.is_compiling() or not torch.is_grad_enabled())
        kernels = ctx.kernels
        dy, x, residual = with_stride(dy, ctx.stride), with_stride(x, ctx.stride), with_stride(residual, ctx.stride)
        if ctx.keeps_output:
            x = restored(kernels, x, mean, rstd, weight, bias, residual, parameters, row, constants, channel_dim)
        shared = (dy, x, mean, rstd, weight, bias, residual, parameters, seed, row.name, constants, p)
        wants_x, wants_weight, wants_bias, wants_residual, wants_parameters = ctx.needs_input_grad[:5]
        dx, dresidual, dweight, dbias, dparameters = kernels.batch_norm_backward(
            *shared, False, channel_dim,
            (False, wants_residual and not hands_on(row, p), wants_x or wants_weight, wants_x or wants_bias, wants_parameters))
        if wants_residual and hands_on(row, p):
            dresidual = dy
        if wants_x:
            means = gathered(torch.cat([dbias, dweight]), arguments.group).sum(0) / total
            mean_dz, mean_dz_normalised = means.to(mean.dtype).chunk(2)
            dx = kernels.batch_norm_backward_input(*shared, channel_dim, mean_dz.clone(), mean_dz_normalised / rstd)
        return (dx, dweight if wants_weight else None, dbias if wants_bias else None, dresidual,
                dparameters, None, None, None, None, None)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, arguments: Arguments,
) -> Tensor:
    """As BatchNorm.apply, in training, over the batch of all ranks."""
    checks.instance("batch_norm", "group", arguments.group, distributed.ProcessGroup)
    with torch.no_grad():
        mean, m2, total = statistics(x, arguments.channel_dim, arguments.group)
        moved = moved_running(running_mean, running_var, num_batches_tracked, mean, m2, total.clamp(min=2),
                              arguments.momentum)
        if running_mean is not None:  # a batch of nothing counts, and moves nothing
            moved = (torch.where(total > 0, moved[0], running_mean), torch.where(total > 0, moved[1], running_var), moved[2])
        move_running(running_mean, running_var, num_batches_tracked, moved)
        total = total.clamp(min=1)
        rstd = torch.rsqrt(m2 / total + arguments.eps)
        compute = accumulate_dtype(x)
    return SynchronisedBatchNorm.apply(
        x, weight, bias, residual, parameters, seed, mean.to(compute), rstd.to(compute), total, arguments)


def statistics(x: Tensor, channel_dim: int, group: object) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, M2, count) of the whole batch in float64, merged by Chan's rule in the order of the ranks."""
    channels = x.size(channel_dim)
    if x.numel() == 0:
        own = x.new_zeros(2 * channels, dtype=torch.float64)
    else:
        own = torch.cat(kernels_for(x, "identity").batch_norm_statistics(x.detach(), channel_dim))
    count = torch.full((1,), x.numel() // max(channels, 1), dtype=torch.float64, device=x.device)
    means, m2s, counts = gathered(torch.cat([own.double(), count]), group).split([channels, channels, 1], 1)
    total = counts.sum(0)
    mean = (means * counts).sum(0) / total.clamp(min=1)
    return mean, (m2s + counts * (means - mean).square()).sum(0), total


def gathered(own: Tensor, group: object) -> Tensor:
    """The vectors of all ranks, [ranks, length], in float64."""
    ranks, collectives = distributed.get_world_size(group), torch.ops._c10d_functional
    pending = collectives.all_gather_into_tensor(own.double().contiguous(), ranks, group.group_name)
    return collectives.wait_tensor(pending).view(ranks, own.numel())
