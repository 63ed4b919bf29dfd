"""The epilogue y = dropout(activation((x - mean) * scale + shift + residual)) + residual_after and its gradients, as PyTorch.

This file and its neighbours are the kernel interface: every backend has functions of these names and signatures.

Tensors      x is dense (contiguous, channels_last or any permutation), float16, bfloat16, float32 or float64. residual, dy and y
             have x's shape, strides and dtype. Seen in memory order, x is (N, C, S): C = x.size(channel_dim), channel_dim >= 0, S = the
             stride of that dimension, N = numel / (C S); one channel is (1, 1, numel), whatever the stride of its dimension.
             mean, scale, shift are float32 [C] (float64 for float64 x), or None for 0, 1, 0; mean needs scale.
Activation   the name of a row of specs.py, its constants, and ``parameters``, its learnable ones: [K, P] in the dtype of scale,
             K of them, P = 1 or C values each, or [P] where K = 1; None when it has none. Their gradient has the same shape.
Dropout      seed is a 0-d int64 tensor on x's device, or None for no dropout; then p is not looked at. p may be 0 beside a seed: a
             random activation needs the seed, whatever p is. ``sample`` 0 counts elements for the mask; else channels are dropped
             whole: memory is samples of ``sample`` elements each, in which channels follow one another as in x, and element i has the
             mask of n C + c, n = i // sample, c = i // S mod C. ``outcome``, (keep_scale, keep_shift, drop_value), says what becomes
             of a kept value, keep_scale y + keep_shift, and of a dropped one; None is (1 / (1 - threshold / 65536), 0, 0).
Afterwards   residual_after is like x, or None; its gradient is dy.
Arithmetic   in float32 (float64 for float64), rounded once to x's dtype.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..context import transformed
from ..specs import ACTIVATIONS
from . import activations, dropout
from .dtypes import accumulate_dtype


def per_channel(vector: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """A view of vector, [C] or [1], that broadcasts along x's channel dimension."""
    if vector.numel() == 1:
        return vector.view([1] * x.dim())
    shape = [1] * x.dim()
    shape[channel_dim] = vector.numel()
    return vector.view(shape)


def channel_sum(value: Tensor, channel_dim: int) -> Tensor:
    """Sum over everything but the channel dimension: [C]."""
    return value.sum([dim for dim in range(value.dim()) if dim != channel_dim]) if value.dim() > 1 else value.clone()


def epilogue_forward(
    x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    residual_after: Tensor | None = None, sample: int = 0, outcome: Sequence[float] | None = None,
) -> Tensor:
    """y, with the shape, strides and dtype of x."""
    z, _ = _pre_activation(x, mean, scale, shift, residual, channel_dim)
    y = activations.function(activation)(z, *activation_arguments(x, parameters, activation, constants, seed, channel_dim))
    y = dropout.apply(y, x, p, seed, sample, channel_dim, outcome)
    y = _like(y if residual_after is None else y + residual_after.to(y.dtype), x)
    return y.clone() if y is x and not transformed() else y  # of the identity: a kernel's result is its own memory


def epilogue_backward(
    dy: Tensor, x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    from_output: bool, output_mask: Sequence[bool], sample: int = 0, outcome: Sequence[float] | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(dx, dresidual, dscale, dshift, dparameters), None where output_mask says that nobody asks.

    With dz = dy * mask * activation'(z): dresidual = dz, dx = dz * scale, and per channel dscale = sum dz (x - mean),
    dshift = sum dz, dparameters[k] = sum dy * mask * d activation / d parameter k.
    from_output: x is not x but y; only for a plain activation, where neither mean, scale, shift, residual nor seed is given.
    Without scale, dx is dresidual: callers ask for dx only.
    """
    compute = accumulate_dtype(x)
    arguments = activation_arguments(x, parameters, activation, constants, seed, channel_dim)
    if from_output:
        slopes, centred = activations.function(activation, "derivative_from_output")(x.to(compute), *arguments), x.to(compute)
    else:
        z, centred = _pre_activation(x, mean, scale, shift, residual, channel_dim)
        slopes = activations.function(activation, "derivative")(z, *arguments)
    dy = dropout.apply(dy.to(compute), x, p, seed, sample, channel_dim, outcome, gradient=True)
    dz = passed_on(dy, slopes[0], activation)
    want_dx, want_dresidual, want_dscale, want_dshift, want_dparameters = output_mask
    return (
        _like(dz if scale is None else dz * per_channel(scale, x, channel_dim), x) if want_dx else None,
        _like(dz, x) if want_dresidual else None,
        channel_sum(dz * centred, channel_dim) if want_dscale else None,
        channel_sum(dz, channel_dim) if want_dshift else None,
        _parameter_sums(dy, slopes[1:], parameters, channel_dim) if want_dparameters else None,
    )


def passed_on(gradient: Tensor, slope: Tensor, activation: str) -> Tensor:
    """gradient * slope; 0 where the slope is 0, even for an infinite or NaN gradient, if the activation masks."""
    if ACTIVATIONS[activation].masks:
        gradient = torch.where(slope == 0, torch.zeros_like(gradient), gradient)
    return gradient * slope


def epilogue_inverse(
    y: Tensor, mean: Tensor, scale: Tensor, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, activation: str,
    constants: Sequence[float], channel_dim: int,
) -> Tensor:
    """The x that epilogue_forward made y of, without dropout: (inverse(y) - residual - shift) / scale + mean. No scale may be 0."""
    compute = accumulate_dtype(y)
    arguments = activation_arguments(y, parameters, activation, constants, None, channel_dim)
    z = activations.function(activation, "inverse")(y.to(compute), *arguments)
    if residual is not None:
        z = z - residual.to(compute)
    if shift is not None:
        z = z - per_channel(shift, y, channel_dim)
    return _like(z / per_channel(scale, y, channel_dim) + per_channel(mean, y, channel_dim), y)


def _pre_activation(
    x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, channel_dim: int
) -> tuple[Tensor, Tensor]:
    """(z, x - mean) in the compute dtype."""
    compute = accumulate_dtype(x)
    centred = x.to(compute) if mean is None else x.to(compute) - per_channel(mean, x, channel_dim)
    z = centred
    if scale is not None:
        z = z * per_channel(scale, x, channel_dim)
    if shift is not None:
        z = z + per_channel(shift, x, channel_dim)
    if residual is not None:
        z = z + residual.to(compute)
    return z, centred


def activation_arguments(
    x: Tensor, parameters: Tensor | None, activation: str, constants: Sequence[float], seed: Tensor | None, channel_dim: int
) -> list[Tensor | float]:
    """What the activation's functions take after x: learnable parameters, then constants, then what a random one draws."""
    rows = () if parameters is None else (parameters,) if parameters.dim() == 1 else parameters
    learnable = [per_channel(row, x, channel_dim) for row in rows]
    return [*learnable, *constants, *([dropout.uniform_like(x, seed)] if ACTIVATIONS[activation].random else [])]


def _parameter_sums(dy: Tensor, slopes: Sequence[Tensor], parameters: Tensor, channel_dim: int) -> Tensor:
    """Gradient of the learnable parameters, in their shape."""
    sums = torch.stack([channel_sum(dy * slope, channel_dim) for slope in slopes])  # [K, C]
    return (sums if parameters.size(-1) != 1 or sums.size(1) == 1 else sums.sum(1)).view(parameters.shape)


def _like(value: Tensor, x: Tensor) -> Tensor:
    """value rounded to x's dtype, in x's memory order."""
    value = value.to(x.dtype)
    if value.stride() == x.stride() or transformed():  # their tensors have no memory order of their own
        return value
    return value.new_empty_strided(x.size(), x.stride()).copy_(value)
