"""How the layer kernels are launched: pure functions from sizes to grids and block sizes, and the current-device guard.

No autotuning: a table by access pattern. A tile has GROUPS groups of eight elements, one for each lane of the block; reductions
are cut into as many chunks as fill the device a few times over, whatever the number of channels.
"""
from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX_ELEMENTS = 2**33  # 2^30 groups of eight: half of what an int32 counts, with room for a last tile
_MAX_SLOTS = 2**31 - 2**16  # of one channel, and rows: an int32 counts them, with room for a last tile; see tiles.divide
_MULTIPROCESSORS = 132  # of an H100
_PROGRAMS = 8 * _MULTIPROCESSORS  # of a reduction over a large tensor
_MAX_CHUNKS = 1024
_MANY = 12  # sums of eight columns each that a lane's registers hold beside everything else
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}  # fusion only where a kernel says tl.fma


class Layout(NamedTuple):
    """A tensor in memory order: N x C x S elements."""

    images: int
    channels: int
    length: int


class Plan(NamedTuple):
    """One launch: the grid, sizes as kernels take them, and constexprs."""

    grid: tuple[int]
    channels_last: bool
    chunks: int
    sizes: tuple[int, ...]
    constants: dict[str, object]


def layout(x: Tensor, channel_dim: int, per_channel: bool, sample: int = 0) -> Layout:
    """x in memory order; without anything per channel it is one channel. sample > 0: channels of samples of that many elements count."""
    if sample > 1 and x.size(channel_dim) == 1:
        return Layout(x.numel() // sample, 1, sample)
    if not (per_channel or sample) or x.dim() == 0 or x.size(channel_dim) == 1:
        return Layout(1, 1, x.numel())
    channels, length = x.size(channel_dim), x.stride(channel_dim)
    return Layout(x.numel() // (channels * length), channels, length)


def reciprocal(divisor: int) -> tuple[int, int]:
    """(multiplier - 2^32, bits) with n // divisor == (n * multiplier >> 32) >> bits for 0 <= n < 2^31 and divisor > 1.

    With 2^bits < divisor <= 2^(bits + 1), multiplier = 2^(32 + bits) / divisor rounded up lies in [2^31, 2^32): as a kernel's argument
    it is the int32 of the same bits.
    """
    if divisor < 2:
        return 0, 0
    bits = (divisor - 1).bit_length() - 1
    return -(-(1 << (32 + bits)) // divisor) - (1 << 32), bits


def _power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def _chunks(tiles: int, blocks: int, tiles_per_program: int) -> tuple[int, int]:
    """(chunks, tiles in each) for ``blocks`` programs side by side.

    A program has tiles_per_program tiles; fewer where that leaves multiprocessors idle, more where the device is full anyway. A rest
    is shared out rather than given a program of its own, if there are enough of them.
    """
    each = max(1, min(tiles_per_program, tiles * blocks // _MULTIPROCESSORS))
    each = max(each, -(-tiles * blocks // _PROGRAMS), -(-tiles // _MAX_CHUNKS))
    if tiles // each * blocks >= _MULTIPROCESSORS:
        each = -(-tiles // (tiles // each))
    return -(-tiles // each), each


@lru_cache(maxsize=16)
def _warp_size(driver: object) -> int:
    """Lanes of a warp, 64 on AMD GPUs."""
    return driver.get_current_target().warp_size


def plan(layout: Layout, dtype: torch.dtype, sums: bool, vectors: int = 0) -> Plan:
    """How to walk a tensor: once over every element, ``sums`` when each program also sums over what it has seen.

    ``vectors`` counts the sums where their terms take as many per-channel values.
    """
    return _plan(layout, dtype, sums, vectors > _MANY, 32 if triton.knobs.runtime.interpret else _warp_size(triton.runtime.driver.active))


@lru_cache(maxsize=4096)
def _plan(layout: Layout, dtype: torch.dtype, sums: bool, many: bool, warp_size: int) -> Plan:
    """One lane for each group of eight elements: that is what makes accesses of half types 128 bits wide.

    Two lanes where ``many`` sums of channels_last columns would not fit the registers of one.
    """
    images, channels, length = layout
    compute = tl.float64 if dtype == torch.float64 else tl.float32
    if length == 1 and channels > 1:
        plan = _plan_channels_last(images, channels, compute)
    else:
        plan = _plan_contiguous(images, channels, length, compute, sums)
    rows = 0 if plan.channels_last else images * channels  # an int32 counts them, too: where rows are of two or three elements
    if images * channels * length >= _MAX_ELEMENTS or plan.sizes[0] >= _MAX_SLOTS or rows >= 2**31:
        raise ValueError("triton: x must have fewer than 2^33 elements, 2^31 rows, and 2^31 pieces of rows in one channel, "
                         f"got (N, C, S) = {(images, channels, length)}")
    plan.constants["num_warps"] = max(1, plan.constants["GROUPS"] // warp_size) * (2 if many and plan.channels_last else 1)
    return plan


def _plan_contiguous(images: int, channels: int, length: int, compute: tl.dtype, sums: bool) -> Plan:
    """sizes: slots of a channel, slots of a chunk, chunks, channels, row length, groups of a row and their reciprocal.

    Small tensors get small blocks, each with more to do: what a program does once weighs as much as several tiles.
    """
    aligned = length % 8 == 0 and (length > 8 or images == channels == 1)  # tiles.divide cannot divide by 1
    row_groups = length // 8 if aligned else ((length + 7) // 8 if images == channels == 1 else (length + 14) // 8)
    slots = images * row_groups
    large = channels == 1 or slots * channels >= _PROGRAMS * 128 * 4
    groups = min(128 if large else 64, max(32, _power_of_two(slots)))
    tiles = -(-slots // groups)
    if sums or channels > 1:
        chunks, each = _chunks(tiles, channels, 8)
    else:
        each = max(1, min(8, tiles // _MULTIPROCESSORS))
        chunks = -(-tiles // each)
    constants = {"ONE_ROW": images == channels == 1, "ALIGNED": aligned, "GROUPS": groups, "COMPUTE": compute, **OPTIONS}
    sizes = (slots, each * groups, chunks, channels, length, row_groups, *reciprocal(row_groups))
    return Plan((chunks * channels,), False, chunks, sizes, constants)


def _plan_channels_last(rows: int, channels: int, compute: tl.dtype) -> Plan:
    """sizes: rows, rows of a chunk, chunks, channels, blocks of columns.

    A large tensor is read in pieces of 64 bytes of a row, a small one in sectors of 32, so that per-channel values weigh little.
    """
    unit = 8 if channels % 8 == 0 else channels & -channels
    column_groups = -(-channels // 8)
    large = column_groups > 2 and rows * column_groups >= _PROGRAMS * 128 * 16
    groups, lanes = (128, 4) if large else (64, 2)
    columns = 4 if column_groups > 2 else 2
    blocks = -(-column_groups // columns)
    chunks, each = _chunks(-(-rows * columns // groups), blocks, 8)
    constants = {"UNIT": unit, "LANES": lanes, "COLUMNS": columns, "GROUPS": groups, "COMPUTE": compute, **OPTIONS}
    return Plan((chunks * blocks,), True, chunks, (rows, each * (groups // columns), chunks, channels, blocks), constants)


@lru_cache(maxsize=1024)
def finish_plan(chunks: int, channels: int, dtype: torch.dtype) -> tuple[int, dict[str, object]]:
    """(blocks of channels, constexprs) of a second stage, which adds ``chunks`` partials for each channel."""
    rows = _power_of_two(chunks)
    columns = min(_power_of_two(channels), max(8, 1024 // rows))
    constants = {"ROWS": rows, "COLUMNS": columns, "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32, **OPTIONS}
    return -(-channels // columns), constants


@lru_cache(maxsize=1024)
def channel_plan(channels: int, dtype: torch.dtype) -> tuple[int, dict[str, object]]:
    """(blocks of channels, constexprs) of a launch over nothing but per-channel values."""
    columns = min(_power_of_two(channels), 256)
    constants = {"COLUMNS": columns, "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32, **OPTIONS}
    return -(-channels // columns), constants


_no_guard = contextlib.nullcontext()


def parameter_counts(parameters: Tensor | None) -> tuple[int, int]:
    """(K, P) of learnable parameters [K, P], or [P] of a single one; (0, 1) where there are none."""
    return (0, 1) if parameters is None else (1, parameters.size(0)) if parameters.dim() == 1 else (parameters.size(0), parameters.size(1))


def device_guard(x: Tensor) -> contextlib.AbstractContextManager:
    """Makes x's device the current one while kernels are launched; free where it already is, and on the CPU."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return _no_guard
    return torch.cuda.device(x.device)


def announce(tensors: Sequence[Tensor]) -> None:
    """Tells the active driver which tensors the next kernel reaches through a table of addresses, if it wants to know: emulators do."""
    tell = None if triton.knobs.runtime.interpret else getattr(triton.runtime.driver.active, "reaches_by_address", None)
    if tell is not None:
        tell(tensors)
