"""Neighbours in a torch.nn.Sequential as one block: which can be, becoming it, and coming apart again."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch

from . import nn
from .activation_argument import resolve
from .drop_ins import TORCHS, options
from .nn.activations import FusedActivation
from .nn.batch_norm import _BatchNorm


class Absorbed(torch.nn.Identity):
    """A layer that the block before it computes, until ``revert``; it keeps its place, its hooks and its attributes."""

    _part: str

    def extra_repr(self) -> str:
        return self._part


class Part(NamedTuple):
    """A layer that becomes, or has become, the ``name`` of a block: its activation or its dropout."""

    block: torch.nn.Module
    name: str
    layer: torch.nn.Module
    value: object = None


def to_absorb(model: torch.nn.Module, kinds: dict[torch.nn.Module, type[torch.nn.Module]]) -> Iterator[Part]:
    """What blocks can absorb in a model whose layers are about to be of these kinds."""
    places = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    for parent in model.modules():
        if type(parent) is not torch.nn.Sequential or "forward" in vars(parent):
            continue
        block, free = parent, set()
        for layer in parent._modules.values():
            kind = kinds.get(layer, type(layer))
            alone = places[layer] == 1 and kind in TORCHS and not _is_watched(layer)
            name = _part_of_a_block(layer, kind) if alone and layer.training == block.training else ""
            if name in free:
                yield Part(block, name, layer, layer.p if name == "dropout" else _twin(layer))
                free = free & {"dropout"} - {name}
            else:
                block, free = layer, _free(layer, kind) if alone else set()


def _is_watched(layer: torch.nn.Module) -> bool:
    """Whether it has hooks, or a forward of its own."""
    return "forward" in vars(layer) or any(value for name, value in vars(layer).items() if name.endswith("_hooks"))


def _part_of_a_block(layer: torch.nn.Module, kind: type[torch.nn.Module]) -> str:
    """Which part of a block the layer can be: "" where none. A block would have an activation's parameters under other names."""
    if kind is nn.Dropout:
        return "dropout" if getattr(layer, "convention", "train") == "train" else ""
    plain = issubclass(kind, FusedActivation) and not getattr(layer, "dropout", 0) and not any(True for _ in layer.parameters())
    return "activation" if plain else ""


def _free(layer: torch.nn.Module, kind: type[torch.nn.Module]) -> set[str]:
    """The parts that a layer can absorb; one that writes into its x has to go on doing so."""
    if "dropout" not in options(kind) or getattr(layer, "dropout", 0) or getattr(layer, "inplace", False):
        return set()
    return {"activation", "dropout"} if issubclass(kind, _BatchNorm) and getattr(layer, "activation", None) is None else {"dropout"}


def _twin(layer: torch.nn.Module) -> torch.nn.Module:
    """An activation without parameters, for a block to hold, checked: what is refused is refused before anything has changed."""
    twin = type(layer).__new__(type(layer))
    torch.nn.Module.__init__(twin)
    vars(twin).update(_attributes(layer))
    resolve("convert", twin)
    return twin


def _attributes(layer: torch.nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(layer).items() if not name.startswith("_")}


def absorb(part: Part) -> None:
    """Let the block compute the layer."""
    setattr(part.block, part.name, part.value)
    part.layer.__class__ = Absorbed
    part.layer._part = part.name


def absorbed(model: torch.nn.Module) -> Iterator[Part]:
    """What has been absorbed, each with the block that stands before it now."""
    for parent in model.modules():
        if type(parent) is torch.nn.Sequential:
            block = parent
            for layer in parent._modules.values():
                if type(layer) is not Absorbed:
                    block = layer
                elif type(block) in TORCHS and layer._part in options(type(block)):
                    yield Part(block, layer._part, layer)


def give_back(part: Part) -> None:
    """Make the layer again what the block computes in its place, which may be another thing by now."""
    block, name, layer, _ = part
    del layer._part
    value = getattr(block, name)
    if name == "dropout":
        layer.__class__, layer.p = nn.Dropout, value
    elif value is None:
        layer.__class__ = torch.nn.Identity
    else:
        layer.__class__ = type(value)
        vars(layer).update(_attributes(value) | {"training": layer.training})
        layer._parameters.update(value._parameters)
