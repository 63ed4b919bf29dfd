"""Dropout, and its mask."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from .epilogue import IDENTITY, fused


def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, seed: Tensor | int | None = None
) -> Tensor:
    """Zero elements with probability p and scale the others so that the mean is exact.

    y = x * m, m = 0 with probability t / 65536 and else 1 / (1 - t / 65536), t = round(65536 p). Backward draws the mask again from
    the seed: 8 bytes are saved, no mask.

    Args:
        x: any shape; float32, float64, float16 or bfloat16, any strides.
        p: in [0, 1]; 0 < p < 1 is never rounded to either.
        training: False returns x.
        inplace: write y into x and return x.
        seed: an int or 0-d int64 tensor that fixes the mask; None draws from torch's generator of x's device.

    Raises:
        ValueError: ``dropout: p must be between 0 and 1, got 1.5``

    Source: Srivastava et al., JMLR 15 (2014). Generator: Philox4x32-10, Salmon et al., SC 2011.

    >>> y = dropout(torch.ones(8), 0.5, seed=1234)
    """
    checks.probability("dropout", "p", p)
    if not training or p == 0:
        return x
    checks.floating("dropout", x)
    y = fused("dropout", x, None, None, None, IDENTITY, p, True, seed, 0)
    return x.copy_(y) if inplace else y


def dropout_mask(
    shape: Sequence[int], p: float, seed: Tensor | int, *, device: torch.device | str | None = None
) -> Tensor:
    """The exact mask that dropout with this p and seed uses on a contiguous tensor of this shape: True where an element is kept.

    >>> "".join(str(int(keep)) for keep in dropout_mask((8,), 0.5, 1234))
    '10111001'
    """
    return dropout(torch.ones(tuple(shape), device=device), p, seed=seed) != 0
