"""Models of torch.nn's layers as models of fastlayers', and back."""
from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch

from . import checks
from .drop_ins import OURS, TORCHS, options
from .fusing import Part, absorb, absorbed, give_back, to_absorb
from .nn.batch_norm import _BatchNorm

Model = TypeVar("Model", bound=torch.nn.Module)


def convert(model: Model, *, fuse: bool = False) -> Model:
    """Make every layer of torch.nn that fastlayers.nn has a drop-in for that drop-in, in place.

    Only layers of exactly torch's class change; a subclass, a parametrized layer and a ScriptModule stay what they are, and so does a
    layer to which somebody gave an attribute named like an option of ours. Parameters, buffers, state_dict, hooks, flags and the objects
    themselves stay; only running statistics of a half type become float32, as they are in every half model of fastlayers.

    Args:
        model: changed in place; a layer itself is fine.
        fuse: in a torch.nn.Sequential also make BatchNorm, activation, Dropout, or two neighbours of them in this order, one block.
            The layers after the first stay in their places and do nothing, so that indices and state_dict are the same. Left apart
            are layers with hooks, in several places, in different modes, activations with learnable parameters after a batch norm, and
            an inplace activation before a Dropout. Default False, since code that calls the layers of a Sequential one by one
            gets other values from a block.

    Returns:
        The model.

    Raises:
        TypeError: ``convert: model must be a torch.nn.Module, got list``
        ValueError: ``convert: model must not be quantized, got Quantize at 0``, for its activations may meet quantized tensors.

    Accuracy: that of the layers; dropout masks and RReLU's slopes are other draws than torch's, from the same distribution.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.1))
    >>> list(convert(model, fuse=True))[2:]
    [Absorbed(activation), Absorbed(dropout)]
    """
    checks.module("convert", model)
    checks.not_quantized("convert", [_at(path, module) for path, module in model.named_modules() if _gives_quantized(module)])
    kinds = {module: OURS[type(module)] for module in model.modules() if type(module) in OURS}
    kinds = {module: kind for module, kind in kinds.items() if not any(hasattr(module, name) for name in options(kind))}
    parts = list(to_absorb(model, kinds)) if fuse else []
    kinds |= {part.value: OURS[type(part.value)] for part in parts if type(part.value) in OURS}
    for module, kind in kinds.items():
        _become_ours(module, kind)
    for part in parts:
        absorb(part)
    return model


def revert(model: torch.nn.Module) -> torch.nn.Module:
    """Undo ``convert``: make every layer of fastlayers.nn the one of torch.nn that has its name, in place.

    For handing the model to someone without fastlayers, and for tools that look for torch's very classes. What ``convert`` fused comes
    apart again, with the activation and the dropout that the block has by then. Running statistics take the dtype of the weight, as
    torch needs them.

    Args:
        model: changed in place; a layer itself is fine. What the model's own code asks of a layer, such as ``residual=``, is not seen.

    Returns:
        The model.

    Raises:
        TypeError: ``revert: model must be a torch.nn.Module, got list``
        ValueError: ``revert: model must hold no layer that torch.nn lacks, got SReLU at 3, BatchNorm2d with memory='inplace' at 4``;
            the model is as it was then.

    >>> revert(convert(torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Dropout(0.1)), fuse=True))
    Sequential(
      (0): Tanh()
      (1): Dropout(p=0.1, inplace=False)
    )
    """
    checks.module("revert", model)
    parts = list(absorbed(model))
    checks.layers_of_torch("revert", list(_lacking(model, parts)))
    for part in parts:
        give_back(part)
    for module in model.modules():
        if type(module) in TORCHS:
            _become_torchs(module)
    return model


# A layer changes its class and stays the object that it is: whoever holds it (parents, plain lists, bound hooks) and whatever it holds
# (tensors, hooks, flags, attributes of the user's) stays as it was. A new object would have to find and copy all of that.


def _become_ours(module: torch.nn.Module, kind: type[torch.nn.Module]) -> None:
    """Make one of torch's layers one of ours."""
    module.__class__ = kind
    for name, default in options(kind).items():
        setattr(module, name, default)
    if isinstance(module, _BatchNorm):
        module._keep_statistics_wide({})


def _become_torchs(module: torch.nn.Module) -> None:
    """Make one of our layers, which has no option of ours set, one of torch's."""
    if isinstance(module, _BatchNorm) and module._parameters.get("weight") is not None:
        for name in module._statistics:
            if module._buffers[name] is not None:
                module._buffers[name] = module._buffers[name].to(module.weight.dtype)
    for name in (*options(type(module)), "_stopped"):  # which freeze() leaves
        for place in (vars(module), module._modules):
            place.pop(name, None)
    module.__class__ = TORCHS[type(module)]


def _gives_quantized(module: torch.nn.Module) -> bool:
    """Whether it is of torch's layers for quantized tensors, other than the dynamic ones, which take and give floats."""
    return "quantized.modules" in type(module).__module__ and hasattr(module, "zero_point")


_MODULES = ("fastlayers.nn.", "fastlayers.folding", "fastlayers.fusing")
"""Where the layers of this package are; the demo's networks, which are made of them, are elsewhere."""


def _lacking(model: torch.nn.Module, parts: list[Part]) -> Iterator[str]:
    """The layers that torch.nn cannot stand for once these parts of blocks are layers again, in words."""
    layers = {part.layer for part in parts}
    apart = {(part.block, part.name) for part in parts}
    for path, module in model.named_modules():
        kind = type(module)
        if kind in TORCHS:
            set_here = (name for name, default in options(kind).items() if getattr(module, name) != default and (module, name) not in apart)
            yield from [_at(path, module, f" with {name}={getattr(module, name)!r}") for name in list(set_here)[:1]]
        elif module not in layers and any(base.__module__.startswith(_MODULES) for base in kind.__mro__):
            yield _at(path, module)


def _at(path: str, module: torch.nn.Module, option: str = "") -> str:
    """A layer and its place, in words."""
    return f"{type(module).__name__}{option}" + (f" at {path}" if path else "")
