"""Batch norm with residual, activation and dropout."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from .. import autograd, checks
from ..activation_argument import resolve
from ..backends import extension, extension_chosen
from ..context import autocasting, recomputing, transformed
from ..overrides import overridable
from .epilogue import promoted, seed_for


@overridable
def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float | None = 0.1, eps: float = 1e-5, *, activation: str | torch.nn.Module = "identity",
    residual: Tensor | None = None, dropout: float = 0.0, seed: Tensor | int | None = None, num_batches_tracked: Tensor | None = None,
    channel_dim: int = 1, dropout_training: bool | None = None, skip_nonfinite: bool = False,
    memory: str = "default", group: object = None,
) -> Tensor:
    """Batch norm, residual, activation and dropout as one block.

    y = dropout(activation((x - mean) / sqrt(var + eps) * weight + bias + residual)), mean and biased variance over all dimensions but
    ``channel_dim``: the batch's when ``training``, else the running ones. Training moves the running statistics in place:
    running = (1 - momentum) running + momentum batch, with the unbiased variance.

    Args:
        x: (N, C) or (N, C, ...), float32, float64, float16 or bfloat16, any strides.
        running_mean, running_var: (C,) in x's dtype, or float32 for half x; or None when ``training``.
        weight, bias: (C,) in x's dtype, or float32 for half x; None for 1 and 0.
        training: normalise with the batch's statistics and apply ``dropout``.
        momentum: share of the batch in the running statistics; None averages over all batches so far (needs ``num_batches_tracked``).
        eps: added to the variance.
        activation: a name ("relu"), a name with constants ("leaky_relu(0.2)") or an activation module.
        residual: like x, added before the activation; under torch.autocast of any float dtype, the result's is then the wider one.
        dropout: probability of dropping an element, in training.
        seed: an int or 0-d int64 tensor that fixes the dropout mask; None draws from torch's generator of x's device.
        num_batches_tracked: 0-d int64, incremented in training; or None.
        channel_dim: where C is: 1 as everywhere in torch, -1 for (batch, time, features).
        dropout_training: whether ``dropout`` applies where that is not as ``training`` says: in a layer with frozen statistics.
        skip_nonfinite: a batch that would make a running statistic infinite or NaN leaves all of them, and num_batches_tracked, as
            they were; decided on the device.
        memory: "default" keeps x for backward, "inplace" y where x can be recovered from it (docs/batch_norm.md, "Memory").
        group: a torch.distributed process group whose ranks hold one batch together when ``training``: statistics and gradients are
            those of the whole batch, of which a rank may have any share, none too.

    A forward during a backward pass is activation checkpointing's second one: it moves no running statistics, the first one has.

    Returns:
        y, shape, dtype and memory format of x.

    Raises:
        ValueError: ``batch_norm: x must have more than 1 value per channel when training, got shape (1, 3)``, a bad p or activation;
            in training one of running_mean and running_var without the other, which is a RuntimeError in evaluation.
        RuntimeError: a dtype, device or shape that does not fit.

    Accuracy: statistics and arithmetic in float32 (float64 for float64), rounded once.
    Source: Ioffe & Szegedy, arXiv:1502.03167.

    >>> y = batch_norm(torch.randn(8, 3), None, None, training=True, activation="relu")
    """
    dropping = training if dropout_training is None else dropout_training
    resolved = resolve("batch_norm", activation, dropping)
    if not training:
        group = None
    if (not is_dynamo_compiling() and resolved.plain is not None and extension_chosen() and dropout == 0 and seed is None
            and type(training) is bool and type(channel_dim) is int and memory == "default" and not skip_nonfinite and group is None):
        y = extension.plain_batch_norm(
            x, weight, bias, residual, running_mean, running_var, num_batches_tracked, resolved.row.name, resolved.constants, training,
            momentum, eps, channel_dim, *autograd.needed(resolved.row, training, getattr(weight, "requires_grad", False)))
        if y is not None:
            return y
    if residual is not None and autocasting():
        x, residual = promoted(x, residual)
    checks.floating("batch_norm", x)
    channel_dim = checks.channel_dimension("batch_norm", x, channel_dim)
    checks.batch_norm(x, running_mean, running_var, weight, bias, residual, resolved.parameters, num_batches_tracked, training, momentum,
                      eps, channel_dim, group is None)
    checks.memory("batch_norm", memory)
    if training and recomputing():
        running_mean = running_var = num_batches_tracked = None
    seed = seed_for("batch_norm", x, dropout, dropping, resolved.row, seed)
    if x.numel() == 0 and group is None:
        return _empty_batch_norm(x, weight, bias, residual, resolved.parameters, num_batches_tracked if training else None)
    p = dropout if dropping else 0.0
    return autograd.batch_norm(
        x, weight, bias, residual, resolved.parameters, seed, running_mean, running_var, num_batches_tracked,
        (resolved.row, resolved.constants, p, training, momentum, eps, channel_dim, memory == "inplace", skip_nonfinite, group))


@overridable
def batch_norm_and_statistics(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None = None, bias: Tensor | None = None,
    momentum: float | None = 0.1, eps: float = 1e-5, *, activation: str | torch.nn.Module = "identity", residual: Tensor | None = None,
    dropout: float = 0.0, seed: Tensor | int | None = None, num_batches_tracked: Tensor | None = None, channel_dim: int = 1,
) -> tuple[Tensor, ...]:
    """:func:`batch_norm` in training, with the new running statistics as results: what is given is left as it is.

    For code without side effects, ``torch.vmap`` over models or data among it.

    Args:
        x, running_mean, running_var, weight, bias, momentum, eps, activation, residual, dropout, seed, num_batches_tracked,
            channel_dim: as in :func:`batch_norm`.

    Returns:
        (y, running_mean, running_var), and num_batches_tracked where it is given. Gradients flow through y alone.

    Raises, accuracy, source: as :func:`batch_norm`.

    >>> xs, means, variances = torch.randn(5, 8, 3), torch.zeros(5, 3), torch.ones(5, 3)
    >>> y, mean, variance = batch_norm_and_statistics(xs[0], means[0], variances[0])
    >>> ys, means, variances = torch.vmap(batch_norm_and_statistics)(xs, means, variances)
    """
    given = (running_mean, running_var, num_batches_tracked)
    if not transformed():
        moved = [value.clone() if isinstance(value, Tensor) else value for value in given]
        y = batch_norm(x, *moved[:2], weight, bias, True, momentum, eps, activation=activation, residual=residual, dropout=dropout,
                       seed=seed, num_batches_tracked=moved[2], channel_dim=channel_dim)
        return (y, *moved) if num_batches_tracked is not None else (y, *moved[:2])
    checks.floating("batch_norm", x)
    channel_dim = checks.channel_dimension("batch_norm", x, channel_dim)
    row, constants, parameters, _ = resolve("batch_norm", activation, True)
    checks.batch_norm(
        x, running_mean, running_var, weight, bias, residual, parameters, num_batches_tracked, True, momentum, eps, channel_dim)
    seed = seed_for("batch_norm", x, dropout, True, row, seed)
    if x.numel() == 0:
        y = _empty_batch_norm(x, weight, bias, residual, parameters, None)
        moved = (running_mean, running_var, None if num_batches_tracked is None else num_batches_tracked + 1)
        return (y, *(value for value in moved if value is not None))
    y, moved = autograd.composed.batch_norm_and_statistics(
        x, weight, bias, residual, parameters, seed, *given,
        autograd.BatchNormArguments(row, constants, dropout, True, momentum, eps, channel_dim))
    return (y, *(new.to(old.dtype) for new, old in zip(moved, given, strict=True) if old is not None))


def _empty_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, parameters: Tensor | None,
    num_batches_tracked: Tensor | None,
) -> Tensor:
    """A batch of nothing counts as a batch, leaves the running statistics alone and gives zero gradients, as in torch."""
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    y = x.clone() if residual is None else x + residual
    for vector in (weight, bias, parameters):
        y = y if vector is None else y + 0 * vector.sum().to(x.dtype)
    return y
