"""The epilogue as a function: bias and activation, and what the other functions are made of."""
from __future__ import annotations

import torch
from torch import Tensor

from .. import autograd, checks
from ..activation_argument import Resolved, resolve
from ..specs import Activation

IDENTITY = resolve("identity", "identity")


def bias_activation(
    x: Tensor, bias: Tensor | None, activation: str | torch.nn.Module = "identity", *, scale: Tensor | None = None,
    residual: Tensor | None = None, dropout: float = 0.0, training: bool = True, seed: Tensor | int | None = None, channel_dim: int = 1,
) -> Tensor:
    """y = dropout(activation(x * scale + bias + residual)), one value of scale and bias per channel.

    Args:
        x: any shape with a dimension ``channel_dim`` of C channels; float32, float64, float16 or bfloat16, any strides.
        bias, scale: (C,) in x's dtype, or float32 for half x; None for 0 and 1.
        activation, residual, dropout, seed: as in :func:`batch_norm`.
        training: whether ``dropout`` applies.
        channel_dim: where C is: 1 as everywhere in torch, -1 for (batch, time, features).

    Returns:
        y, shape, dtype and memory format of x.

    >>> y = bias_activation(torch.randn(4, 8), torch.zeros(8), "gelu", dropout=0.1)
    """
    resolved = resolve("bias_activation", activation, training)
    checks.floating("bias_activation", x)
    channel_dim = checks.channel_dimension("bias_activation", x, channel_dim)
    checks.channel_vectors("bias_activation", x, channel_dim, bias=bias, scale=scale)
    return fused("bias_activation", x, scale, bias, residual, resolved, dropout, training, seed, channel_dim)


def fused(
    operation: str, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, activation: Resolved,
    p: float, training: bool, seed: Tensor | int | None, channel_dim: int,
) -> Tensor:
    """The epilogue on arguments of any kind; a random activation draws, whatever ``training`` says of dropout."""
    row, constants, parameters = activation
    if x.dim() == 0:  # kernels count channels along a dimension
        return fused(operation, x.unsqueeze(0), scale, shift, residual, activation, p, training, seed, 0).squeeze(0)
    if residual is not None:
        checks.residual(operation, residual, x)
    if parameters is not None:
        checks.parameters(operation, row.learnables[0].name, parameters, x, x.size(channel_dim) if x.dim() > 1 else 1)
    seed = seed_for(operation, x, p, training, row, seed)
    return autograd.epilogue(x, scale, shift, residual, parameters, seed, (row, constants, p if training else 0.0, channel_dim))


def seed_for(operation: str, x: Tensor, p: float, training: bool, row: Activation, seed: Tensor | int | None) -> Tensor | None:
    """The seed of a dropout mask and of a random activation as a 0-d int64 tensor on x's device; None where nothing is drawn."""
    if p:
        checks.probability(operation, "dropout", p)
    if not (p and training) and not row.random:
        return None
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, (), device=x.device)
    checks.seed(operation, seed, x)
    return seed if isinstance(seed, Tensor) else torch.tensor(int(seed), device=x.device)
