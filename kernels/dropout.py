"""The dropout mask of fastlayers/reference/dropout.py in Triton: Philox4x32-10, sixteen bits per element.

One counter serves the eight elements 8 g .. 8 g + 7 of memory, which is one group of a tile: the four words are made once per
group, and each element picks its half of one of them by its column, which is a constant of the register it lies in.
"""
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _keep(words, column, threshold):
    """Whether element ``column`` (0 to 7) is kept: its half of one of the four words, compared where it lies."""
    w0, w1, w2, w3 = words
    word = tl.where(column < 4, tl.where(column < 2, w0, w1), tl.where(column < 6, w2, w3))
    return tl.where(column % 2 == 0, (word & 0xFFFF) >= threshold, word >= (threshold << 16))


@triton.jit
def dropout_key(seed, threshold, COMPUTE: tl.constexpr):
    """(seed's value, threshold, 1 / (1 - threshold / 65536)) once per program; nothing of use where ``seed`` is None.

    A threshold of 65536 does not fit into half a word: then the scale is 0.
    """
    if seed is None:
        return 0, 0, 0.0
    else:
        scale = tl.where(threshold < 65536, 65536.0 / (65536 - threshold).to(COMPUTE), 0.0)
        return tl.load(seed), threshold.to(tl.uint32), scale


@triton.jit
def keep_multiplier(key, group, offsets, WHOLE_GROUPS: tl.constexpr):
    """What dropout multiplies a tile by: 1 / (1 - threshold / 65536) where kept, 0 where dropped; key is from dropout_key.

    WHOLE_GROUPS: row g of the tile is group[g]. Otherwise every element makes its own counter from its offset.
    """
    value, threshold, scale = key
    if WHOLE_GROUPS:
        w0, w1, w2, w3 = tl.randint4x(value, group)
        kept = _keep((w0[:, None], w1[:, None], w2[:, None], w3[:, None]), tl.arange(0, 8)[None, :], threshold)
    else:
        kept = _keep(tl.randint4x(value, offsets >> 3), (offsets & 7).to(tl.int32), threshold)
    return tl.where(kept, scale, 0.0)


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
def _number(words, column):
    """The 16-bit number of element ``column`` (0 to 7)."""
    w0, w1, w2, w3 = words
    word = tl.where(column < 4, tl.where(column < 2, w0, w1), tl.where(column < 6, w2, w3))
    return tl.where(column % 2 == 0, word & 0xFFFF, word >> 16)


@triton.jit
def uniform_number(value, group, offsets, WHOLE_GROUPS: tl.constexpr):
    """What a random activation takes: (number + 1/2) / 65536 for every element; value is the seed's, groups are as for keep_multiplier."""
    if WHOLE_GROUPS:
        w0, w1, w2, w3 = _activation_words(value, group)
        number = _number((w0[:, None], w1[:, None], w2[:, None], w3[:, None]), tl.arange(0, 8)[None, :])
    else:
        number = _number(_activation_words(value, offsets >> 3), (offsets & 7).to(tl.int32))
    return tl.fma(number.to(tl.float32), 2.0**-16, 2.0**-17)
