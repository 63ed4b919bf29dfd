"""Monte Carlo dropout: a network with dropout as an ensemble."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import checks, functional
from .nn import RReLU
from .nn.activations import FusedActivation
from .nn.batch_norm import _BatchNorm
from .nn.gated import _Gated
from .trials import device_of, random_state_kept, tensors_in

_RANDOM_ONLY = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RNNBase, nn.TransformerEncoderLayer, FusedActivation, _Gated)
"""Modules whose ``training`` means dropout and nothing else; the transformer layer's chooses a path with dropout in it."""
_MORE = (_BatchNorm, RReLU)
"""Those with a ``dropout`` of their own whose ``training`` means more: they stay in evaluation, and dropout comes after them."""


class Ensemble(NamedTuple):
    """What :func:`mc_dropout` returns."""

    mean: Tensor
    variance: Tensor
    samples: Tensor


def mc_dropout(
    model: nn.Module, x: Tensor, samples: int = 50, *, seed: int | None = None, max_bytes: int = 2**30
) -> Ensemble:
    """Mean and variance of a network's output over random dropout masks.

    mean = sum_s f_s(x) / S, variance = sum_s (f_s(x) - mean)^2 / (S - 1), f_s the network under the s-th masks. Only dropout is
    active: layers of fastlayers.nn and torch.nn, ``dropout=`` of fused blocks, of attention and of recurrent layers; batch norm and
    all else is as in evaluation. The modules' modes are put back afterwards, also after an error.

    Args:
        model: takes x and returns a Tensor; both have the batch in dimension 0.
        x: (B, ...).
        samples: S, at least 2. Default 50.
        seed: fixes the masks, and leaves torch's generators as they were; None draws from them.
        max_bytes: what the largest of the layers' outputs may take. All samples are one pass over x repeated S times where that
            fits, else as few passes as possible. The same seed, samples and max_bytes give the same numbers.

    Returns:
        (mean, variance, samples): (B, ...), (B, ...) and (S, B, ...) of the model's output, without gradients.

    Raises:
        ValueError: ``mc_dropout: samples must be at least 2, got 1``; ``mc_dropout: model must hold a dropout layer with p above 0, ...``
        RuntimeError: ``mc_dropout: x must have the batch in dimension 0, got a 0-d tensor``; the same of the model's output.

    Source: Gal & Ghahramani, arXiv:1506.02142.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))
    >>> mean, variance, ys = mc_dropout(model, torch.randn(4, 3), samples=20, seed=0)
    """
    checks.module("mc_dropout", model)
    checks.has_batch("mc_dropout", x)
    checks.whole_number("mc_dropout", "samples", samples, 2)
    checks.at_least("mc_dropout", "max_bytes", max_bytes, 1)
    if seed is not None:
        checks.whole_number("mc_dropout", "seed", seed, -(2**63), 2**64 - 1)  # what torch.manual_seed takes
    with torch.no_grad(), _only_dropout(model):
        at_once = _samples_at_once(model, x, samples, max_bytes)
        with _seeded(seed, device_of(model, x)):
            parts = [_run(model, x, min(at_once, samples - done)) for done in range(0, samples, at_once)]
    ys = parts[0] if len(parts) == 1 else torch.cat(parts)
    return Ensemble(ys.mean(0), ys.var(0), ys)


def _run(model: nn.Module, x: Tensor, samples: int) -> Tensor:
    """(samples, B, ...) in one pass over x repeated."""
    y = model(x.repeat(samples, *[1] * (x.dim() - 1)))
    checks.batched_output("mc_dropout", y, samples * x.size(0))
    return y.view(samples, x.size(0), *y.shape[1:])


def _samples_at_once(model: nn.Module, x: Tensor, samples: int, max_bytes: int) -> int:
    """How many samples fit max_bytes, by the largest output of a layer for one row of x."""
    largest = x[:1].nbytes

    def measure(module: nn.Module, arguments: object, output: object) -> None:
        nonlocal largest
        largest = max([largest, *(value.nbytes for value in tensors_in(output))])

    hooks = [module.register_forward_hook(measure) for module in model.modules()]
    try:
        with random_state_kept(device_of(model, x)):
            model(x[:1].clone())  # a first layer may be inplace
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(samples, max_bytes // max(1, largest * x.size(0))))


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    with random_state_kept(device):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs, which are not looked after here, too
        else:
            torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _only_dropout(model: nn.Module) -> Iterator[None]:
    """The block sees the model in evaluation mode with its dropout at work."""
    modes = {module: module.training for module in model.modules()}
    others = [module for module in modes if isinstance(module, _MORE) and module.dropout]
    active = [module for module in modes if isinstance(module, _RANDOM_ONLY) and not isinstance(module, _MORE) and _drops(module)]
    checks.any_dropout("mc_dropout", [*others, *active])
    hooks = []
    try:
        model.eval()
        for module in active:
            module.training = True
        hooks += [module.register_forward_hook(lambda module, _, y: functional.dropout(y, module.dropout)) for module in others]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training


def _drops(module: nn.Module) -> bool:
    """Whether the module has any dropout; a transformer layer has it in modules of its own."""
    return isinstance(module, nn.TransformerEncoderLayer) or (getattr(module, "p", 0) or getattr(module, "dropout", 0)) > 0
