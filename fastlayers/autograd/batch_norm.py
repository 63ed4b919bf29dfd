"""Batch norm with its epilogue under autograd."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from .. import ops, reference, specs
from ..reference.batch_norm import batch_norm_statistics
from ..reference.epilogue import accumulate_dtype
from .common import dense, differentiable, kernels_for, matrix, shaped_like, vector, with_stride


class BatchNorm(Function):
    """y = dropout(activation(batch_norm(x) + residual)), running statistics updated in place.

    Saved for backward: x, the residual where the activation needs it, per-channel vectors and the seed; without batch statistics
    (eval mode), activation and affine gradients only the per-channel vectors.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, residual, parameters, seed, running_mean, running_var, num_batches_tracked, arguments):
        row, constants, p, training, momentum, eps, channel_dim = arguments
        kernels = kernels_for(x, row.name)
        if training or kernels is not ops:
            y, mean, rstd = kernels.batch_norm_forward(
                x, weight, bias, running_mean, running_var, num_batches_tracked, residual, matrix(parameters), seed, row.name,
                constants, p, training, momentum, eps, channel_dim)
        else:  # the op above counts as one that changes the running statistics; evaluation must not
            mean, rstd = running_mean.clone(), torch.rsqrt(running_var + eps)
            scale = rstd if weight is None else weight * rstd
            y = kernels.epilogue_forward(x, mean, scale, bias, residual, matrix(parameters), seed, row.name, constants, p, channel_dim)
        saved = x
        if row.name == "identity":
            residual = None  # the gradient does not depend on it, nor, in eval mode, on x unless weight asks
            saved = x if training or ctx.needs_input_grad[1] else None
        ctx.save_for_backward(saved, mean, rstd, weight, bias, residual, parameters, seed)
        ctx.kernels, ctx.arguments, ctx.stride = kernels, arguments, x.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        x, mean, rstd, weight, bias, residual, parameters, seed = ctx.saved_tensors
        row, constants, p, training, _, eps, channel_dim = ctx.arguments
        dy = with_stride(dy, ctx.stride)
        if x is None:  # identity in eval mode: dx = dy * scale, whatever x was
            x = dy
        kernels = differentiable(ctx.kernels)
        if training and kernels is reference and torch.is_grad_enabled():  # the statistics depend on x
            mean, m2 = batch_norm_statistics(x, channel_dim)
            rstd = torch.rsqrt(m2 / (x.numel() // x.size(channel_dim)) + eps)
        wants_x, wants_weight, wants_bias, wants_residual, wants_parameters = ctx.needs_input_grad[:5]
        dx, dresidual, dweight, dbias, dparameters = kernels.batch_norm_backward(
            dy, x, mean, rstd, weight, bias, residual, matrix(parameters), seed, row.name, constants, p, training, channel_dim,
            (wants_x, wants_residual, wants_weight, wants_bias, wants_parameters))
        return dx, dweight, dbias, dresidual, shaped_like(dparameters, parameters), None, None, None, None, None


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None,
    arguments: tuple[specs.Activation, tuple[float, ...], float, bool, float | None, float, int],
) -> Tensor:
    """BatchNorm on checked tensors of any strides; arguments are (row, constants, p, training, momentum, eps, channel_dim)."""
    x = dense(x)
    if residual is not None:
        residual = with_stride(residual, x.stride())
    compute = accumulate_dtype(x)
    mean, var = vector(running_mean, compute), vector(running_var, compute)
    y = BatchNorm.apply(
        x, vector(weight, compute), vector(bias, compute), residual, vector(parameters, compute), seed, mean, var,
        num_batches_tracked, arguments)
    if mean is not running_mean and arguments[3]:  # training moved a copy in another dtype
        running_mean.copy_(mean)
        running_var.copy_(var)
    return y
