"""Gated linear units."""
from __future__ import annotations

import torch
from torch import Tensor

from .. import autograd, checks
from ..activation_argument import resolve
from ..context import is_sharded
from ..overrides import overridable
from .epilogue import IDENTITY, fused, seed_for


@overridable
def glu(
    x: Tensor, dim: int = -1, activation: str | torch.nn.Module = "sigmoid", *, gate_first: bool = False, dropout: float = 0.0,
    training: bool = True, seed: Tensor | int | None = None,
) -> Tensor:
    """One half of x times an activation of the other, as one kernel each way.

    y = dropout(a * activation(b)), a and b the first and second half of x along ``dim``; with ``gate_first`` it is b * activation(a),
    the layout of fused gate and up projections. Backward computes both factors again: nothing but x and the seed is saved.

    Args:
        x: any shape with an even size along ``dim``; float32, float64, float16 or bfloat16, any strides.
        dim: the dimension that is cut in two.
        activation: a name ("silu"), a name with constants ("leaky_relu(0.2)") or an activation module, whose learnable parameters are
            one value each. One that draws random numbers (RReLU) counts in evaluation only.
        gate_first: whether the activation is that of the first half.
        dropout: probability of dropping an element of y, when ``training``; the mask is numbered over y in memory order.
        seed: an int or 0-d int64 tensor that fixes the dropout mask; None draws from torch's generator of x's device.

    Returns:
        y, the dtype and memory format of x, half its size along ``dim``.

    Raises:
        RuntimeError: ``glu: x must have an even size along dim -1, got shape (4, 3)``, or a dtype that does not fit.
        IndexError: ``glu: dim must be between -2 and 1 for x of shape (4, 6), got 2``
        ValueError: a bad p or activation.

    Accuracy: the activation's, and one rounding each for the product and the dropout's scale; float32 (float64 for float64)
        throughout, rounded once.
    Source: Dauphin et al., arXiv:1612.08083; Shazeer, arXiv:2002.05202 (SwiGLU, GEGLU, ReGLU, and the bilinear "identity").

    >>> y = glu(torch.randn(4, 8), activation="silu", gate_first=True)
    """
    row, constants, parameters, _ = resolve("glu", activation, training)
    checks.floating("glu", x)
    dim = checks.halves("glu", x, dim)
    checks.gate("glu", row, parameters, x)
    seed = seed_for("glu", x, dropout, training, row, seed)
    if seed is not None and is_sharded(x):
        y = autograd.gated(x, parameters, None, (row, constants, 0.0, dim, bool(gate_first)))
        return fused("glu", y, None, None, None, IDENTITY, dropout, training, seed, 0)
    return autograd.gated(x, parameters, seed, (row, constants, dropout if training else 0.0, dim, bool(gate_first)))
