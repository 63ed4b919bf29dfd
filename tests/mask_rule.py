"""The mask rule of docs/dropout.md in plain Python integers, and random cases for it: what every backend must reproduce bit for bit.

As a program it computes the cases on cpp with the instruction set of its process and saves them: mask_rule.py FILE.
"""
from __future__ import annotations

import random
import sys
from typing import NamedTuple

import cases
import torch
from torch import Tensor

import fastlayers as fl
from fastlayers.functional.dropout import _dropout

LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced")


class MaskCase(NamedTuple):
    """One mask to compare."""

    seed: int
    p: float
    shape: tuple[int, ...]
    layout: str
    by_channel: bool
    dtype: torch.dtype


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10, as in Salmon et al., SC 2011."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c3 ^ k1, a & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def kept(first: int, count: int, seed: int, p: float, stream: int = 0) -> list[bool]:
    """Whether elements first .. first + count - 1 are kept."""
    threshold = int(p) * 65536 if p in (0.0, 1.0) else min(max(round(65536 * p), 1), 65535)
    numbers: list[int] = []
    for g in range(first // 8, (first + count + 7) // 8):
        words = philox((g & 0xFFFFFFFF, g >> 32, stream, 0), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
        numbers += [half for word in words for half in (word & 0xFFFF, word >> 16)]
    return [number >= threshold for number in numbers[first % 8:first % 8 + count]]


def random_cases(count: int = 200) -> list[MaskCase]:
    """Always the same ones."""
    draw = random.Random(1)
    chosen = []
    for _ in range(count):
        shape = [draw.choice((1, 2, 3, 4, 5, 8))]
        while len(shape) < draw.choice((2, 3, 4, 5)):
            shape.append(draw.choice((1, 2, 3, 4, 7, 8, 9, 16, 24)))
        while torch.Size(shape).numel() > 4000:
            shape[draw.randrange(1, len(shape))] = 1
        p = draw.choice((draw.random(), 0.5, 0.1, 2**-16, 1 - 2**-16, 1e-9))
        chosen.append(MaskCase(draw.getrandbits(64) - 2**63, p, tuple(shape), draw.choice(LAYOUTS), draw.random() < 0.5,
                               draw.choice((torch.float32, torch.bfloat16))))
    return chosen


def ones(case: MaskCase) -> Tensor:
    """A tensor of ones in the case's layout."""
    if case.layout == "sliced":
        return torch.ones(*case.shape[:-1], case.shape[-1] + 1, dtype=case.dtype)[..., 1:]
    return cases.arrange(torch.ones(case.shape, dtype=case.dtype), case.layout)


def by_rule(case: MaskCase) -> Tensor:
    """The mask as the rule has it: elements are numbered in memory order, channels n C + c."""
    if case.by_channel:
        n, c = case.shape[:2]
        mask = torch.tensor(kept(0, n * c, case.seed, case.p)).view(n, c, *[1] * (len(case.shape) - 2))
        return mask.expand(case.shape)
    x = ones(case)
    order = list(range(x.dim())) if case.layout == "sliced" else sorted(range(x.dim()), key=lambda d: -x.stride(d))
    mask = torch.tensor(kept(0, x.numel(), case.seed, case.p)).view([x.size(d) for d in order])
    return mask.permute([order.index(d) for d in range(x.dim())])


def by_backend(case: MaskCase) -> Tensor:
    """The mask that the chosen backend uses in forward; that of backward, looked at for a third of the cases, must be the same."""
    x = ones(case).requires_grad_()
    y = _dropout("test", x, case.p, True, False, case.by_channel, "eval", case.seed, None)
    if case.seed % 3 == 0:
        assert torch.equal(torch.autograd.grad(y, x, torch.ones_like(y))[0], y), case
    assert ((y == 0) | (y == 1)).all(), case
    return y.detach() == 1


if __name__ == "__main__":
    with fl.backend("cpp"):
        torch.save([by_backend(case) for case in random_cases()], sys.argv[1])
