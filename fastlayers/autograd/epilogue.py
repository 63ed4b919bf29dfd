"""The epilogue under autograd: what to save of dropout(activation(x * scale + shift + residual)), what to recompute."""
from __future__ import annotations

from torch import Tensor
from torch.autograd import Function

from .. import specs
from ..context import transformed
from ..reference.epilogue import accumulate_dtype
from . import composed
from .common import dense, differentiable, kernels_for, matrix, shaped_like, vector, with_stride


class Epilogue(Function):
    """y = dropout(activation(x * scale + shift + residual)); bias + activation and dropout are this.

    Saved for backward: nothing but the seed for the identity; y alone where the derivative follows from y and nothing else needs x;
    else x and residual. No mask is ever saved.
    """

    @staticmethod
    def forward(ctx, x, scale, shift, residual, parameters, seed, arguments):
        row, constants, p, channel_dim = arguments
        kernels = kernels_for(x)
        y = kernels.epilogue_forward(x, None, scale, shift, residual, matrix(parameters), seed, row.name, constants, p, channel_dim)
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
        dy = with_stride(dy, ctx.stride)
        if x is None:  # identity: its derivative needs no x, any tensor like it will do
            x = dy
        separate = scale is not None and wants_residual  # else dresidual is dx
        dx, dresidual, dscale, dshift, dparameters = differentiable(ctx.kernels).epilogue_backward(
            dy, x, None, scale, shift, residual, matrix(parameters), seed, row.name, constants, p, channel_dim, ctx.from_output,
            (wants_x or (wants_residual and not separate), separate, wants_scale, wants_shift, wants_parameters))
        if wants_residual and not separate:
            dresidual = dx
        return dx, dscale, dshift, dresidual, shaped_like(dparameters, parameters), None, None


def epilogue(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    arguments: tuple[specs.Activation, tuple[float, ...], float, int],
) -> Tensor:
    """Epilogue on checked tensors of any strides; arguments are (row, constants, p, channel_dim)."""
    if transformed():
        return composed.epilogue(x, scale, shift, residual, parameters, seed, arguments)
    x = dense(x)
    if residual is not None:
        residual = with_stride(residual, x.stride())
    compute = accumulate_dtype(x)
    return Epilogue.apply(
        x, vector(scale, compute), vector(shift, compute), residual, vector(parameters, compute), seed, arguments)
