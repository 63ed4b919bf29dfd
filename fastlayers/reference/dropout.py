"""The dropout mask as PyTorch: Philox4x32-10, sixteen bits per element (docs/design.md, "Random numbers").

One element's number depends on nothing but (seed, element index), so every backend can be held to these bits.
"""
from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from .dtypes import accumulate_dtype

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_ALPHA = 1.7580993408473766  # of SELU, times its scale
DROPOUT_STREAM = 0
"""Counter word 2 of dropout; every other use of one seed takes another word, so that two draws never meet."""
ACTIVATION_STREAM = 1
"""Counter word 2 of random activations."""


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 of four counter words and two key words, each an int64 tensor holding 32 bits (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = _multiply(_MULTIPLIERS[0], c0), _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product; int64 wraps around, the bits are those of uint64."""
    product = b * a
    return (product >> 32) & _MASK, product & _MASK


def random_numbers(first: int, count: int, seed: Tensor, stream: int = DROPOUT_STREAM) -> Tensor:
    """The 16-bit numbers of elements first .. first + count - 1, as int64 [count]."""
    groups = torch.arange(first // 8, (first + count + 7) // 8, dtype=torch.int64, device=seed.device)
    zero = torch.zeros_like(groups)
    words = philox((groups & _MASK, (groups >> 32) & _MASK, zero + stream, zero), (seed & _MASK, (seed >> 32) & _MASK))
    numbers = torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], dim=1)  # [groups, 8]
    return numbers.flatten()[first % 8:first % 8 + count]


def threshold(p: float) -> int:
    """An element is kept when its number is at least this: round(65536 p), and 0 < p < 1 never becomes "all" or "none"."""
    if p in (0.0, 1.0):
        return int(p) * 65536
    return operator.index(min(max(round(p * 65536), 1), 65535))  # index: torch.compile makes a constant of a p that it keeps symbolic


def keep_scale(p: float) -> float:
    """What kept values are multiplied by, so that the mean is exact: 1 / (1 - threshold / 65536); 0 for p = 1."""
    return 65536 / (65536 - threshold(p)) if p < 1 else 0.0


def alpha_outcome(p: float) -> tuple[float, float, float]:
    """What alpha dropout makes of values, as (keep_scale, keep_shift, drop_value): x becomes a x + b, a dropped one -a alpha + b.

    With alpha = -SELU(-infinity), q = threshold / 65536 the probability of a drop, a = ((alpha^2 q + 1)(1 - q))^(-1/2) and
    b = a alpha q, values of mean 0 and variance 1 keep both (Klambauer et al., 2017).
    """
    q = threshold(p) / 65536
    if q == 1:
        return 0.0, 0.0, 0.0
    a = ((_ALPHA**2 * q + 1) * (1 - q)) ** -0.5
    return a, a * _ALPHA * q, a * _ALPHA * (q - 1)


def dropout_mask(first: int, count: int, seed: Tensor, p: float) -> Tensor:
    """Whether elements first .. first + count - 1 are kept: bool [count]."""
    return random_numbers(first, count, seed) >= threshold(p)


def mask_like(x: Tensor, p: float, seed: Tensor, sample: int = 0, channel_dim: int = 0) -> Tensor:
    """The keep mask of x as booleans, numbered in x's memory order; x is dense. sample > 0: numbered by channels, see epilogue.py."""
    if not sample:
        return dropout_mask(0, x.numel(), seed, p).as_strided(x.size(), x.stride())
    channels = x.size(channel_dim)
    length = sample if channels == 1 else x.stride(channel_dim)
    i = torch.arange(x.numel(), dtype=torch.int64, device=x.device)
    kept = dropout_mask(0, x.numel() // sample * channels, seed, p)[i // sample * channels + i // length % channels]
    return kept.as_strided(x.size(), x.stride())


def apply(
    y: Tensor, x: Tensor, p: float, seed: Tensor | None, sample: int = 0, channel_dim: int = 0,
    outcome: Sequence[float] | None = None, gradient: bool = False,
) -> Tensor:
    """y after dropout, in the dtype that it comes in, numbered as x lies in memory; ``gradient``: what a gradient of that becomes."""
    if seed is None or p == 0:
        return y
    kept = mask_like(x, p, seed, sample, channel_dim)
    scale, shift, dropped = outcome or (keep_scale(p), 0.0, 0.0)
    y = y * (kept.to(y.dtype) * scale)
    if gradient or shift == dropped == 0:
        return y
    shift, dropped = (torch.full((), value, dtype=y.dtype, device=y.device) for value in (shift, dropped))
    return y + torch.where(kept, shift, dropped)


def multiplier_like(x: Tensor, p: float, seed: Tensor | None) -> Tensor | float:
    """What dropout multiplies x by: ``keep_scale`` where kept and 0 where dropped, in the dtype that x is computed in."""
    if seed is None or p == 0:
        return 1.0
    return mask_like(x, p, seed).to(accumulate_dtype(x)) * keep_scale(p)


def uniform_like(x: Tensor, seed: Tensor) -> Tensor:
    """What a random activation takes: (number + 1/2) / 65536 of each element, in (0, 1), numbered in x's memory order; x is dense."""
    numbers = random_numbers(0, x.numel(), seed, ACTIVATION_STREAM).as_strided(x.size(), x.stride())
    return (numbers.to(accumulate_dtype(x)) + 0.5) / 65536
