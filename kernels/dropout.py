"""The dropout mask of fastlayers/reference/dropout.py in Triton: Philox4x32-10, sixteen bits per element.

One counter serves the eight elements 8 g .. 8 g + 7 of memory, which is one group of a tile: the four words are made once per
group, and each element picks its half of one of them by its column, which is a constant of the register it lies in.
"""
from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.dropout import threshold
from . import launch
from .memory import or_reference


@triton.jit
def _keep(words, column, threshold):
    """Whether element ``column`` (0 to 7) is kept: its half of one of the four words, compared where it lies."""
    w0, w1, w2, w3 = words
    word = tl.where(column < 4, tl.where(column < 2, w0, w1), tl.where(column < 6, w2, w3))
    return tl.where(column % 2 == 0, (word & 0xFFFF) >= threshold, word >= (threshold << 16))


@triton.jit
def _number(bits, COMPUTE: tl.constexpr):
    """The float64 that an argument holds the bits of: as a number it would come as a float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(COMPUTE)


@triton.jit
def dropout_key(seed, threshold, keep_scale, keep_shift, drop_value, COMPUTE: tl.constexpr):
    """(seed's value, threshold, keep_scale, keep_shift, drop_value) once per program; nothing of use where ``seed`` is None.

    The last three come as bits, or None for (1 / (1 - threshold / 65536), 0, 0). A threshold of 65536 does not fit into half a word:
    then what would be kept becomes what is dropped.
    """
    if seed is None:
        return 0, 0, 0.0, 0.0, 0.0
    else:
        if keep_scale is None:
            scale = tl.where(threshold < 65536, 65536.0 / (65536 - threshold).to(COMPUTE), 0.0)
        else:
            scale = tl.where(threshold < 65536, _number(keep_scale, COMPUTE), 0.0)
        if keep_shift is None:
            shift = 0.0
            dropped = 0.0
        else:
            dropped = _number(drop_value, COMPUTE)
            shift = tl.where(threshold < 65536, _number(keep_shift, COMPUTE), dropped)
        return tl.load(seed), threshold.to(tl.uint32), scale, shift, dropped


@triton.jit
def mask_place(tile, channel, channels, sample_rows, CHANNELS_LAST: tl.constexpr, UNIT: tl.constexpr):
    """Where the elements of a tile stand in the mask: the group that each row is, or, in a matrix, the index of each element.

    ``sample_rows`` is None where every element has a place of its own; else the rows of a sample, whose channels have one place each:
    n * channels + channel, with n the row divided by sample_rows.
    """
    group, offsets, _inside, _full, row = tile
    if sample_rows is None:
        if not CHANNELS_LAST or UNIT == 8:
            return group
        else:
            return offsets
    elif not CHANNELS_LAST:
        return ((row // sample_rows).to(tl.int64) * channels + channel)[:, None]
    elif UNIT == 8:
        return row // sample_rows * (channels // 8) + (group - row * (channels // 8))
    else:
        return (row // sample_rows).to(tl.int64)[:, None] * channels + channel


@triton.jit
def _keeps_each(key, index):
    """Whether the elements of these indices are kept; key is from dropout_key."""
    return _keep(tl.randint4x(key[0], index >> 3), (index & 7).to(tl.int32), key[1])


@triton.jit
def keeps(key, place):
    """Whether the elements at mask_place are kept; key is from dropout_key."""
    if len(place.shape) == 1:
        w0, w1, w2, w3 = tl.randint4x(key[0], place)
        return _keep((w0[:, None], w1[:, None], w2[:, None], w3[:, None]), tl.arange(0, 8)[None, :], key[1])
    else:
        return _keeps_each(key, place)


@triton.jit
def seed_value(seed):
    """A seed once per program; nothing of use where it is None."""
    if seed is None:
        return 0
    else:
        return tl.load(seed)


@triton.jit
def _activation_words(value, group):
    """The four words of counter ``group`` in the stream of random activations, counter word 2 = 1."""
    group = group.to(tl.int64)
    zero = (group * 0).to(tl.int32)
    return tl.philox(value, group.to(tl.int32), (group >> 32).to(tl.int32), zero + 1, zero)


@triton.jit
def half_word(words, column):
    """The 16-bit number of element ``column`` (0 to 7)."""
    w0, w1, w2, w3 = words
    word = tl.where(column < 4, tl.where(column < 2, w0, w1), tl.where(column < 6, w2, w3))
    return tl.where(column % 2 == 0, word, word >> 16).to(tl.uint16)


@triton.jit
def uniform_number(value, place):
    """What a random activation takes: (number + 1/2) / 65536 for every element at mask_place; value is the seed's."""
    if len(place.shape) == 1:
        w0, w1, w2, w3 = _activation_words(value, place)
        number = half_word((w0[:, None], w1[:, None], w2[:, None], w3[:, None]), tl.arange(0, 8)[None, :])
    else:
        number = half_word(_activation_words(value, place >> 3), (place & 7).to(tl.int32))
    return tl.fma(number.to(tl.float32), 2.0**-16, 2.0**-17)


@triton.jit(do_not_specialize=["threshold", "first", "count"])
def mask_kernel(kept, seed, threshold, first, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = dropout_key(seed, threshold, None, None, None, tl.float32)
    tl.store(kept + i, _keeps_each(key, first.to(tl.int64) + i) & (threshold < 65536), mask=i < count)


def outcome_bits(outcome: Sequence[float] | None) -> tuple[int | None, int | None, int | None]:
    """dropout_key's last three arguments; None for what is the default."""
    if outcome is None:
        return None, None, None
    scale, shift, dropped = (struct.unpack("<q", struct.pack("<d", number))[0] for number in outcome)
    return (scale, shift, dropped) if shift or dropped else (scale, None, None)


@or_reference
def dropout_mask(first: int, count: int, seed: Tensor, p: float) -> Tensor:
    """Whether elements first .. first + count - 1 are kept: bool [count]."""
    kept = torch.empty(count, dtype=torch.bool, device=seed.device)
    if count:
        with launch.device_guard(seed):
            mask_kernel[(triton.cdiv(count, 1024),)](kept, seed, threshold(p), first, count, BLOCK=1024, **launch.OPTIONS)
    return kept
