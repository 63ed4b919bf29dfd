"""The autograd functions: what to save, what to recompute, which gradients to ask for.

All call the kernel interface directly in eager mode and through the custom ops of ops.py under torch.compile. A backward pass that
is itself differentiated (create_graph=True) goes through the reference formulas, which autograd can follow.
"""
from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from . import ops, reference, specs
from .backends import select
from .reference.batch_norm import batch_norm_statistics
from .reference.epilogue import accumulate_dtype

_ONLY_DX = (True, False, False, False, False)


class Activation(Function):
    """y = activation(x): Epilogue without what a plain activation has not, since on a small tensor Python costs more than the kernel.

    Saved for backward: y where the derivative follows from it, else x; and the learnable parameters.
    """

    @staticmethod
    def forward(ctx, x, parameters, row, constants):
        kernels, channel_dim = _kernels(x), 0 if parameters is None or x.dim() == 1 else 1
        y = kernels.epilogue_forward(x, None, None, None, None, _matrix(parameters), None, row.name, constants, 0.0, channel_dim)
        from_output = row.derives_from_output(constants)
        ctx.save_for_backward(y if from_output else x, parameters)
        ctx.kernels, ctx.arguments = kernels, (row.name, constants, 0.0, channel_dim, from_output)
        return y

    @staticmethod
    def backward(ctx, dy):
        saved, parameters = ctx.saved_tensors
        mask = _ONLY_DX if parameters is None else (ctx.needs_input_grad[0], False, False, False, ctx.needs_input_grad[1])
        gradients = _differentiable(ctx.kernels).epilogue_backward(
            _with_stride(dy, saved.stride()), saved, None, None, None, None, _matrix(parameters), None, *ctx.arguments, mask)
        return gradients[0], _shaped_like(gradients[4], parameters), None, None


class Epilogue(Function):
    """y = dropout(activation(x * scale + shift + residual)); bias + activation and dropout are this.

    Saved for backward: nothing but the seed for the identity; y alone where the derivative follows from y and nothing else needs x;
    else x and residual. No mask is ever saved.
    """

    @staticmethod
    def forward(ctx, x, scale, shift, residual, parameters, seed, arguments):
        row, constants, p, channel_dim = arguments
        kernels = _kernels(x)
        y = kernels.epilogue_forward(x, None, scale, shift, residual, _matrix(parameters), seed, row.name, constants, p, channel_dim)
        wants_scale = ctx.needs_input_grad[1]
        ctx.from_output = False
        if row.name == "identity" and not wants_scale:
            ctx.save_for_backward(None, scale, None, None, None, seed)
        elif seed is None and not wants_scale and row.derives_from_output(constants):
            ctx.from_output = True
            ctx.save_for_backward(y, scale, None, None, parameters, None)
        else:
            ctx.save_for_backward(x, scale, shift, residual, parameters, seed)
        ctx.kernels, ctx.arguments, ctx.stride = kernels, arguments, x.stride()
        return y

    @staticmethod
    def backward(ctx, dy):
        x, scale, shift, residual, parameters, seed = ctx.saved_tensors
        row, constants, p, channel_dim = ctx.arguments
        wants_x, wants_scale, wants_shift, wants_residual, wants_parameters = ctx.needs_input_grad[:5]
        dy = _with_stride(dy, ctx.stride)
        if x is None:  # identity: its derivative needs no x, any tensor like it will do
            x = dy
        separate = scale is not None and wants_residual  # else dresidual is dx
        dx, dresidual, dscale, dshift, dparameters = _differentiable(ctx.kernels).epilogue_backward(
            dy, x, None, scale, shift, residual, _matrix(parameters), seed, row.name, constants, p, channel_dim, ctx.from_output,
            (wants_x or (wants_residual and not separate), separate, wants_scale, wants_shift, wants_parameters))
        if wants_residual and not separate:
            dresidual = dx
        return dx, dscale, dshift, dresidual, _shaped_like(dparameters, parameters), None, None


class BatchNorm(Function):
    """y = dropout(activation(batch_norm(x) + residual)), running statistics updated in place.

    Saved for backward: x, the residual where the activation needs it, per-channel vectors and the seed; without batch statistics
    (eval mode), activation and affine gradients only the per-channel vectors.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, residual, parameters, seed, running_mean, running_var, num_batches_tracked, arguments):
        row, constants, p, training, momentum, eps, channel_dim = arguments
        kernels = _kernels(x)
        if training or kernels is not ops:
            y, mean, rstd = kernels.batch_norm_forward(
                x, weight, bias, running_mean, running_var, num_batches_tracked, residual, _matrix(parameters), seed, row.name,
                constants, p, training, momentum, eps, channel_dim)
        else:  # the op above counts as one that changes the running statistics; evaluation must not
            mean, rstd = running_mean.clone(), torch.rsqrt(running_var + eps)
            scale = rstd if weight is None else weight * rstd
            y = kernels.epilogue_forward(x, mean, scale, bias, residual, _matrix(parameters), seed, row.name, constants, p, channel_dim)
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
        dy = _with_stride(dy, ctx.stride)
        if x is None:  # identity in eval mode: dx = dy * scale, whatever x was
            x = dy
        kernels = _differentiable(ctx.kernels)
        if training and kernels is reference and torch.is_grad_enabled():  # the statistics depend on x
            mean, m2 = batch_norm_statistics(x, channel_dim)
            rstd = torch.rsqrt(m2 / (x.numel() // x.size(channel_dim)) + eps)
        wants_x, wants_weight, wants_bias, wants_residual, wants_parameters = ctx.needs_input_grad[:5]
        dx, dresidual, dweight, dbias, dparameters = kernels.batch_norm_backward(
            dy, x, mean, rstd, weight, bias, residual, _matrix(parameters), seed, row.name, constants, p, training, channel_dim,
            (wants_x, wants_residual, wants_weight, wants_bias, wants_parameters))
        return dx, dweight, dbias, dresidual, _shaped_like(dparameters, parameters), None, None, None, None, None


def activation(x: Tensor, parameters: Tensor | None, row: specs.Activation, constants: tuple[float, ...]) -> Tensor:
    """Activation on checked tensors of any strides."""
    if x.dim() == 0:  # kernels count channels along a dimension
        return activation(x.unsqueeze(0), parameters, row, constants).squeeze(0)
    return Activation.apply(_dense(x), _vector(parameters, accumulate_dtype(x)), row, constants)


def epilogue(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    arguments: tuple[specs.Activation, tuple[float, ...], float, int],
) -> Tensor:
    """Epilogue on checked tensors of any strides; arguments are (row, constants, p, channel_dim)."""
    x = _dense(x)
    if residual is not None:
        residual = _with_stride(residual, x.stride())
    compute = accumulate_dtype(x)
    return Epilogue.apply(
        x, _vector(scale, compute), _vector(shift, compute), residual, _vector(parameters, compute), seed, arguments)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None,
    arguments: tuple[specs.Activation, tuple[float, ...], float, bool, float | None, float, int],
) -> Tensor:
    """BatchNorm on checked tensors of any strides; arguments are (row, constants, p, training, momentum, eps, channel_dim)."""
    x = _dense(x)
    if residual is not None:
        residual = _with_stride(residual, x.stride())
    compute = accumulate_dtype(x)
    mean, var = _vector(running_mean, compute), _vector(running_var, compute)
    y = BatchNorm.apply(
        x, _vector(weight, compute), _vector(bias, compute), residual, _vector(parameters, compute), seed, mean, var,
        num_batches_tracked, arguments)
    if mean is not running_mean and arguments[3]:  # training moved a copy in another dtype
        running_mean.copy_(mean)
        running_var.copy_(var)
    return y


def _kernels(x: Tensor) -> ModuleType:
    """Who computes: the custom ops while compiling, else the chosen backend."""
    return ops if torch.compiler.is_compiling() else select(x)


def _differentiable(kernels: ModuleType) -> ModuleType:
    """The forward's backend, or the reference where this backward pass is itself being differentiated."""
    return reference if torch.is_grad_enabled() and not torch.compiler.is_compiling() else kernels


def _vector(vector: Tensor | None, compute: torch.dtype) -> Tensor | None:
    """Per-channel numbers as kernels take them: in the dtype of the arithmetic, contiguous."""
    if vector is None:
        return None
    if vector.dtype is not compute:
        vector = vector.to(compute)
    return vector if vector.is_contiguous() else vector.contiguous()


def _matrix(parameters: Tensor | None) -> Tensor | None:
    """Learnable parameters as kernels take them, [K, P]; a single one may come as [P]."""
    return parameters if parameters is None or parameters.dim() == 2 else parameters.unsqueeze(0)


def _shaped_like(gradient: Tensor | None, parameters: Tensor | None) -> Tensor | None:
    """The gradient of what _matrix has reshaped."""
    return gradient if gradient is None or gradient.dim() == parameters.dim() else gradient.squeeze(0)


def _with_stride(value: Tensor, stride: tuple[int, ...]) -> Tensor:
    """value itself where it has these strides, else a copy that has: element i of memory is then the same one in both."""
    if value.stride() == stride:
        return value
    return torch.empty_strided(value.size(), stride, dtype=value.dtype, device=value.device).copy_(value)


def _dense(x: Tensor) -> Tensor:
    """x itself where its elements fill one block of memory in any order of dimensions, else a copy that does."""
    if x.is_contiguous():
        return x
    strides, sizes, expected = x.stride(), x.size(), 1
    for _ in sizes:  # not sorted: Dynamo cannot sort sizes that it keeps symbolic
        for stride, size in zip(strides, sizes, strict=True):
            if stride == expected and size != 1:
                expected *= size
                break
        else:
            break
    return x if expected == x.numel() else x.clone()
