"""Batch norm as PyTorch: statistics, forward with running statistics, backward. Conventions as in epilogue.py.

weight, bias, running_mean, running_var, mean and rstd are float32 [C], float64 for float64 x; weight and bias may be None.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .dtypes import accumulate_dtype
from .epilogue import channel_sum, epilogue_backward, epilogue_forward, per_channel


def batch_norm_statistics(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """(mean, M2) of each channel, [C] each: M2 is the sum of squared deviations from the mean. The count is x.numel() / C.

    An infinite element makes the mean infinite, as in torch, where two do not cancel, and M2 NaN; squares that overflow make M2 infinite.
    Of nothing the mean is NaN and M2 0.
    """
    compute = x.to(accumulate_dtype(x))
    count = x.numel() // max(x.size(channel_dim), 1)
    rough = channel_sum(compute, channel_dim) / count
    deviation = compute - per_channel(rough, x, channel_dim)
    correction = channel_sum(deviation, channel_dim) / count  # what rounding has left in the first mean
    squares = channel_sum(deviation.square(), channel_dim)
    if count == 0:
        return rough, squares
    mean = torch.where(rough.isinf(), rough, rough + correction)
    return mean, torch.where(squares.isinf(), squares, squares - count * correction.square())


def batch_norm_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    num_batches_tracked: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None, activation: str,
    constants: Sequence[float], p: float, training: bool, momentum: float | None, eps: float, channel_dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, rstd): what was normalised with, the batch's statistics when training, else a copy of the running ones.

    training also updates, in place, running_mean, running_var (unbiased variance) and num_batches_tracked (+ 1) where they are
    given: new = (1 - momentum) old + momentum batch; momentum None is the cumulative average, momentum = 1 / num_batches_tracked,
    read on the device.
    """
    if training:
        count = x.numel() // max(x.size(channel_dim), 1)
        mean, m2 = batch_norm_statistics(x, channel_dim)
        moved = moved_running(running_mean, running_var, num_batches_tracked, mean.detach(), m2.detach(), count, momentum)
        move_running(running_mean, running_var, num_batches_tracked, moved)
        rstd = torch.rsqrt(m2 / count + eps)
    else:
        mean, rstd = running_mean.clone(), torch.rsqrt(running_var + eps)
    scale = rstd if weight is None else weight * rstd
    y = epilogue_forward(x, mean, scale, bias, residual, parameters, seed, activation, constants, p, channel_dim)
    return y, mean, rstd


def batch_norm_backward(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, training: bool,
    channel_dim: int, output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(dx, dresidual, dweight, dbias, dparameters), None where output_mask says that nobody asks.

    With dz the gradient of the activation's input and xhat = (x - mean) rstd: dbias = sum dz, dweight = sum dz xhat,
    dx = weight rstd (dz - (dbias + xhat dweight) / count) when training, weight rstd dz when not.
    """
    scale = rstd if weight is None else weight * rstd
    want_dx, want_dresidual, want_dweight, want_dbias, want_dparameters = output_mask
    dx, dresidual, dscale, dshift, dparameters = epilogue_backward(
        dy, x, mean, scale, bias, residual, parameters, seed, activation, constants, p, channel_dim, False,
        (want_dx and not training, want_dresidual, want_dweight or training, want_dbias or training, want_dparameters),
    )
    if want_dx and training:
        count = x.numel() // max(x.size(channel_dim), 1)
        dx = batch_norm_backward_input(
            dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, channel_dim,
            dshift / count, dscale / count,
        )
    return dx, dresidual, dscale * rstd if want_dweight else None, dshift if want_dbias else None, dparameters


def batch_norm_backward_input(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    mean_dz: Tensor, mean_dz_centred: Tensor,
) -> Tensor:
    """dx from the means over the whole batch of dz and of dz (x - mean), [C] each: synchronised batch norm reduces them first."""
    scale = rstd if weight is None else weight * rstd
    compute = x.to(accumulate_dtype(x))
    dz = epilogue_backward(
        dy.to(compute.dtype), compute, mean, scale, bias, residual, parameters, seed, activation, constants, p, channel_dim, False,
        (False, True, False, False, False),
    )[1]
    slope = rstd.square() * mean_dz_centred
    centred = compute - per_channel(mean, x, channel_dim)
    dx = per_channel(scale, x, channel_dim) * (dz - per_channel(mean_dz, x, channel_dim) - centred * per_channel(slope, x, channel_dim))
    return dx.to(x.dtype)


def moved_running(
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, mean: Tensor, m2: Tensor,
    count: int | Tensor, momentum: float | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The running statistics and the number of batches after this one, as new tensors."""
    batches = None if num_batches_tracked is None else num_batches_tracked + 1
    if running_mean is None:
        return None, None, batches
    rate = 1 / batches.to(mean.dtype) if momentum is None else momentum
    return (1 - rate) * running_mean + rate * mean, (1 - rate) * running_var + rate * (m2 / (count - 1)), batches


def move_running(
    running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None,
    moved: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> None:
    """Write the new running statistics over the old."""
    with torch.no_grad():
        for now, new in zip((running_mean, running_var, num_batches_tracked), moved, strict=True):
            if now is not None:
                now.copy_(new)
