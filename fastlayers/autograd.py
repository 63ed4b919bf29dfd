"""The autograd functions: what to save, what to recompute, which gradients to ask for.

Both call the kernel interface directly in eager mode and through the custom ops of ops.py under torch.compile. A backward pass that
is itself differentiated (create_graph=True) goes through the reference formulas, which autograd can follow.
"""
from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from . import ops, reference
from .backends import select
from .reference.batch_norm import batch_norm_statistics
from .reference.epilogue import accumulate_dtype


class Epilogue(Function):
    """y = dropout(activation(x * scale + shift + residual)); plain activations, bias + activation and dropout are this.

    Saved for backward: nothing but the seed for the identity; y alone where the derivative follows from y and nothing else needs x;
    else x and residual. No mask is ever saved.
    """

    @staticmethod
    def forward(ctx, x, scale, shift, residual, parameters, seed, row, constants, p, channel_dim):
        kernels = _kernels(x)
        scale_, shift_, parameters_ = _computed(x, scale), _computed(x, shift), _computed(x, parameters)
        y = kernels.epilogue_forward(x, None, scale_, shift_, residual, parameters_, seed, row.name, constants, p, channel_dim)
        wants_scale = ctx.needs_input_grad[1]
        ctx.from_output = seed is None and not wants_scale and row.derives_from_output(constants)
        if row.name == "identity" and not wants_scale:
            ctx.save_for_backward(None, scale, None, None, None, seed)
        elif ctx.from_output:
            ctx.save_for_backward(y, scale, None, None, parameters, None)
        else:
            ctx.save_for_backward(x, scale, shift, residual, parameters, seed)
        ctx.arguments = row.name, constants, p, channel_dim
        ctx.kernels, ctx.stride = kernels, x.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        x, scale, shift, residual, parameters, seed = ctx.saved_tensors
        name, constants, p, channel_dim = ctx.arguments
        wants_x, wants_scale, wants_shift, wants_residual, wants_parameters = ctx.needs_input_grad[:5]
        from_output = ctx.from_output and x is not None
        dy = _with_stride(dy, ctx.stride)
        if x is None:  # identity: its derivative needs no x, any tensor like it will do
            x = dy
        kernels = _differentiable(ctx.kernels)
        separate = scale is not None and wants_residual  # else dresidual is dx
        dx, dresidual, dscale, dshift, dparameters = kernels.epilogue_backward(
            dy, x, None, _computed(x, scale), _computed(x, shift), residual, _computed(x, parameters), seed, name, constants, p,
            channel_dim, from_output,
            (wants_x or (wants_residual and not separate), separate, wants_scale, wants_shift, wants_parameters))
        if wants_residual and not separate:
            dresidual = dx
        return dx, dscale, dshift, dresidual, dparameters, None, None, None, None, None


class BatchNorm(Function):
    """y = dropout(activation(batch_norm(x) + residual)), running statistics updated in place.

    Saved for backward: x, the residual where the activation needs it, per-channel vectors and the seed; without batch statistics
    (eval mode), activation and affine gradients only the per-channel scale.
    """

    @staticmethod
    def forward(
        ctx, x, weight, bias, residual, parameters, seed, running_mean, running_var, num_batches_tracked, row, constants, p, training,
        momentum, eps, channel_dim,
    ):
        kernels = _kernels(x)
        weight_, bias_, parameters_ = _computed(x, weight), _computed(x, bias), _computed(x, parameters)
        running = _computed(x, running_mean), _computed(x, running_var)
        if training or kernels is not ops:
            y, mean, rstd = kernels.batch_norm_forward(
                x, weight_, bias_, *running, num_batches_tracked, residual, parameters_, seed, row.name, constants, p, training,
                momentum, eps, channel_dim)
        else:  # the op above counts as one that changes the running statistics; evaluation must not
            mean, rstd = running[0].clone(), torch.rsqrt(running[1] + eps)
            scale = rstd if weight_ is None else weight_ * rstd
            y = kernels.epilogue_forward(
                x, mean, scale, bias_, residual, parameters_, seed, row.name, constants, p, channel_dim)
        if training and running_mean is not None and running[0] is not running_mean:
            running_mean.copy_(running[0])
            running_var.copy_(running[1])
        plain = row.name == "identity" and not training and not ctx.needs_input_grad[1]
        if row.name == "identity":
            residual = None  # the gradient does not depend on it
        ctx.save_for_backward(None if plain else x, mean, rstd, weight, bias, residual, parameters, seed)
        ctx.arguments = row.name, constants, p
        ctx.training, ctx.eps, ctx.channel_dim, ctx.kernels, ctx.stride = training, eps, channel_dim, kernels, x.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        x, mean, rstd, weight, bias, residual, parameters, seed = ctx.saved_tensors
        dy = _with_stride(dy, ctx.stride)
        if x is None:  # identity in eval mode: dx = dy * scale, whatever x was
            x = dy
        kernels = _differentiable(ctx.kernels)
        if kernels is reference and torch.is_grad_enabled() and ctx.training:  # the statistics depend on x
            mean, m2 = batch_norm_statistics(x, ctx.channel_dim)
            rstd = torch.rsqrt(m2 / (x.numel() // x.size(ctx.channel_dim)) + ctx.eps)
        wants_x, wants_weight, wants_bias, wants_residual, wants_parameters = ctx.needs_input_grad[:5]
        dx, dresidual, dweight, dbias, dparameters = kernels.batch_norm_backward(
            dy, x, mean, rstd, _computed(x, weight), _computed(x, bias), residual, _computed(x, parameters), seed, *ctx.arguments,
            ctx.training, ctx.channel_dim, (wants_x, wants_residual, wants_weight, wants_bias, wants_parameters))
        return dx, dweight, dbias, dresidual, dparameters, *[None] * 11


def _kernels(x: Tensor) -> ModuleType:
    """Who computes: the custom ops while compiling, else the chosen backend."""
    return ops if torch.compiler.is_compiling() else select(x)


def _differentiable(kernels: ModuleType) -> ModuleType:
    """The forward's backend, or the reference where this backward pass is itself being differentiated."""
    return reference if torch.is_grad_enabled() and not torch.compiler.is_compiling() else kernels


def _computed(x: Tensor, vector: Tensor | None) -> Tensor | None:
    """A per-channel vector in the dtype x is computed in, contiguous."""
    if vector is None:
        return None
    return vector.to(accumulate_dtype(x)).contiguous()


def _with_stride(value: Tensor, stride: tuple[int, ...]) -> Tensor:
    """value itself where it has these strides, else a copy that has: element i of memory is then the same one in both."""
    if value.stride() == stride:
        return value
    return torch.empty_strided(value.size(), stride, dtype=value.dtype, device=value.device).copy_(value)


def _dense(x: Tensor) -> Tensor:
    """x itself where its elements fill one block of memory in any order of dimensions, else a copy that does."""
    if x.is_contiguous():
        return x
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.size(), strict=True) if size != 1):
        if stride != expected:
            return x.clone()
        expected *= size
    return x


def epilogue(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    row: object, constants: tuple[float, ...], p: float, channel_dim: int,
) -> Tensor:
    """Epilogue on checked arguments of any strides."""
    x = _dense(x)
    if residual is not None:
        residual = _with_stride(residual, x.stride())
    return Epilogue.apply(x, scale, shift, residual, parameters, seed, row, constants, p, channel_dim)


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *arguments: object) -> Tensor:
    """BatchNorm on checked arguments of any strides."""
    x = _dense(x)
    if residual is not None:
        residual = _with_stride(residual, x.stride())
    return BatchNorm.apply(x, weight, bias, residual, *arguments)
