"""Checks of activations: what ``activation=`` is given, constants and learnable parameters."""
from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from ..specs import Activation
from .tensors import dtype_for, on_device, tensor
from .values import OutOfRange, number


def constants(operation: str, row: Activation, values: Sequence[float]) -> None:
    """The constants of an activation are in the ranges of its row."""
    for constant, value in zip(row.constants, values, strict=True):
        number(operation, constant.name, value)
        if not constant.takes(value):
            raise OutOfRange(f"{operation}: {constant.name} must be {constant.rule()}, got {value}")
    if row.ordered and any(a > b for a, b in itertools.pairwise(values)):
        names = " <= ".join(constant.name for constant in row.constants)
        raise OutOfRange(f"{operation}: constants must be in the order {names}, got {' and '.join(map(str, values))}")


def learnable(operation: str, row: Activation, values: Sequence[Tensor]) -> None:
    """The learnable parameters of an activation, as many as its row has: [P] or 0-d each, or [S] or [S, P] where it has several of each."""
    for argument, value in zip(row.learnables, values, strict=True):
        tensor(operation, argument.name, value)
    shapes = [tuple(value.shape) for value in values]
    widths = [shape[1] if len(shape) == 2 else 1 for shape in shapes] if row.repeats else [value.numel() for value in values]
    if len({*widths} - {1}) > 1 or (not row.repeats and any(len(shape) > 1 for shape in shapes)):
        names = " and ".join(learnable.name for learnable in row.learnables)
        raise RuntimeError(f"{operation}: {names} must hold 1 value or one per channel each, got shapes {' and '.join(map(str, shapes))}")
    if row.repeats:
        good = all(len(shape) in (1, 2) and shape[0] == shapes[0][0] for shape in shapes) and 1 <= shapes[0][0] <= row.repeats.most
        if not good:
            names = " and ".join(learnable.name for learnable in row.learnables)
            raise RuntimeError(f"{operation}: {names} must have the same number of rows, 1 to {row.repeats.most}, got shapes "
                               f"{' and '.join(map(str, shapes))}")


def channel_parameters(operation: str, argument: str, value: Tensor, x: Tensor, channels: int) -> None:
    """The learnable parameters of an activation, [K, P] or [P]: one value each, or one per channel."""
    size = value.size(-1)
    if size != 1 and size != channels:  # not "in": Dynamo finds no symbolic size in a tuple
        rule = f"1 or {channels} values, one per channel" if channels != 1 else f"1 value for x of shape {tuple(x.shape)}"
        raise RuntimeError(f"{operation}: {argument} must hold {rule}, got {size}")
    if value.dtype is not x.dtype:
        dtype_for(operation, argument, value, x)
    if value.device != x.device:
        on_device(operation, argument, value, x)


def gate(operation: str, row: Activation, value: Tensor | None, x: Tensor | None) -> None:
    """An activation that can be a gate: it draws no random numbers, and its learnable parameters are one value each."""
    if row.random:
        raise ValueError(f"{operation}: activation must not draw random numbers, got {row.name} in training")
    if value is None:
        return
    one_value(operation, row, value, "a gate")
    dtype_for(operation, row.learnables[0].name, value, x)
    on_device(operation, row.learnables[0].name, value, x)


def one_value(operation: str, row: Activation, value: Tensor | None, what: str) -> None:
    """Learnable parameters of an activation are one value each, where there are no channels."""
    if value is not None and value.size(-1) != 1:
        raise RuntimeError(f"{operation}: {row.learnables[0].name} must hold 1 value, {what} has no channels, got {value.size(-1)}")


def inherited_forward(operation: str, module: torch.nn.Module, base: type[torch.nn.Module]) -> None:
    """An activation computes what its class, or the class it inherits from, does."""
    kind = type(module)
    if kind.forward is not base.forward or "forward" in vars(module):
        raise ValueError(f"{operation}: activation must have the forward of {base.__name__}, got {kind.__name__} with one of its own")


def up_to_date(operation: str, module: torch.nn.Module, names: Sequence[str]) -> None:
    """No forward hook makes a parameter of an activation that is not called, as torch.nn.utils.prune's and the old weight_norm's do."""
    for name in names:
        if name not in module._parameters and any(f"{name}_{source}" in module._parameters for source in ("orig", "g")):
            raise ValueError(f"{operation}: activation must have no parameter that a forward hook makes, for hooks on it do not run, got "
                             f"{name!r} of {type(module).__name__}; torch.nn.utils.parametrize works")


def no_activation(operation: str, value: object) -> TypeError:
    """The refusal of an ``activation=`` that is neither text nor a module."""
    return TypeError(f"{operation}: activation must be a name or an activation module, got {type(value).__name__}")


def own_dropout(operation: str, module: torch.nn.Module) -> ValueError:
    """The refusal of a block's activation that has a dropout, which nobody would apply."""
    return ValueError(f"{operation}: activation must have no dropout of its own beside the block's, got {module!r}")


def unknown_module(operation: str, module: torch.nn.Module, known: Iterable[str]) -> ValueError:
    """The refusal of a module that computes no row."""
    return ValueError(f"{operation}: activation must be a module of {', '.join(known)}, got {type(module).__name__}")


def unregistered(name: str) -> ValueError:
    """The refusal of a program that was exported where a formula of this name was registered."""
    return ValueError(f"register_activation: an exported program's activation must be registered before it runs, got {name!r}")


def unreadable(operation: str, text: str) -> ValueError:
    """The refusal of text that is no name and no call with numbers."""
    return ValueError(f"{operation}: activation must read like name or name(constant=number), got {text!r}")


def written_constants(operation: str, row: Activation, text: str, given: Collection[str], surplus: bool) -> None:
    """The constants that a text gives its row, by name or, of which there may be a surplus, by position: those it has and requires."""
    names = [constant.name for constant in row.constants]
    if surplus or not set(given) <= set(names):
        known = f" but {', '.join(names)}" if names else ""
        raise ValueError(f"{operation}: {row.name} must take no constants{known}, got {text!r}")
    missing = [constant.name for constant in row.constants if constant.required and constant.name not in given]
    if missing:
        raise ValueError(f"{operation}: {row.name} must be given {' and '.join(missing)}, got {text!r}")


def nothing_learnable(operation: str, row: Activation, text: str) -> None:
    """A name has no place for learnable parameters."""
    if row.learnables:
        raise ValueError(f"{operation}: activation must be a module such as fastlayers.nn.{row.module}() where it has learnable "
                         f"parameters, got {text!r}")
