"""Memory access of the layer kernels: which elements a tile holds, and how they are loaded, stored and summed.

A tensor of N x C x S elements in memory order is walked in *groups* of eight consecutive elements: 128 bits of a half type and
exactly the elements that share one Philox counter. A tile is [GROUPS, 8].

contiguous      (S > 1, or one channel) a program holds one channel. Where S is a multiple of eight every group belongs to one row
                ("ALIGNED"); elsewhere rows begin and end inside groups, and those edges are accessed element by element.
channels_last   (S = 1) a program holds COLUMNS groups of channels of a range of rows. Neighbouring lanes hold LANES groups of one
                row, enough for whole 32-byte sectors, then further rows: a warp needs few per-channel values and sums rows by itself.
"""
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def divide(n, multiplier, bits):
    """n // d for 0 <= n < 2^31 and d > 1, with (multiplier, bits) from launch.reciprocal(d)."""
    return (tl.umulhi(n.to(tl.uint32), multiplier.to(tl.uint32)) >> bits.to(tl.uint32)).to(tl.int32)


@triton.jit
def contiguous_tile(
    start, end, channel, channels, length, row_groups, multiplier, bits, ONE_ROW: tl.constexpr, ALIGNED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """(group, offsets, inside, full, row) of the slots start .. start + GROUPS - 1 of a channel that has ``end`` of them.

    group [GROUPS] is the index in memory / 8, offsets [GROUPS, 8] the element indices, inside [GROUPS, 8] says which of them belong
    to the channel, full [GROUPS] that all eight do, row [GROUPS] is which of the channel's rows. ``row_groups`` is the number of groups
    that a row of ``length`` elements touches.
    """
    slot = start + tl.arange(0, GROUPS)
    within = slot < end
    column = tl.arange(0, 8)[None, :]
    image = slot * 0 if ONE_ROW else divide(slot, multiplier, bits)
    if ALIGNED:
        group = image * ((channels - 1) * row_groups) + (channel * row_groups + slot)
        full = within
        inside = full[:, None] & (column >= 0)
    else:
        first = (image * channels + channel).to(tl.int64) * length
        group = ((first >> 3) + (slot - image * row_groups)).to(tl.int32)
        low = first - group.to(tl.int64) * 8
        high = tl.minimum(low + length, 8)
        full = within & (low <= 0) & (high >= 8)
        inside = within[:, None] & (column >= low[:, None]) & (column < high[:, None])
    offsets = (group.to(tl.int64) * 8)[:, None] + column
    return group, offsets, inside, full, image


@triton.jit
def channels_last_columns(block, channels, UNIT: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr):
    """(column, channel, present): the group of channels of each slot, its channels [GROUPS, 8], and which of these exist.

    UNIT is the largest power of two up to eight that divides the number of channels.
    """
    slot = tl.arange(0, GROUPS)
    column = block * COLUMNS + slot // (LANES * (GROUPS // COLUMNS)) * LANES + slot % LANES
    channel = (column * 8)[:, None] + tl.arange(0, 8)[None, :]
    if UNIT == 8:
        return column, channel, (column < channels // 8)[:, None] & (tl.arange(0, 8)[None, :] >= 0)
    else:
        return column, channel, channel // UNIT < channels // UNIT


@triton.jit
def channels_last_tile(
    start, end, column, channel, present, channels, UNIT: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """(group, offsets, inside, full, row) of the rows from ``start`` on, as in contiguous_tile; group means nothing unless UNIT is 8."""
    row = start + tl.arange(0, GROUPS) // LANES % (GROUPS // COLUMNS)
    within = row < end
    group = row * (channels // UNIT) + column
    if UNIT == 8:
        offsets = (group.to(tl.int64) * 8)[:, None] + tl.arange(0, 8)[None, :]
    else:
        offsets = (row.to(tl.int64) * (channels // UNIT) * UNIT)[:, None] + channel
    return group, offsets, within[:, None] & present, within, row


@triton.jit
def widened(value, COMPUTE: tl.constexpr):
    """value in the compute dtype; bfloat16 is the upper half of a float32, and both of a word are there in one operation each."""
    if value.dtype == tl.bfloat16 and tl.float32 == COMPUTE:
        return (value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return value.to(COMPUTE)


@triton.jit
def load(pointer, tile, other, EDGES: tl.constexpr, COMPUTE: tl.constexpr):
    """The tile's elements in the compute dtype, ``other`` outside. EDGES: whole groups at once, the others element by element."""
    offsets, inside, full = tile[1], tile[2], tile[3]
    if EDGES:
        whole = tl.load(pointer + offsets, mask=full[:, None], other=other)
        edge = tl.load(pointer + offsets, mask=inside & ~full[:, None], other=other)
        return widened(tl.where(full[:, None], whole, edge), COMPUTE)
    else:
        return widened(tl.load(pointer + offsets, mask=inside, other=other), COMPUTE)


@triton.jit
def store(pointer, value, tile, EDGES: tl.constexpr):
    """Write the tile, rounded to the pointer's dtype."""
    offsets, inside, full = tile[1], tile[2], tile[3]
    rounded = value.to(pointer.dtype.element_ty)
    if EDGES:
        tl.store(pointer + offsets, rounded, mask=full[:, None])
        tl.store(pointer + offsets, rounded, mask=inside & ~full[:, None])
    else:
        tl.store(pointer + offsets, rounded, mask=inside)


@triton.jit
def channel_value(pointer, channel, present, default: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """A per-channel vector's value: a scalar for one channel, [GROUPS, 8] for channels_last, ``default`` where there is no vector.

    Channels that do not exist have any value: nothing of theirs is stored.
    """
    if pointer is None:
        return default
    elif CHANNELS_LAST:
        return tl.load(pointer + channel, mask=present)
    else:
        return tl.load(pointer + channel)
