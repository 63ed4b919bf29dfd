"""Batch norm in Triton: statistics, forward with running statistics, backward. Conventions as in fastlayers/reference/batch_norm.py.

Training takes three launches each way: sums of every chunk, their combination, the sweep that writes y or dx.
Statistics are shifted: every row of a tile sums deviations from the mean of the first elements it sees (a single element for
channels_last), which of T visits are one, so that the pivot is within sqrt(T) standard deviations of the mean of what it is used for
and cancellation costs at most a factor T; rows, warps and chunks are then merged by Chan's rule, on deviations from values near the
mean: a mean far from zero costs no digits of the variance.
"""
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference
from . import launch, reductions, tiles
from .epilogue import launch_backward, launch_forward
from .memory import or_reference


@triton.jit
def _count_batch(num_batches_tracked):
    """Add one to the counter, once per launch; the next launch reads it."""
    if num_batches_tracked is not None:
        first = tl.program_id(0) == 0
        tl.store(num_batches_tracked, tl.load(num_batches_tracked, mask=first, other=0) + 1, mask=first)


@triton.jit
def _shifted(value, sums, squares, pivot):
    """Add a tile's deviations from the pivots, and their squares, element by element."""
    deviation = value - pivot
    return sums + deviation, tl.fma(deviation, deviation, squares)


@triton.jit
def _finite(value):
    """value, and 0 where it is not finite: deviations from an infinite pivot would be NaN."""
    return tl.where(tl.abs(value) < float("inf"), value, tl.zeros_like(value))


@triton.jit
def _m2(squares, correction):
    """squares of deviations from a pivot - correction: at least 0 whatever rounding does, infinite where the squares overflowed."""
    return tl.where(squares < float("inf"), tl.maximum(squares - correction, 0.0), squares)


@triton.jit
def _recentre(count, sums, squares, pivot, centre):
    """(sum of deviations from centre, sum of their squares) from those of deviations from a pivot."""
    mean = sums / tl.maximum(count, 1.0)
    about = (pivot - centre) + mean
    return count * about, _m2(squares, sums * mean) + count * about * about


@triton.jit(do_not_specialize=["slots", "chunk_slots", "chunks", "channels", "length", "row_groups", "multiplier", "bits"])
def batch_norm_statistics_contiguous(
    x, partials, num_batches_tracked, slots, chunk_slots, chunks, channels, length, row_groups, multiplier, bits,
    ONE_ROW: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    """partials [4, chunks, channels] of each chunk: count, a value near the mean, sum of deviations from it, M2."""
    _count_batch(num_batches_tracked)
    program = tl.program_id(0)
    channel = 0 if ONE_ROW else program % channels
    chunk = program if ONE_ROW else program // channels
    begin = chunk * chunk_slots
    end = tl.minimum(begin + chunk_slots, slots)
    tile = tiles.contiguous_tile(begin, end, channel, channels, length, row_groups, multiplier, bits, ONE_ROW, ALIGNED, GROUPS)
    counts = tl.sum(tile[2].to(COMPUTE), 1)
    value = tiles.load(x, tile, 0.0, not ALIGNED, COMPUTE)
    mean = _finite((tl.sum(value, 1) / tl.maximum(counts, 1.0)).to(x.dtype.element_ty))
    shift = mean[:, None] + tl.zeros([GROUPS, 8], x.dtype.element_ty)
    pivot = shift.to(COMPUTE)
    first = tl.where(tile[2], value, pivot)
    sums, squares = _shifted(first, tl.zeros_like(first), tl.zeros_like(first), pivot)
    for start in range(begin + GROUPS, end, GROUPS):
        tile = tiles.contiguous_tile(start, end, channel, channels, length, row_groups, multiplier, bits, ONE_ROW, ALIGNED, GROUPS)
        if not ALIGNED:
            counts += tl.sum(tile[2].to(COMPUTE), 1)
        sums, squares = _shifted(tiles.load(x, tile, shift, not ALIGNED, COMPUTE), sums, squares, pivot)
    if ALIGNED:
        visits = (end - begin - tl.arange(0, GROUPS) + GROUPS - 1) // GROUPS
        counts = tl.maximum(visits, 0).to(COMPUTE) * 8
        total = ((end - begin) * 8).to(COMPUTE)
    else:
        total = tl.sum(counts)
    pivots = tl.max(pivot, 1)
    centre = tl.sum(pivots * counts) / total
    sums, squares = _recentre(counts, tl.sum(sums, 1), tl.sum(squares, 1), pivots, centre)
    deviation = tl.sum(sums)
    destination = partials + chunk * channels + channel
    tl.store(destination, total)
    tl.store(destination + chunks * channels, centre)
    tl.store(destination + 2 * chunks * channels, deviation)
    tl.store(destination + 3 * chunks * channels, _m2(tl.sum(squares), deviation * deviation / total))


@triton.jit(do_not_specialize=["rows", "chunk_rows", "chunks", "channels", "blocks"])
def batch_norm_statistics_channels_last(
    x, partials, num_batches_tracked, rows, chunk_rows, chunks, channels, blocks,
    UNIT: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    """As batch_norm_statistics_contiguous; every element of the tile follows its own channel down the rows."""
    _count_batch(num_batches_tracked)
    block = tl.program_id(0) % blocks
    chunk = tl.program_id(0) // blocks
    column, channel, present = tiles.channels_last_columns(block, channels, UNIT, LANES, COLUMNS, GROUPS)
    begin = chunk * chunk_rows
    end = tl.minimum(begin + chunk_rows, rows)
    tile = tiles.channels_last_tile(begin, end, column, channel, present, channels, UNIT, LANES, COLUMNS, GROUPS)
    value = tl.load(x + tile[1], mask=tile[2], other=0.0)
    shift = _finite(value)
    pivot = shift.to(COMPUTE)
    sums, squares = _shifted(value.to(COMPUTE), tl.zeros([GROUPS, 8], COMPUTE), tl.zeros([GROUPS, 8], COMPUTE), pivot)
    for start in range(begin + GROUPS // COLUMNS, end, GROUPS // COLUMNS):
        tile = tiles.channels_last_tile(start, end, column, channel, present, channels, UNIT, LANES, COLUMNS, GROUPS)
        sums, squares = _shifted(tiles.load(x, tile, shift, False, COMPUTE), sums, squares, pivot)
    row = tl.arange(0, GROUPS) // LANES % (GROUPS // COLUMNS)
    visits = tl.maximum((end - begin - row + GROUPS // COLUMNS - 1) // (GROUPS // COLUMNS), 0)
    counts = visits.to(COMPUTE)[:, None] + tl.zeros_like(sums)
    total = (end - begin).to(COMPUTE)
    centre = reductions.sum_rows(pivot * counts, LANES, COLUMNS, GROUPS) / total
    sums, squares = _recentre(counts, sums, squares, pivot, reductions.spread_rows(centre, LANES, COLUMNS, GROUPS))
    deviation = reductions.sum_rows(sums, LANES, COLUMNS, GROUPS)
    m2 = _m2(reductions.sum_rows(squares, LANES, COLUMNS, GROUPS), deviation * deviation / total)
    index = block * COLUMNS * 8 + tl.arange(0, COLUMNS * 8)
    destination = partials + chunk * channels + index
    tl.store(destination, tl.broadcast_to(total, centre.shape), mask=index < channels)
    tl.store(destination + chunks * channels, centre, mask=index < channels)
    tl.store(destination + 2 * chunks * channels, deviation, mask=index < channels)
    tl.store(destination + 3 * chunks * channels, m2, mask=index < channels)


@triton.jit
def _rstd(variance, eps, COMPUTE: tl.constexpr):
    """1 / sqrt(variance + eps), correctly rounded twice."""
    if tl.float64 == COMPUTE:
        return 1.0 / tl.sqrt(variance + eps)
    else:
        return tl.div_rn(1.0, tl.sqrt_rn(variance + eps))


@triton.jit
def _move(pointer, channel, present, value, rate):
    """running = (1 - rate) running + rate value."""
    running = tl.load(pointer + channel, mask=present, other=0.0)
    tl.store(pointer + channel, (1 - rate) * running + rate * value, mask=present)


@triton.jit(do_not_specialize=["chunks", "channels"])
def finish_statistics(
    partials, mean, m2, rstd, running_mean, running_var, num_batches_tracked, chunks, channels, momentum: tl.float64, eps: tl.float64,
    CUMULATIVE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, COMPUTE: tl.constexpr,
):
    """Second stage: merge the chunks of each channel into mean and m2 or rstd, and move the running statistics."""
    row = tl.arange(0, ROWS)[:, None]
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    source = partials + row * channels + column
    inside = (row < chunks) & (column < channels)
    counts = tl.load(source, mask=inside, other=0.0)
    pivots = tl.load(source + chunks * channels, mask=inside, other=0.0)
    sums = tl.load(source + 2 * chunks * channels, mask=inside, other=0.0)
    squares = tl.load(source + 3 * chunks * channels, mask=inside, other=0.0)
    count = tl.maximum(tl.sum(counts, 0), 1.0)
    nearby = tl.sum(pivots * counts, 0) / count
    about = (pivots - nearby[None, :]) + sums / tl.maximum(counts, 1.0)
    centre = tl.sum(about * counts, 0) / count
    deviation = about - centre[None, :]
    total = tl.sum(squares + counts * deviation * deviation, 0)
    centre += nearby
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    present = channel < channels
    tl.store(mean + channel, centre, mask=present)
    if m2 is not None:
        tl.store(m2 + channel, total, mask=present)
    if rstd is not None:
        tl.store(rstd + channel, _rstd(total / count, tl.full((), eps, COMPUTE), COMPUTE), mask=present)
    if running_mean is not None:
        rate = 1.0 / tl.load(num_batches_tracked).to(COMPUTE) if CUMULATIVE else tl.full((), momentum, COMPUTE)
        _move(running_mean, channel, present, centre, rate)
        _move(running_var, channel, present, total / (count - 1), rate)


@triton.jit(do_not_specialize=["channels"])
def running_statistics(running_mean, running_var, mean, rstd, channels, eps: tl.float64, COLUMNS: tl.constexpr, COMPUTE: tl.constexpr):
    """What eval normalises with: a copy of the running mean, and rstd of the running variance."""
    channel = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    present = channel < channels
    tl.store(mean + channel, tl.load(running_mean + channel, mask=present), mask=present)
    variance = tl.load(running_var + channel, mask=present, other=1.0)
    tl.store(rstd + channel, _rstd(variance, tl.full((), eps, COMPUTE), COMPUTE), mask=present)


def _launch_statistics(x: Tensor, channel_dim: int, num_batches_tracked: Tensor | None) -> Tensor:
    """First stage: partials [4, chunks, C]."""
    layout = launch.layout(x, channel_dim, True)
    plan = launch.plan(layout, x.dtype, True)
    partials = reductions.empty_partials(x, 4, plan.chunks, layout.channels)
    kernel = batch_norm_statistics_channels_last if plan.channels_last else batch_norm_statistics_contiguous
    kernel[plan.grid](x, partials, num_batches_tracked, *plan.sizes, **plan.constants)
    return partials


def _launch_finish(
    partials: Tensor, mean: Tensor, m2: Tensor | None, rstd: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    num_batches_tracked: Tensor | None, momentum: float | None, eps: float,
) -> None:
    """Second stage."""
    _, chunks, channels = partials.shape
    grid, constants = launch.finish_plan(chunks, channels, partials.dtype)
    finish_statistics[(grid,)](
        partials, mean, m2, rstd, running_mean, running_var, num_batches_tracked, chunks, channels,
        0.0 if momentum is None else momentum, eps, CUMULATIVE=momentum is None, **constants,
    )


@or_reference
def batch_norm_statistics(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """(mean, M2) of each channel, [C] each."""
    if x.numel() == 0:
        return reference.batch_norm_statistics(x, channel_dim)
    with launch.device_guard(x):
        partials = _launch_statistics(x, channel_dim, None)
        mean, m2 = partials.new_empty(partials.size(2)), partials.new_empty(partials.size(2))
        _launch_finish(partials, mean, m2, None, None, None, None, 0.0, 0.0)
    return mean, m2


def _statistics_to_use(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, num_batches_tracked: Tensor | None, training: bool,
    momentum: float | None, eps: float, channel_dim: int,
) -> tuple[Tensor, Tensor]:
    """(mean, rstd) to normalise with; training moves the running statistics."""
    if training:
        partials = _launch_statistics(x, channel_dim, num_batches_tracked)
        mean, rstd = partials.new_empty(partials.size(2)), partials.new_empty(partials.size(2))
        _launch_finish(partials, mean, None, rstd, running_mean, running_var, num_batches_tracked, momentum, eps)
        return mean, rstd
    mean, rstd = torch.empty_like(running_mean), torch.empty_like(running_mean)
    grid, constants = launch.channel_plan(mean.numel(), mean.dtype)
    running_statistics[(grid,)](running_mean, running_var, mean, rstd, mean.numel(), eps, **constants)
    return mean, rstd


@or_reference
def batch_norm_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    num_batches_tracked: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None, activation: str,
    constants: Sequence[float], p: float, training: bool, momentum: float | None, eps: float, channel_dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, rstd): what was normalised with. training moves the running statistics, in place."""
    if x.numel() == 0:
        return reference.batch_norm_forward(
            x, weight, bias, running_mean, running_var, num_batches_tracked, residual, parameters, seed, activation, constants, p,
            training, momentum, eps, channel_dim)
    with launch.device_guard(x):
        mean, rstd = _statistics_to_use(x, running_mean, running_var, num_batches_tracked, training, momentum, eps, channel_dim)
        y = launch_forward(x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, channel_dim)
    return y, mean, rstd


@or_reference
def batch_norm_backward(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, training: bool,
    channel_dim: int, output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(dx, dresidual, dweight, dbias, dparameters), None where output_mask says that nobody asks."""
    if x.numel() == 0:
        return reference.batch_norm_backward(
            dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, training, channel_dim, output_mask)
    want_dx, want_dresidual, want_dweight, want_dbias, want_dparameters = output_mask
    through_statistics = training and want_dx
    arguments = (dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, channel_dim, False)
    sums = means = None
    with launch.device_guard(x):
        dx, dresidual, partials, shared = launch_backward(*arguments, (
            want_dx and not training, want_dresidual, want_dweight or through_statistics,
            want_dweight or want_dbias or through_statistics, want_dparameters,
        ))
        if partials is not None:
            channel_sums = want_dweight or through_statistics
            sums, means = reductions.finish(partials, shared, rstd if channel_sums else None, x.numel() // mean.numel())
        if through_statistics:
            dx, _, _, _ = launch_backward(*arguments, (True, False, False, False, False), means)
    first = partials.size(0) - launch.parameter_counts(parameters)[0] if want_dparameters else 0
    return (
        dx, dresidual, sums[1] if want_dweight else None, sums[0] if want_dbias else None,
        reductions.parameter_sums(sums, first, shared, parameters) if want_dparameters else None,
    )


@or_reference
def batch_norm_backward_input(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    mean_dz: Tensor, mean_dz_centred: Tensor,
) -> Tensor:
    """dx from the means over the whole batch of dz and of dz (x - mean), [C] each."""
    if x.numel() == 0:
        return torch.empty_like(x)
    return launch_backward(
        dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, channel_dim, False,
        (True, False, False, False, False), (mean_dz, mean_dz_centred),
    )[0]
