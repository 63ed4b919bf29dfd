"""The dropout mask of fastlayers/reference/dropout.py in Triton: Philox4x32-10, sixteen bits per element.

One counter serves the eight elements 8 g .. 8 g + 7 of memory, which is one group of a tile: the four words are made once per
group, and each element picks its half of one of them by its column, which is a constant of the register it lies in.
"""
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pick(words, column):
    """The 16-bit number of element ``column`` (0 to 7) among the four words."""
    w0, w1, w2, w3 = words
    word = tl.where(column < 4, tl.where(column < 2, w0, w1), tl.where(column < 6, w2, w3))
    return (word >> ((column & 1) * 16).to(tl.uint32)) & 0xFFFF


@triton.jit
def keep_multiplier(seed, threshold, group, offsets, WHOLE_GROUPS: tl.constexpr, COMPUTE: tl.constexpr):
    """What dropout multiplies a tile by: 1 / (1 - threshold / 65536) where kept, 0 where dropped; ``seed`` is a pointer.

    WHOLE_GROUPS: row g of the tile is group[g]. Otherwise every element makes its own counter from its offset.
    """
    key = tl.load(seed)
    if WHOLE_GROUPS:
        w0, w1, w2, w3 = tl.randint4x(key, group)
        number = _pick((w0[:, None], w1[:, None], w2[:, None], w3[:, None]), tl.arange(0, 8)[None, :])
    else:
        number = _pick(tl.randint4x(key, offsets >> 3), (offsets & 7).to(tl.int32))
    scale = 65536.0 / (65536 - threshold).to(COMPUTE)
    return tl.where(number >= threshold.to(tl.uint32), scale, 0.0)
