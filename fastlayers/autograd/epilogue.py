"""The epilogue under autograd: what to save of dropout(activation(x * scale + shift + residual)) + residual_after, what to recompute."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .. import specs
from ..backends import is_compiled
from ..context import transformed
from ..reference.dtypes import accumulate_dtype
from ..strides import with_stride
from . import composed
from .common import KernelFunction, dense, differentiable, hands_on, kernels_for, recorded, vector


class Arguments(NamedTuple):
    """What the epilogue takes besides tensors."""

    row: specs.Activation
    constants: tuple[float, ...]
    p: float
    channel_dim: int
    by_channel: bool = False
    """Whether dropout takes whole channels, dimension ``channel_dim``, of samples, dimension 0."""
    outcome: Sequence[float] | None = None
    """What becomes of kept and dropped values: see reference/epilogue.py."""


class Epilogue(KernelFunction):
    """y = dropout(activation(x * scale + shift + residual)) + residual_after; bias + activation and dropout are this.

    Saved for backward: nothing but the seed for the identity; y alone where the derivative follows from y and nothing else needs x;
    else x and residual. No mask is ever saved. Compiled backends have this without Python (csrc/bindings_epilogue.cpp).
    """

    @staticmethod
    def forward(ctx, x, scale, shift, residual, parameters, seed, residual_after, arguments):
        row, constants, p, channel_dim, by_channel, outcome = arguments
        kernels, sample = kernels_for(x, row.name), sample_of(x) if by_channel else 0
        y = kernels.epilogue_forward(
            x, None, scale, shift, residual, parameters, seed, row.name, constants, p, channel_dim, residual_after, sample, outcome)
        keeps_x, ctx.from_output = needed(row, constants, x, seed, residual_after, ctx.needs_input_grad[1])
        if not keeps_x:
            shift = residual = None
        ctx.save_for_backward(y if ctx.from_output else x if keeps_x else None, scale, shift, residual, parameters, seed)
        ctx.kernels, ctx.arguments, ctx.stride, ctx.sample = kernels, arguments, x.stride(), sample
        return y

    @staticmethod
    def backward(ctx, dy):
        x, scale, shift, residual, parameters, seed = ctx.saved_tensors
        row, constants, p, channel_dim, _, outcome = ctx.arguments
        wants_x, wants_scale, wants_shift, wants_residual, wants_parameters, _, wants_after, _ = ctx.needs_input_grad
        dafter = dy if wants_after else None
        scaled, known = scale is not None, hands_on(row, p)
        wants_dz = not known and (wants_residual or (wants_x and not scaled))  # of what the activation is given, dx unless scaled
        mask = (wants_x if scaled else wants_dz, wants_dz and scaled, wants_scale, wants_shift, wants_parameters)
        dx = dz = dscale = dshift = dparameters = None
        if any(mask):
            dy, x, residual = with_stride(dy, ctx.stride), with_stride(x, ctx.stride), with_stride(residual, ctx.stride)
            if x is None:  # identity: its derivative needs no x, any tensor like it will do
                x = dy
            dx, dz, dscale, dshift, dparameters = differentiable(ctx.kernels).epilogue_backward(
                dy, x, None, scale, shift, residual, parameters, seed, row.name, constants, p, channel_dim, ctx.from_output, mask,
                ctx.sample, outcome)
        if known:
            dz = dy
        elif not scaled:
            dz = dx
        if not scaled:
            dx = dz if wants_x else None
        return dx, dscale, dshift, dz if wants_residual else None, dparameters, None, dafter, None


def needed(
    row: specs.Activation, constants: tuple[float, ...], x: Tensor, seed: Tensor | None, residual_after: Tensor | None, wants_scale: bool,
) -> tuple[bool, bool]:
    """Whether backward needs x, with what was added to it, and whether y in its place."""
    if wants_scale:
        return True, False
    if row.name == "identity":
        return False, False
    from_output = seed is None and residual_after is None and row.derives_from_output(constants, x.dtype.itemsize)
    return not from_output, from_output


def sample_of(x: Tensor) -> int:
    """Elements of one sample."""
    return x.numel() // x.size(0) if x.numel() else 0


def samples_apart(x: Tensor) -> Tensor:
    """x itself where its samples, dimension 0, follow one another in memory, else a copy in which they do."""
    return x if x.size(0) < 2 or x.stride(0) == sample_of(x) else x.contiguous()


def epilogue(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None,
    arguments: Arguments, residual_after: Tensor | None = None,
) -> Tensor:
    """Epilogue on checked tensors of any strides."""
    if transformed():
        return composed.epilogue(x, scale, shift, residual, parameters, seed, arguments, residual_after)
    x = dense(x)
    if arguments.by_channel:
        x = samples_apart(x)
    if residual is not None:
        residual = with_stride(residual, x.stride())
    if residual_after is not None:
        residual_after = with_stride(residual_after, x.stride())
    compute = accumulate_dtype(x)
    scale, shift, parameters = vector(scale, compute), vector(shift, compute), vector(parameters, compute)
    tensors = (x, scale, shift, residual, parameters, seed, residual_after)
    row, constants, p, channel_dim, by_channel, outcome = arguments
    kernels = kernels_for(x, row.name)
    if not is_compiled(kernels):
        return recorded(Epilogue, *tensors, arguments)
    keeps = needed(row, constants, x, seed, residual_after, scale is not None and scale.requires_grad)
    return kernels.epilogue(*tensors, row.name, constants, p, channel_dim, sample_of(x) if by_channel else 0, outcome, *keeps)
