"""The epilogue as a function: bias and activation, and what the other functions are made of."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from .. import autograd, checks
from ..activation_argument import Resolved, resolve
from ..backends import extension, extension_chosen
from ..context import autocasting, is_sharded
from ..overrides import overridable
from ..specs import Activation
from . import sharded

IDENTITY = resolve("identity", "identity")


@overridable
def bias_activation(
    x: Tensor, bias: Tensor | None, activation: str | torch.nn.Module = "identity", *, scale: Tensor | None = None,
    residual: Tensor | None = None, dropout: float = 0.0, training: bool = True, seed: Tensor | int | None = None, channel_dim: int = 1,
    residual_after: Tensor | None = None, generator: torch.Generator | None = None,
) -> Tensor:
    """y = dropout(activation(x * scale + bias + residual)) + residual_after, one value of scale and bias per channel.

    Args:
        x: any shape with a dimension ``channel_dim`` of C channels; float32, float64, float16 or bfloat16, any strides.
        bias, scale: (C,) in x's dtype, or float32 for half x; None for 0 and 1.
        activation, residual, dropout, seed: as in :func:`batch_norm`.
        training: whether ``dropout`` applies.
        channel_dim: where C is: 1 as everywhere in torch, -1 for (batch, time, features).
        residual_after: like x, added last, as the residual connection of a transformer is; ``residual`` comes before the activation.
            Under torch.autocast x and residuals may differ in dtype: they are promoted, as by torch's addition.
        generator: where the seed is drawn from; None is torch's default one of x's device.

    Returns:
        y, shape, dtype and memory format of x.

    Raises:
        ValueError: ``bias_activation: dropout must be between 0 and 1, got 1.5``, a bad activation, or both a seed and a generator.
        RuntimeError: ``bias_activation: bias must have shape (3,) for x of shape (4, 3) with channels in dimension 1, got (4,)``, or a
            dtype or device that does not fit.

    Accuracy: the activation's (docs/activations.md); float32 (float64 for float64) throughout, rounded once.

    >>> y = bias_activation(torch.randn(4, 8), torch.zeros(8), "gelu", dropout=0.1)
    """
    resolved = resolve("bias_activation", activation, training)
    if autocasting():
        x, residual, residual_after = promoted(x, residual, residual_after)
    checks.floating("bias_activation", x)
    channel_dim = checks.channel_dimension("bias_activation", x, channel_dim)
    checks.channel_vectors("bias_activation", x, channel_dim, bias=bias, scale=scale)
    return fused("bias_activation", x, scale, bias, residual, resolved, dropout, training, seed, channel_dim, residual_after,
                 generator=generator)


def promoted(x: Tensor, *residuals: Tensor | None) -> tuple[Tensor | None, ...]:
    """x and what will be added to it in their common dtype: layers before them have run in autocast's, shortcuts have not."""
    if not all(value is None or (isinstance(value, Tensor) and value.is_floating_point()) for value in (x, *residuals)):
        return x, *residuals
    dtype = x.dtype
    for value in residuals:
        dtype = dtype if value is None else torch.promote_types(dtype, value.dtype)
    return tuple(value if value is None else value.to(dtype) for value in (x, *residuals))


def fused(
    operation: str, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, activation: Resolved,
    p: float, training: bool, seed: Tensor | int | None, channel_dim: int, residual_after: Tensor | None = None,
    by_channel: bool = False, outcome: Sequence[float] | None = None, generator: torch.Generator | None = None,
) -> Tensor:
    """The epilogue on x and vectors that are checked already; by_channel and outcome as in autograd.Arguments.

    A random activation draws, whatever ``training`` says of dropout.
    """
    row, constants, parameters, plain = activation
    if (not is_dynamo_compiling() and plain is not None and extension_chosen() and training and type(p) is float and 0 < p < 1
            and scale is shift is residual is residual_after is seed is generator is outcome is None and not by_channel):
        y = extension.plain_dropout(x, row.name, constants, p)
        if y is not None:
            return y
    if x.dim() == 0:  # kernels count channels along a dimension
        x, residual, residual_after = (value if value is None else value.unsqueeze(0) for value in (x, residual, residual_after))
        return fused(operation, x, scale, shift, residual, activation, p, training, seed, 0, residual_after, by_channel, outcome,
                     generator).squeeze(0)
    if residual is not None:
        checks.like_x(operation, "residual", residual, x)
    if residual_after is not None:
        checks.like_x(operation, "residual_after", residual_after, x)
    if parameters is not None:
        checks.channel_parameters(operation, row.learnables[0].name, parameters, x, x.size(channel_dim) if x.dim() > 1 else 1)
    seed = seed_for(operation, x, p, training, row, seed, generator)
    arguments = autograd.Arguments(row, constants, p if training else 0.0, channel_dim, by_channel, outcome)
    if seed is not None and is_sharded(x):
        return sharded.epilogue(x, scale, shift, residual, parameters, seed, arguments, residual_after)
    return autograd.epilogue(x, scale, shift, residual, parameters, seed, arguments, residual_after)


def seed_for(
    operation: str, x: Tensor, p: float, training: bool, row: Activation, seed: Tensor | int | None,
    generator: torch.Generator | None = None,
) -> Tensor | None:
    """The seed of a dropout mask and of a random activation as a 0-d int64 tensor on x's device; None where nothing is drawn.

    Drawn from the generator with torch.randint, which manual_seed, fork_rng, activation checkpointing, CUDA graphs and torch.vmap's
    ``randomness`` all know how to treat.
    """
    if p != 0:
        checks.probability(operation, "dropout", p)
    if not (p and training) and not row.random:
        return None
    if seed is None:
        if generator is not None:
            checks.generator(operation, generator, x)
        if p == 1 and not row.random:  # all are dropped, whatever the numbers
            return torch.zeros((), dtype=torch.int64, device=x.device)
        return torch.randint(-(2**63), 2**63 - 1, (), device=x.device, generator=generator)
    checks.one_source(operation, generator)
    checks.seed(operation, seed, x)
    return seed if isinstance(seed, Tensor) else torch.tensor(int(seed), device=x.device)
