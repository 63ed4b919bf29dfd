"""Plain activations under autograd: the leanest path, since on a small tensor Python costs more than the kernel.

Compiled backends have it without any Python (csrc/bindings_activation.cpp).
"""
from __future__ import annotations

from torch import Tensor

from .. import specs
from ..backends import is_compiled
from ..context import transformed
from ..reference.dtypes import accumulate_dtype
from ..strides import with_stride
from . import composed
from .common import KernelFunction, dense, differentiable, kernels_for, vector

_ONLY_DX = (True, False, False, False, False)


class Activation(KernelFunction):
    """y = activation(x): Epilogue without what a plain activation has not.

    Saved for backward: y where the derivative follows from it, else x; and the learnable parameters.
    """

    @staticmethod
    def forward(ctx, x, parameters, name, constants, channel_dim, from_output):
        kernels = kernels_for(x, name)
        y = kernels.epilogue_forward(x, None, None, None, None, parameters, None, name, constants, 0.0, channel_dim)
        ctx.save_for_backward(y if from_output else x, parameters)
        ctx.kernels, ctx.arguments = kernels, (name, constants, channel_dim, from_output)
        return y

    @staticmethod
    def backward(ctx, dy):
        saved, parameters = ctx.saved_tensors
        name, constants, channel_dim, from_output = ctx.arguments
        if not (dy.is_contiguous() and saved.is_contiguous()):
            dy = with_stride(dy, saved.stride())
        mask = _ONLY_DX if parameters is None else (ctx.needs_input_grad[0], False, False, False, ctx.needs_input_grad[1])
        dx, _, _, _, dparameters = differentiable(ctx.kernels).epilogue_backward(
            dy, saved, None, None, None, None, parameters, None, name, constants, 0.0, channel_dim,
            from_output, mask)
        return dx, dparameters, None, None, None, None


def activation(x: Tensor, parameters: Tensor | None, row: specs.Activation, constants: tuple[float, ...]) -> Tensor:
    """Activation on checked tensors of any strides."""
    if x.dim() == 0:  # kernels count channels along a dimension
        return activation(x.unsqueeze(0), parameters, row, constants).squeeze(0)
    channel_dim = 0 if parameters is None or x.dim() == 1 else 1
    if transformed():
        return composed.epilogue(x, None, None, None, parameters, None, (row, constants, 0.0, channel_dim, False, None))
    if parameters is not None:
        parameters = vector(parameters, accumulate_dtype(x))
    if not x.is_contiguous():
        x = dense(x)
    kernels = kernels_for(x, row.name)
    apply = kernels.activation if is_compiled(kernels) else Activation.apply
    return apply(x, parameters, row.name, constants, channel_dim, row.derives_from_output(constants, x.dtype.itemsize))
