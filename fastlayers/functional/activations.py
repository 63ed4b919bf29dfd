"""Activations as functions, under the names of specs.py, with the arguments of ``torch.nn.functional`` where it has the function."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function

from .. import autograd, checks
from ..activation_argument import Resolved, default, drawing, pack, with_constants
from ..backends import extension_chosen
from ..context import autocasting
from ..overrides import is_overriding
from ..rows import accuracy
from ..specs import ACTIVATIONS, TORCH_NAMES, Activation
from .epilogue import IDENTITY, fused
from .jagged import is_jagged, on_values


def apply(
    operation: str, x: Tensor, activation: Resolved, *, dropout: float = 0.0, training: bool = True, seed: Tensor | int | None = None
) -> Tensor:
    """A resolved activation, then dropout: what the modules and the functions named after activations call."""
    row, constants, parameters, plain = activation
    if not is_dynamo_compiling() and dropout == 0 and plain is not None and activation is not IDENTITY and extension_chosen():
        y = plain(x)
        if y is not None:
            return y
    if dropout != 0:
        checks.probability(operation, "dropout", dropout)
    dropping = dropout and training
    if row is IDENTITY.row and not dropping:
        return x  # whatever it is, as torch.nn.Identity does
    if is_overriding(x):
        return handle_torch_function(apply, (x,), operation, x, activation, dropout=dropout, training=training, seed=seed)
    if type(x) is not Tensor and is_jagged(x):
        checks.one_value(operation, row, parameters, "a jagged x")
        return on_values(lambda x: apply(operation, x, activation, dropout=dropout, training=training, seed=seed), x)
    if row.autocast and autocasting():
        x = _autocast(row, x)
    checks.floating(operation, x)
    if dropping or row.random:
        return fused(operation, x, None, None, None, activation, dropout, training, seed, 1 if x.dim() > 1 else 0)
    if parameters is not None:
        checks.channel_parameters(operation, row.learnables[0].name, parameters, x, x.size(1) if x.dim() > 1 else 1)
    return autograd.activation(x, parameters, row, constants)


def _autocast(row: Activation, x: Tensor) -> Tensor:
    """x as torch.autocast hands it to torch's function of the row."""
    checks.tensor(row.name, "x", x)
    device = x.device.type
    if x.dtype is torch.float64 or not x.is_floating_point() or not torch.is_autocast_enabled(device):
        return x
    if row.autocast == "lower":
        return x.to(torch.get_autocast_dtype(device))
    return x.float() if device == "cuda" else x


def _function(rows: tuple[Activation, ...]) -> Callable[..., Tensor]:
    """The function of rows that share a module: its arguments are x, the learnable parameters, the constants, the selecting keyword."""
    first = rows[0]
    name, in_place, plain = first.name, _torch_function_in_place(first), default(first)
    names = _names(first) + (["inplace"] if in_place else [])
    bound = _binder(rows, names)

    def activation(
        x: Tensor | None = None, *arguments: object, dropout: float = 0.0, seed: Tensor | int | None = None, **keywords: object,
    ) -> Tensor:
        if x is None:
            x = keywords.pop("input", None)  # torch's name of it
        if is_overriding(x):
            return handle_torch_function(activation, (x,), x, *arguments, dropout=dropout, seed=seed, **keywords)
        if plain is not None and not arguments and not keywords:  # what the rest comes to, for a small tensor
            return apply(name, x, plain, dropout=dropout, seed=seed)
        row, training, given = bound(arguments, keywords)
        if given.pop("inplace", False) and not (dropout and training):
            if row.random and training:
                return x.copy_(activation(x.clone(), **given, training=True, seed=seed))
            return in_place(x, **given, inplace=True)
        constants = tuple([given.get(constant.name, constant.default) for constant in row.constants])
        if row.learnables:
            values = [given[learnable.name] for learnable in row.learnables]
            checks.learnable(name, row, values)
            resolved = Resolved(row, constants, pack(row, values if row.repeats else [value.flatten() for value in values]))
        else:
            resolved = drawing(with_constants(name, row, constants), training)
        return apply(name, x, resolved, dropout=dropout, training=training, seed=seed)

    activation.__name__ = activation.__qualname__ = name
    activation.__module__ = __package__  # where pickle finds it
    activation.__doc__ = _docstring(rows, names)
    activation.__signature__ = _signature(first, names)
    return activation


def _names(row: Activation) -> list[str]:
    """What the function of a row takes by position after x."""
    return [
        *(learnable.name for learnable in row.learnables), *(constant.name for constant in row.constants),
        *([row.keyword[0]] if row.keyword else []), *(["training"] if row.random else [])]  # where torch.nn.functional.rrelu has it


def _binder(
    rows: tuple[Activation, ...], names: Sequence[str]
) -> Callable[[Sequence[object], dict[str, object]], tuple[Activation, bool, dict[str, object]]]:
    """Makes (the row, training, the other arguments by name) of what a function of these rows is given after x."""
    first, by_value = rows[0], {row.keyword[1]: row for row in rows if row.keyword}
    known = {*names, "training"}
    required = {learnable.name for learnable in first.learnables} | {constant.name for constant in first.constants if constant.required}
    untold = not first.random

    def bound(arguments: Sequence[object], keywords: dict[str, object]) -> tuple[Activation, bool, dict[str, object]]:
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        if len(given) < len(arguments) + len(keywords) or not required <= given.keys() <= known:  # too many, or one of them twice
            raise checks.wrong_arguments(first.name, names, arguments, keywords)
        training = given.pop("training", untold)
        if not by_value:
            return first, training, given
        keyword, default = first.keyword
        value = given.get(keyword, default)
        checks.one_of(first.name, keyword, value, tuple(by_value))
        return by_value[value], training, given

    return bound


def _signature(row: Activation, names: list[str]) -> inspect.Signature:
    """What inspect, help() and editors show in place of (x, *arguments, **keywords)."""
    defaults = {constant.name: constant.default for constant in row.constants if not constant.required}
    defaults |= dict([row.keyword] if row.keyword else []) | {"training": False, "inplace": False}
    plain = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=defaults.get(name, Parameter.empty)) for name in ("x", *names)]
    options = {"dropout": 0.0} | ({} if row.random else {"training": True}) | {"seed": None}
    return inspect.Signature([*plain, *(Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in options.items())])


def _torch_function_in_place(row: Activation) -> Callable[..., Tensor] | None:
    """torch.nn.functional's function of the row if it can work in place: there is no traffic left to save then."""
    function = getattr(torch.nn.functional, TORCH_NAMES.get(row.name, row.name), None)
    if function is None or not hasattr(torch.nn, row.module) or not inspect.isfunction(function):
        return None
    return function if "inplace" in inspect.signature(function).parameters else None


def _docstring(rows: tuple[Activation, ...], names: list[str]) -> str:
    """Formula, source, arguments, errors, accuracy and example of an activation, from its rows."""
    first = rows[0]
    lines = [f"{first.module} as a function, with dropout in the same kernel.", ""]
    for row in rows:
        chosen = f" for {row.keyword[0]}={row.keyword[1]!r}" if row.keyword else ""
        lines += [f"{row.formula}{chosen}", f"{row.derivative}", *([f"Source: {row.source}."] if row.source != "-" else []), ""]
    lines += ["Args:", "    x: any shape; float32, float64, float16 or bfloat16, any strides; jagged nested tensors too."]
    size = f"(S, 1) or (S, C), or (S,): 1 <= S <= {first.repeats.most} of them" if first.repeats else "(1,) or (C,)"
    lines += [f"    {learnable.name}: {size}, C = x.size(1); in x's dtype, or float32 for half x." for learnable in first.learnables]
    lines += [f"    {constant.name}: {constant.described()}." for constant in first.constants]
    values = [repr(row.keyword[1]) for row in rows if row.keyword]
    lines += [f"    {first.keyword[0]}: {' or '.join(values)}; default {values[0]}."] if first.keyword else []
    lines += ["    inplace: write y into x; ignored beside dropout."] if "inplace" in names else []
    lines += ["    training: draw the slopes, and apply ``dropout``; else their mean is used. Default False." if first.random else
              "    training: whether ``dropout`` applies; keyword only; default True."]
    lines += [
        "    dropout: probability of dropping an element of the result, in training; keyword only; default 0.",
        "    seed: an int or 0-d int64 tensor that fixes what is drawn; None draws from torch's generator of x's device; keyword only.",
        "", "Returns:", "    y, shape, dtype and memory format of x.",
        "", "Raises:", f"    ValueError: ``{first.name}: dropout must be between 0 and 1, got 1.5``" + (
            ", or a constant out of its range." if first.constants else "."),
    ]
    if first is not IDENTITY.row:
        lines += [f"    RuntimeError: ``{first.name}: x must be float32, bfloat16, float16 or float64, got int64``."]
    given = [f"torch.full((1,), {float(learnable.start(1)[0])})" for learnable in first.learnables]
    given += [f"{constant.default:g}" for constant in first.constants if constant.required]
    lines += ["", accuracy(rows), "", f">>> y = {first.name}({', '.join(['torch.randn(4, 8)', *given])})"]
    return "\n".join(lines)


def _functions() -> dict[str, Callable[..., Tensor]]:
    """One function per module class, under the name of its first row, and under torch.nn.functional's where that differs."""
    grouped: dict[str, list[Activation]] = {}
    for row in ACTIVATIONS.values():
        grouped.setdefault(row.module, []).append(row)
    functions = {rows[0].name: _function(tuple(rows)) for rows in grouped.values()}
    return functions | {theirs: functions[ours] for ours, theirs in TORCH_NAMES.items()}


FUNCTIONS = _functions()


def add(row: Activation) -> None:
    """Make the function of a registered row."""
    FUNCTIONS[row.name] = _function((row,))


def remove(row: Activation) -> None:
    """Undo add."""
    del FUNCTIONS[row.name]
