"""Batch norm with its epilogue under autograd."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks, ops, reference, specs
from ..backends import is_compiled
from ..context import transformed
from ..reference.batch_norm import batch_norm_statistics, move_running
from ..reference.dtypes import accumulate_dtype
from ..strides import with_stride
from . import composed, synchronised
from .common import KernelFunction, dense, differentiable, finite_or_old, hands_on, kernels_for, recorded, vector
from .restoring import restorable, restored


class Arguments(NamedTuple):
    """What batch norm takes besides tensors.

    A call of a compiled backend does with a plain tuple of these, in this order: a NamedTuple takes several times as long to make.
    """

    row: specs.Activation
    constants: tuple[float, ...]
    p: float
    training: bool
    momentum: float | None
    eps: float
    channel_dim: int
    inplace: bool = False
    """Whether y is kept in place of x for backward where x can be recovered from it."""
    skip_nonfinite: bool = False
    group: object = None
    """The ranks that hold one batch together, in training."""


class BatchNorm(KernelFunction):
    """y = dropout(activation(batch_norm(x) + residual)), running statistics updated in place.

    Saved for backward: x, or y for an ``inplace`` block, the residual where the activation needs it, per-channel vectors and the
    seed; without batch statistics (eval mode), activation and affine gradients only the per-channel vectors. Compiled backends have
    this without Python, unless ``inplace`` (csrc/bindings_batch_norm.cpp).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, residual, parameters, seed, running_mean, running_var, num_batches_tracked, arguments):
        row, constants, p, training, channel_dim = (
            arguments.row, arguments.constants, arguments.p, arguments.training, arguments.channel_dim)
        kernels = kernels_for(x, row.name)
        if training or kernels is not ops:
            y, mean, rstd = kernels.batch_norm_forward(
                x, weight, bias, running_mean, running_var, num_batches_tracked, residual, parameters, seed, row.name,
                constants, p, training, arguments.momentum, arguments.eps, channel_dim)
        else:  # the op above counts as one that changes the running statistics; evaluation must not
            mean, rstd = running_mean.clone(), torch.rsqrt(running_var + arguments.eps)
            scale = rstd if weight is None else weight * rstd
            y = kernels.epilogue_forward(x, mean, scale, bias, residual, parameters, seed, row.name, constants, p, channel_dim)
        keeps_x, keeps_residual = needed(row, training, ctx.needs_input_grad[1])
        ctx.keeps_output = (keeps_x and arguments.inplace and any(ctx.needs_input_grad)
                            and restorable(y, weight, bias, residual, parameters, seed, row, constants))
        saved = (y if ctx.keeps_output else x) if keeps_x else None
        ctx.save_for_backward(saved, mean, rstd, weight, bias, residual if keeps_residual or ctx.keeps_output else None, parameters, seed)
        ctx.kernels, ctx.arguments, ctx.stride = kernels, arguments, x.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        x, mean, rstd, weight, bias, residual, parameters, seed = ctx.saved_tensors
        arguments = ctx.arguments
        row, constants, p, channel_dim = arguments.row, arguments.constants, arguments.p, arguments.channel_dim
        dy, x, residual = with_stride(dy, ctx.stride), with_stride(x, ctx.stride), with_stride(residual, ctx.stride)
        kernels = differentiable(ctx.kernels)
        if x is None:
            x = dy
        elif ctx.keeps_output:
            checks.once_differentiable("batch_norm", not torch.is_grad_enabled())
            x = restored(kernels, x, mean, rstd, weight, bias, residual, parameters, row, constants, channel_dim)
        wants_x, wants_weight, wants_bias, wants_residual, wants_parameters = ctx.needs_input_grad[:5]
        given = (dy, x, mean, rstd, weight, bias, residual, parameters, seed, row.name, constants, p, arguments.training, channel_dim,
                 (wants_x, wants_residual and not hands_on(row, p), wants_weight, wants_bias, wants_parameters))
        twice = kernels is reference and torch.is_grad_enabled()
        results = differentiable_gradients(*given, arguments.eps) if twice else kernels.batch_norm_backward(*given)
        dx, dresidual, dweight, dbias, dparameters = results
        if wants_residual and hands_on(row, p):
            dresidual = dy
        return dx, dweight, dbias, dresidual, dparameters, None, None, None, None, None


def needed(row: specs.Activation, training: bool, wants_weight: bool) -> tuple[bool, bool]:
    """Whether backward needs x, and whether it needs the residual."""
    if row.name == "identity":  # dz = dy; and without batch statistics dx = dy * scale, whatever x was
        return training or wants_weight, False
    return True, True


def differentiable_gradients(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: tuple[float, ...], p: float, training: bool,
    channel_dim: int, output_mask: tuple[bool, ...], eps: float,
) -> tuple[Tensor | None, ...]:
    """reference.batch_norm_backward for a backward pass that is itself differentiated: the batch's statistics depend on x."""
    if training:
        mean, m2 = batch_norm_statistics(x, channel_dim)
        rstd = torch.rsqrt(m2 / (x.numel() // x.size(channel_dim)) + eps)
    return reference.batch_norm_backward(
        dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, training, channel_dim, output_mask)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, arguments: tuple,
) -> Tensor:
    """BatchNorm on checked tensors of any strides; arguments are Arguments, or a plain tuple of the same."""
    row, constants, p, training, momentum, eps, channel_dim, inplace, skip_nonfinite, group = arguments
    if num_batches_tracked is not None and num_batches_tracked.dtype is not torch.int64:  # a checkpoint's or a cast module's
        counter = num_batches_tracked.to(torch.int64)
        y = batch_norm(x, weight, bias, residual, parameters, seed, running_mean, running_var, counter, arguments)
        num_batches_tracked.copy_(counter)
        return y
    if transformed():
        checks.one_process("batch_norm", group is None)
        return composed.batch_norm(
            x, weight, bias, residual, parameters, seed, running_mean, running_var, num_batches_tracked, Arguments(*arguments))
    x = dense(x)
    if residual is not None:
        residual = with_stride(residual, x.stride())
    compute = accumulate_dtype(x)
    mean, var = vector(running_mean, compute), vector(running_var, compute)
    moves = training and running_mean is not None
    before = [value.clone() for value in (mean, var)] if moves and skip_nonfinite else None
    batches = num_batches_tracked.clone() if before and num_batches_tracked is not None else None
    tensors = (x, vector(weight, compute), vector(bias, compute), residual, vector(parameters, compute), seed, mean, var,
               num_batches_tracked)
    if group is not None:
        y = synchronised.batch_norm(*tensors, Arguments(*arguments))
    elif inplace or not is_compiled(kernels := kernels_for(x, row.name)):
        y = recorded(BatchNorm, *tensors, Arguments(*arguments))
    else:
        keeps = needed(row, training, weight is not None and weight.requires_grad)
        y = kernels.batch_norm(*tensors, row.name, constants, p, training, momentum, eps, channel_dim, *keeps)
    if before:
        now = (mean, var, num_batches_tracked)
        move_running(*now, finite_or_old(now, (*before, batches)))
    for given, moved in ((running_mean, mean), (running_var, var)) if moves else ():
        if moved is not given:  # a copy was moved: of another dtype, or without gaps
            given.copy_(moved)
    return y
