"""build: an optimizer by name, with the parameter groups that people write by hand."""
from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..checks import instance, module, one_of
from ..specs import UPDATE_RULES
from . import checks
from .fused import FusedStep


def build(
    name: str, model: nn.Module, *, no_decay: Sequence[str] | str = ("bias", "norm"),
    overrides: Mapping[str, Mapping[str, Any]] | None = None, **arguments: Any,
) -> FusedStep:
    """An optimizer for a model, with parameters that should not decay, or that differ otherwise, in groups of their own.

    A word fits a parameter where it is part of its dotted name or of the name of its module's class, in any case of letters: "norm"
    fits ``encoder.norm1.weight`` and the weight of an ``nn.BatchNorm2d`` called ``layers.1``.

    Args:
        name: that of a row of specs.UPDATE_RULES: "sgd", "adamw", ...
        model: those of its parameters that require a gradient are taken, each once, under its name.
        no_decay: words, or one; what they fit gets ``weight_decay=0`` (default ("bias", "norm")).
        overrides: word to arguments for what it fits, such as ``{"head": {"lr": 1e-2}}``; the first word that fits counts. They come
            after ``no_decay``, so that they may set a weight decay.
        arguments: for the optimizer: lr, weight_decay, max_grad_norm ...

    Returns:
        The optimizer; its groups carry ``param_names``.

    Raises:
        ValueError: ``build: name must be one of sgd, adagrad, ..., got 'adamq'``; ``build: overrides must fit a parameter, got 'haed'``;
            ``build: overrides['head'] must hold arguments of AdamW, got 'rate'``;
            ``build: model must have parameters that require a gradient, got none``.

    >>> import fastlayers as fl, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    >>> optimizer = fl.optim.build("adamw", model, lr=1e-3, weight_decay=0.1)
    >>> [(group["weight_decay"], group["param_names"]) for group in optimizer.param_groups]
    [(0.1, ['0.weight']), (0.0, ['0.bias', '1.weight', '1.bias'])]
    """
    from .. import optim

    one_of("build", "name", name, tuple(UPDATE_RULES))
    kind = getattr(optim, UPDATE_RULES[name].optimizer)
    module("build", model)
    overrides, unused = overrides or {}, set(overrides or ())
    no_decay = checks.words("build", "no_decay", no_decay)
    instance("build", "overrides", overrides, Mapping)
    for word, own in overrides.items():
        instance("build", "a word of overrides", word, str)
        instance("build", f"overrides[{word!r}]", own, Mapping)
        checks.known("build", f"overrides[{word!r}]", kind, inspect.signature(kind).parameters, own)
    groups: dict[tuple[bool, str | None], list[tuple[str, Tensor]]] = {}
    owners = dict(model.named_modules())
    for path, p in model.named_parameters():
        if not p.requires_grad:
            continue
        text = f"{path} {type(owners[path.rpartition('.')[0]]).__name__}".lower()
        chosen = next((word for word in overrides if word.lower() in text), None)
        unused.discard(chosen)
        groups.setdefault((any(word.lower() in text for word in no_decay), chosen), []).append((path, p))
    checks.trainable("build", len(groups))
    checks.all_used("build", "overrides", sorted(unused))
    dictionaries = [
        {"params": members, **({"weight_decay": 0.0} if undecayed else {}), **(overrides[word] if word is not None else {})}
        for (undecayed, word), members in groups.items()
    ]
    return kind(dictionaries, **arguments)
