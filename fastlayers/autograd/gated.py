"""Gated units under autograd: the input is all that backward needs, for both factors are functions of it."""
from __future__ import annotations

from torch import Tensor

from .. import reference, specs
from ..context import transformed
from ..reference.dtypes import accumulate_dtype
from ..strides import with_stride
from .common import KernelFunction, dense, differentiable, kernels_for, recorded, vector


class Gated(KernelFunction):
    """y = dropout(a * activation(b)), a and b the halves of x.

    Saved for backward: x, the learnable parameters and the seed.
    """

    @staticmethod
    def forward(ctx, x, parameters, seed, arguments):
        row, constants, p, dim, gate_first = arguments
        kernels = kernels_for(x, row.name)
        y = kernels.gated_forward(x, parameters, seed, row.name, constants, p, dim, gate_first)
        ctx.save_for_backward(x, parameters, seed)
        ctx.kernels, ctx.arguments, ctx.strides = kernels, arguments, (x.stride(), y.stride())
        return y

    @staticmethod
    def backward(ctx, dy):
        x, parameters, seed = ctx.saved_tensors
        row, constants, p, dim, gate_first = ctx.arguments
        x_stride, y_stride = ctx.strides
        dx, dparameters = differentiable(ctx.kernels).gated_backward(
            with_stride(dy, y_stride), with_stride(x, x_stride), parameters, seed, row.name, constants, p, dim, gate_first,
            (ctx.needs_input_grad[0], ctx.needs_input_grad[1]))
        return dx, dparameters, None, None


def gated(
    x: Tensor, parameters: Tensor | None, seed: Tensor | None,
    arguments: tuple[specs.Activation, tuple[float, ...], float, int, bool],
) -> Tensor:
    """Gated on checked tensors of any strides; arguments are (row, constants, p, dim, gate_first)."""
    if transformed():
        row, constants, p, dim, gate_first = arguments
        return reference.gated_forward(x, parameters, seed, row.name, constants, p, dim, gate_first)
    return recorded(Gated, dense(x), vector(parameters, accumulate_dtype(x)), seed, arguments)
