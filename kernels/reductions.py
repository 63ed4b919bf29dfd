"""Deterministic sums over a channel, in two stages: one partial per program, then a launch that adds them in a fixed order.

No atomics: the same bits on every run.
"""
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.dtypes import accumulate_dtype
from . import launch


@triton.jit
def zeros(COUNT: tl.constexpr, COMPUTE: tl.constexpr, GROUPS: tl.constexpr):
    """COUNT accumulators."""
    totals = ()
    for _ in tl.static_range(COUNT):
        totals += (tl.zeros([GROUPS, 8], COMPUTE),)
    return totals


@triton.jit
def sum_rows(value, LANES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr):
    """Sum of a channels_last tile over its rows: [COLUMNS * 8], one value per channel in order.

    Halves are added until one row is left. ``split`` wants both halves in one lane, so the tile goes through shared memory once, and
    lanes add whole columns: half the instructions of tl.sum, which has every lane exchange every one of its values.
    """
    split = tl.permute(tl.reshape(value, (COLUMNS // LANES, GROUPS // COLUMNS, LANES, 8)), (0, 2, 3, 1))
    total = tl.reshape(split, (COLUMNS * 8, GROUPS // COLUMNS))
    for _ in tl.static_range(5):  # at most 32 rows
        if total.shape[1] > 1:
            even, odd = tl.split(tl.reshape(total, (COLUMNS * 8, total.shape[1] // 2, 2)))
            total = even + odd
    return tl.reshape(total, (COLUMNS * 8,))


@triton.jit
def spread_rows(value, LANES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr):
    """The inverse of sum_rows' shape: each channel's value in every row of the tile, [GROUPS, 8]."""
    split = tl.reshape(value, (COLUMNS // LANES, 1, LANES, 8))
    return tl.reshape(tl.broadcast_to(split, (COLUMNS // LANES, GROUPS // COLUMNS, LANES, 8)), (GROUPS, 8))


@triton.jit
def store_sums(
    partials, totals, chunk, chunks, channel, channels, COUNT: tl.constexpr, CHANNELS_LAST: tl.constexpr, LANES: tl.constexpr,
    COLUMNS: tl.constexpr, GROUPS: tl.constexpr,
):
    """Sum the accumulators over the program's elements into partials [COUNT, chunks, channels].

    ``channel`` is the program's channel, or its block of COLUMNS groups of channels.
    """
    for k in tl.static_range(COUNT):
        row = partials + (k * chunks + chunk) * channels
        if CHANNELS_LAST:
            index = channel * COLUMNS * 8 + tl.arange(0, COLUMNS * 8)
            tl.store(row + index, sum_rows(totals[k], LANES, COLUMNS, GROUPS), mask=index < channels)
        else:
            tl.store(row + channel, tl.sum(totals[k]))


@triton.jit(do_not_specialize=["chunks", "channels", "first_shared", "count"])
def finish_sums(
    partials, sums, rstd, means, chunks, channels, first_shared, count, SHARED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Second stage: program (block, k) adds partials [COUNT, chunks, channels] of sum k over the chunks into sums [COUNT, channels].

    SHARED: from first_shared on, a sum runs over all channels too, and stands at channel 0. Batch norm gives rstd and means
    [2, channels]: sum 1, of dz (x - mean), is multiplied by rstd, and means are the first two sums divided by count.
    """
    block = tl.program_id(0)
    k = tl.program_id(1)
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], COMPUTE)
    source = partials + k * chunks * channels
    if SHARED and k >= first_shared:
        end = chunks * channels if block == 0 else 0
        for start in range(0, end, ROWS * COLUMNS):
            index = start + row * COLUMNS + column
            total += tl.load(source + index, mask=index < end, other=0.0)
        if block == 0:
            tl.store(sums + k * channels, tl.sum(total))
    else:
        channel = block * COLUMNS + column
        for start in range(0, chunks, ROWS):
            inside = (start + row < chunks) & (channel < channels)
            total += tl.load(source + (start + row) * channels + channel, mask=inside, other=0.0)
        channel = block * COLUMNS + tl.arange(0, COLUMNS)
        result = tl.sum(total, 0)
        if means is not None:
            tl.store(means + k * channels + channel, result / count.to(COMPUTE), mask=channel < tl.where(k < 2, channels, 0))
            if k == 1:
                result = result * tl.load(rstd + channel, mask=channel < channels, other=0.0)
        tl.store(sums + k * channels + channel, result, mask=channel < channels)


def empty_partials(x: Tensor, count: int, chunks: int, channels: int) -> Tensor:
    """Room for the first stage, [count, chunks, channels], in the dtype that x is computed in."""
    return torch.empty((count, chunks, channels), dtype=accumulate_dtype(x), device=x.device)


def finish(partials: Tensor, shared: int, rstd: Tensor | None = None, elements: int = 1) -> tuple[Tensor, Tensor | None]:
    """(sums [COUNT, C], means [2, C] when rstd is given): see finish_sums; the last ``shared`` sums run over all channels."""
    count, chunks, channels = partials.shape
    sums = partials.new_empty((count, channels))
    means = None if rstd is None else partials.new_empty((2, channels))
    grid, constants = launch.finish_plan(chunks, channels, partials.dtype)
    with launch.device_guard(partials):
        finish_sums[(grid, count)](partials, sums, rstd, means, chunks, channels, count - shared, elements, SHARED=shared > 0, **constants)
    return sums, means


def parameter_sums(sums: Tensor, first: int, shared: int, parameters: Tensor) -> Tensor:
    """Gradient of the learnable parameters, in their shape, from row ``first`` of the sums on."""
    return (sums[first:, :1].contiguous() if shared else sums[first:]).view(parameters.shape)
