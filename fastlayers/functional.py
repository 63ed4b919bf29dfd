"""The functional API: checks its arguments, draws the seed, and hands over to the autograd functions.

Activations stand here under the names of specs.py, with the arguments of ``torch.nn.functional`` where it has the function.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import autograd, checks
from .activation_argument import Resolved, resolve
from .specs import ACTIVATIONS, Activation

_IDENTITY = resolve("identity", "identity")


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float | None = 0.1, eps: float = 1e-5, *, activation: str | torch.nn.Module = "identity",
    residual: Tensor | None = None, dropout: float = 0.0, seed: Tensor | int | None = None, num_batches_tracked: Tensor | None = None,
    channel_dim: int = 1,
) -> Tensor:
    """Batch norm, residual, activation and dropout as one block.

    y = dropout(activation((x - mean) / sqrt(var + eps) * weight + bias + residual)), mean and biased variance over all dimensions but
    ``channel_dim``: the batch's when ``training``, else the running ones. Training moves the running statistics in place:
    running = (1 - momentum) running + momentum batch, with the unbiased variance.

    Args:
        x: (N, C) or (N, C, ...), float32, float64, float16 or bfloat16, any strides.
        running_mean, running_var: (C,), or None when ``training``.
        weight, bias: (C,) in x's dtype, or float32 for half x; None for 1 and 0.
        training: normalise with the batch's statistics and apply ``dropout``.
        momentum: in [0, 1]; None averages over all batches so far (needs ``num_batches_tracked``).
        eps: added to the variance.
        activation: a name ("relu"), a name with constants ("leaky_relu(0.2)") or an activation module.
        residual: like x, added before the activation.
        dropout: probability of dropping an element, in training.
        seed: an int or 0-d int64 tensor that fixes the dropout mask; None draws from torch's generator of x's device.
        num_batches_tracked: 0-d int64, incremented in training.
        channel_dim: where C is.

    Returns:
        y, shape, dtype and memory format of x.

    Raises:
        ValueError: ``batch_norm: x must have more than 1 value per channel when training, got shape (1, 3)``, a bad p or activation.
        RuntimeError: a dtype, device or shape that does not fit.

    Accuracy: statistics and arithmetic in float32 (float64 for float64), rounded once.
    Source: Ioffe & Szegedy, arXiv:1502.03167.

    >>> y = batch_norm(torch.randn(8, 3), None, None, training=True, activation="relu")
    """
    checks.floating("batch_norm", x)
    channel_dim = checks.channel_dimension("batch_norm", x, channel_dim)
    resolved = resolve("batch_norm", activation)
    checks.batch_norm(x, running_mean, running_var, weight, bias, residual, resolved.parameters, num_batches_tracked, training, momentum,
                      eps, channel_dim)
    if x.numel() == 0:
        return _empty_batch_norm(x, weight, bias, residual, resolved.parameters, num_batches_tracked if training else None)
    return autograd.batch_norm(
        x, weight, bias, residual, resolved.parameters, _seed("batch_norm", x, dropout, training, seed), running_mean, running_var,
        num_batches_tracked, (resolved.row, resolved.constants, dropout, training, momentum, eps, channel_dim))


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
    resolved = resolve("bias_activation", activation)
    checks.floating("bias_activation", x)
    channel_dim = checks.channel_dimension("bias_activation", x, channel_dim)
    checks.channel_vectors("bias_activation", x, channel_dim, bias=bias, scale=scale)
    return _epilogue("bias_activation", x, scale, bias, residual, resolved, dropout, training, seed, channel_dim)


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
    y = _epilogue("dropout", x, None, None, None, _IDENTITY, p, True, seed, 0)
    return x.copy_(y) if inplace else y


def dropout_mask(
    shape: Sequence[int], p: float, seed: Tensor | int, *, device: torch.device | str | None = None
) -> Tensor:
    """The exact mask that dropout with this p and seed uses on a contiguous tensor of this shape: True where an element is kept.

    >>> "".join(str(int(keep)) for keep in dropout_mask((8,), 0.5, 1234))
    '10111001'
    """
    return dropout(torch.ones(tuple(shape), device=device), p, seed=seed) != 0


def apply(
    operation: str, x: Tensor, activation: Resolved, *, dropout: float = 0.0, training: bool = True, seed: Tensor | int | None = None
) -> Tensor:
    """A resolved activation, then dropout: what the modules and the functions named after activations call."""
    if dropout:
        checks.probability(operation, "dropout", dropout)
    dropping = dropout and training
    if activation.row is _IDENTITY.row and not dropping:
        return x  # whatever it is, as torch.nn.Identity does
    checks.floating(operation, x)
    if dropping:
        return _epilogue(operation, x, None, None, None, activation, dropout, training, seed, 1 if x.dim() > 1 else 0)
    row, constants, parameters = activation
    if parameters is not None:
        checks.parameters(operation, row.learnables[0].name, parameters, x, x.size(1) if x.dim() > 1 else 1)
    return autograd.activation(x, parameters, row, constants)


def _epilogue(
    operation: str, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, activation: Resolved,
    p: float, training: bool, seed: Tensor | int | None, channel_dim: int,
) -> Tensor:
    row, constants, parameters = activation
    if x.dim() == 0:  # kernels count channels along a dimension
        return _epilogue(operation, x.unsqueeze(0), scale, shift, residual, activation, p, training, seed, 0).squeeze(0)
    if residual is not None:
        checks.residual(operation, residual, x)
    if parameters is not None:
        checks.parameters(operation, row.learnables[0].name, parameters, x, x.size(channel_dim) if x.dim() > 1 else 1)
    seed = _seed(operation, x, p, training, seed) if p else None
    return autograd.epilogue(x, scale, shift, residual, parameters, seed, (row, constants, p, channel_dim))


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


def _seed(operation: str, x: Tensor, p: float, training: bool, seed: Tensor | int | None) -> Tensor | None:
    """The seed of a dropout mask as a 0-d int64 tensor on x's device; None where nothing is dropped."""
    if p == 0:
        return None
    checks.probability(operation, "dropout", p)
    if not training:
        return None
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, (), device=x.device)
    checks.seed(operation, seed, x)
    return seed if isinstance(seed, Tensor) else torch.tensor(int(seed), device=x.device)


def _function(rows: tuple[Activation, ...]) -> Callable[..., Tensor]:
    """The function of rows that share a module: its arguments are x, the learnable parameters, the constants, the selecting keyword."""
    first = rows[0]
    name = first.name
    learnables = tuple(learnable.name for learnable in first.learnables)
    constants = tuple((constant.name, constant.default) for constant in first.constants)
    by_value = {row.keyword[1]: row for row in rows if row.keyword}
    keyword = first.keyword[0] if first.keyword else None
    names = (*learnables, *(constant for constant, _ in constants), *((keyword,) if keyword else ()))

    def activation(x: Tensor, *arguments: object, dropout: float = 0.0, training: bool = True, seed: Tensor | int | None = None,
                   **keywords: object) -> Tensor:
        keywords.update(zip(names, arguments, strict=False))
        if len(arguments) > len(names) or not set(keywords) <= set(names) or not set(learnables) <= set(keywords):
            raise TypeError(f"{name}: arguments must be x, {', '.join(names) or 'nothing more'}, got {len(arguments) + 1} positional and "
                            f"{', '.join(keywords) or 'no keywords'}")
        row = first
        if keyword:
            value = keywords.get(keyword, first.keyword[1])
            checks.one_of(name, keyword, value, tuple(by_value))
            row = by_value[value]
        given = [keywords[learnable].flatten() for learnable in learnables]
        parameters = None if not given else given[0] if len(given) == 1 else torch.stack(given)
        values = tuple(float(keywords.get(constant, default)) for constant, default in constants)
        return apply(name, x, Resolved(row, values, parameters), dropout=dropout, training=training, seed=seed)

    activation.__name__ = activation.__qualname__ = name
    activation.__doc__ = _docstring(rows, names)
    return activation


def _docstring(rows: tuple[Activation, ...], names: tuple[str, ...]) -> str:
    """Formula, arguments, accuracy and source of an activation, from its rows."""
    lines = [f"{rows[0].name}({', '.join(('x', *names))}, *, dropout=0.0, training=True, seed=None)", ""]
    for row in rows:
        chosen = f" for {row.keyword[0]}={row.keyword[1]!r}" if row.keyword else ""
        lines += [f"{row.formula}{chosen}", f"{row.derivative}", f"Source: {row.source}.", ""]
    lines += [
        "Args:", "    x: any shape; float32, float64, float16 or bfloat16, any strides.",
        "    dropout: probability of dropping an element of the result when ``training``; seed fixes the mask.", "",
        f"Accuracy: float32 within {rows[0].ulp:g} units in the last place, plus the rounding of x.",
    ]
    return "\n".join(lines)


def _functions() -> dict[str, Callable[..., Tensor]]:
    """One function per module class, under the name of its first row."""
    grouped: dict[str, list[Activation]] = {}
    for row in ACTIVATIONS.values():
        grouped.setdefault(row.module, []).append(row)
    return {rows[0].name: _function(tuple(rows)) for rows in grouped.values()}


_ACTIVATION_FUNCTIONS = _functions()
globals().update(_ACTIVATION_FUNCTIONS)
__all__ = ["batch_norm", "bias_activation", "dropout", "dropout_mask", *_ACTIVATION_FUNCTIONS]
