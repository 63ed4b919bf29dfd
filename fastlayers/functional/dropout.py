"""Dropout of elements and of channels, alpha dropout, and the mask."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.types import Device

from .. import autograd, checks
from ..context import autocasting
from ..overrides import overridable
from ..reference.dropout import alpha_outcome, threshold
from .epilogue import IDENTITY, fused, promoted
from .jagged import is_jagged, on_values

CONVENTIONS = ("train", "eval")
"""When values are scaled: kept ones by 1 / (1 - p) while training, or all of them by 1 - p when evaluating."""


@overridable
def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, convention: str = "train",
    residual_after: Tensor | None = None, seed: Tensor | int | None = None, generator: torch.Generator | None = None,
) -> Tensor:
    """Zero elements with probability p and scale the others so that the mean is exact.

    y = x * m + residual_after, m = 0 with probability t / 65536 and else 1 / (1 - t / 65536), t = round(65536 p). Backward draws the
    mask again from the seed: 8 bytes are saved, no mask.

    Args:
        x: any shape; float32, float64, float16 or bfloat16, any strides; a jagged nested tensor counts as its values.
        p: in [0, 1]; 0 < p < 1 is never rounded to either.
        training: False returns x.
        inplace: write y into x and return x, unless it is jagged.
        convention: "train" as above; "eval" leaves kept values alone and multiplies by 1 - t / 65536 where not training.
        residual_after: like x, or None.
        seed: an int or 0-d int64 tensor that fixes the mask; None draws one.
        generator: where the seed is drawn from; None is torch's default generator of x's device.

    Returns:
        y, shape, dtype and memory format of x.

    Raises:
        ValueError: ``dropout: p must be between 0 and 1, got 1.5``; of NaN a RuntimeError, too, as in torch.
        RuntimeError: ``dropout: x must be float32, bfloat16, float16 or float64, got int64``.

    Accuracy: float32 (float64 for float64) throughout, rounded once.
    Source: Srivastava et al., JMLR 15 (2014). Generator: Philox4x32-10, Salmon et al., SC 2011.

    >>> y = dropout(torch.ones(8), 0.5, seed=1234)
    """
    checks.one_of("dropout", "convention", convention, CONVENTIONS)
    if residual_after is not None and not inplace and autocasting():
        x, residual_after = promoted(x, residual_after)
    return _dropout("dropout", x, p, training, inplace, False, convention, seed, generator, residual_after)


@overridable
def dropout1d(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, convention: str = "train", seed: Tensor | int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Zero whole channels of x with probability p: y[n, c] = x[n, c] * m, m the mask of element n C + c of :func:`dropout`.

    Args:
        x: (N, C, L), or (C, L), whatever its strides.
        p, training, inplace, convention, seed, generator: as in :func:`dropout`.

    Returns:
        y, shape, dtype and memory format of x, contiguous where samples do not follow one another in memory.

    Raises:
        RuntimeError: ``dropout1d: x must be 2-D or 3-D, got ...``; else as :func:`dropout`.

    Accuracy: as :func:`dropout`.
    Source: Tompson et al., arXiv:1411.4280.

    >>> y = dropout1d(torch.ones(2, 3, 4), 0.5, seed=1234)
    """
    checks.channels_to_drop("dropout1d", x, (2, 3), strict=True)
    return _channels("dropout1d", x, x.dim() == 3, p, training, inplace, convention, seed, generator)


@overridable
def dropout2d(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, convention: str = "train", seed: Tensor | int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """:func:`dropout1d`, all arguments alike, for x of shape (N, C, H, W); a 3-D x is (N, C, L), as in torch, which warns of it.

    >>> y = dropout2d(torch.ones(2, 3, 4, 5), 0.5, seed=1234)
    """
    checks.channels_to_drop("dropout2d", x, (4,), strict=False)
    return _channels("dropout2d", x, True, p, training, inplace, convention, seed, generator)


@overridable
def dropout3d(
    x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, convention: str = "train", seed: Tensor | int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """:func:`dropout1d`, all arguments alike, for x of shape (N, C, D, H, W) or (C, D, H, W).

    >>> y = dropout3d(torch.ones(2, 3, 4, 5, 6), 0.5, seed=1234)
    """
    checks.channels_to_drop("dropout3d", x, (4, 5), strict=False)
    return _channels("dropout3d", x, x.dim() == 5, p, training, inplace, convention, seed, generator)


@overridable
def alpha_dropout(
    x: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *, seed: Tensor | int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Dropout that keeps mean 0 and variance 1, for networks of SELU.

    y = a x + b where kept and -a alpha + b where dropped, with q = round(65536 p) / 65536, alpha = 1.7580993408473766 (minus SELU's
    limit), a = ((alpha^2 q + 1)(1 - q))^(-1/2), b = a alpha q.

    Args:
        x, p, inplace, seed, generator: as in :func:`dropout`.
        training: False, the default as in torch, returns x.

    Returns:
        y, shape, dtype and memory format of x.

    Raises:
        ValueError: ``alpha_dropout: p must be between 0 and 1, got 1.5``.

    Accuracy: as :func:`dropout`.
    Source: Klambauer et al., arXiv:1706.02515.

    >>> y = alpha_dropout(torch.randn(8), 0.1, training=True)
    """
    return _dropout("alpha_dropout", x, p, training, inplace, False, "alpha", seed, generator)


@overridable
def feature_alpha_dropout(
    x: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *, seed: Tensor | int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """:func:`alpha_dropout`, all arguments alike, of whole channels: all of x[n, c] is kept or dropped, by the mask of element n C + c.

    Raises:
        RuntimeError: ``feature_alpha_dropout: x must be at least 2-D, got ...``; else as :func:`alpha_dropout`.

    >>> y = feature_alpha_dropout(torch.randn(2, 3, 4), 0.1, training=True)
    """
    return _dropout("feature_alpha_dropout", x, p, training, inplace, True, "alpha", seed, generator)


def dropout_mask(
    shape: Sequence[int], p: float, seed: Tensor | int, *, first: int = 0, device: Device = None
) -> Tensor:
    """The exact mask that dropout with this p and seed uses on a contiguous tensor of this shape: True where an element is kept.

    Args:
        shape: of the mask, a sequence of ints.
        p: in [0, 1].
        seed: an int of 64 bits or a 0-d int64 tensor.
        first: index of the mask's first element, for a look at part of a large one.
        device: where; None is the seed's device, the default device for an int.

    Returns:
        A bool tensor of this shape.

    Raises:
        ValueError: ``dropout_mask: p must be between 0 and 1, got 2``.
        TypeError: ``dropout_mask: seed must be a 0-d int64 tensor or an int, got float``.

    Source: docs/dropout.md, "The mask rule".

    >>> "".join(str(int(keep)) for keep in dropout_mask((8,), 0.5, 1234))
    '10111001'
    """
    checks.probability("dropout_mask", "p", p)
    first, shape = checks.index("dropout_mask", "first", first), checks.sizes("dropout_mask", "shape", shape)
    count = math.prod(shape)
    checks.whole_number("dropout_mask", "first", first, 0, 2**63 - 1 - count)
    place = torch.empty(0, device=seed.device if device is None and isinstance(seed, Tensor) else device)
    checks.seed("dropout_mask", seed, place)
    if not isinstance(seed, Tensor):
        seed = torch.tensor(int(seed), device=place.device)
    return autograd.kernels_for(seed, "identity").dropout_mask(first, count, seed, p).view(shape)


def _channels(
    operation: str, x: Tensor, batched: bool, p: float, training: bool, inplace: bool, convention: str, seed: Tensor | int | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Channel dropout of x, which is one sample unless batched."""
    checks.one_of(operation, "convention", convention, CONVENTIONS)
    if batched:
        return _dropout(operation, x, p, training, inplace, True, convention, seed, generator)
    y = _dropout(operation, x.unsqueeze(0), p, training, inplace, True, convention, seed, generator).squeeze(0)
    return x if inplace else y


def _dropout(
    operation: str, x: Tensor, p: float, training: bool, inplace: bool, by_channel: bool, convention: str, seed: Tensor | int | None,
    generator: torch.Generator | None, residual_after: Tensor | None = None,
) -> Tensor:
    """All kinds; convention is one of CONVENTIONS or "alpha"."""
    checks.tensor(operation, "x", x)
    if isinstance(p, Tensor) and p.dim() == 0 and not p.requires_grad:  # as torch.nn.functional's
        p = float(p)
    checks.probability(operation, "p", p)
    if type(x) is not Tensor and is_jagged(x) and not by_channel:
        y = on_values(lambda x: _dropout(operation, x, p, training, False, False, convention, seed, generator), x)
        return y if residual_after is None else y + residual_after
    if residual_after is not None:
        checks.like_x(operation, "residual_after", residual_after, x)
    factor = None
    if p == 0 or (not training and convention != "eval") or (not torch.compiler.is_compiling() and x.numel() == 0):
        y = x
    elif p == 1:
        y = factor = x.new_zeros(())  # whatever x's dtype is
    elif not training:
        checks.floating(operation, x)
        factor = 1 - threshold(p) / 65536
    else:
        checks.floating(operation, x)
        if by_channel:
            checks.has_channels(operation, x)
        outcome = alpha_outcome(p) if convention == "alpha" else (1.0, 0.0, 0.0) if convention == "eval" else None
        y = fused(operation, x, None, None, None, IDENTITY, p, True, seed, 1 if by_channel else 0, residual_after, by_channel, outcome,
                  generator)
        return x.copy_(y) if inplace else y
    if factor is not None:
        y = x.mul_(factor) if inplace else x * factor
    if residual_after is None:
        return y
    return x.add_(residual_after) if inplace else y + residual_after
