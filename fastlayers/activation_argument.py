"""What ``activation=`` takes: a name, a name with constants, or an activation module; resolved to what kernels take."""
from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from . import checks
from .backends import extension
from .generated import REGISTERED
from .specs import ACTIVATIONS, TORCH_NAMES, Activation


class Resolved(NamedTuple):
    """A row of specs.py with its arguments."""

    row: Activation
    constants: tuple[float, ...]
    parameters: Tensor | None
    """Learnable parameters [K, P]; [P] of a single one; or None."""
    plain: Callable[[Tensor], Tensor | None] | None = None
    """y of x in one call of the extension, which gives None where x is not for it; None where there is no such call."""


_ROWS_OF_CLASS: dict[type[torch.nn.Module], Sequence[Activation]] = {}


def register(kind: type[torch.nn.Module] | None, rows: Sequence[Activation]) -> None:
    """kind computes these rows; not whatever class shares its name, which may be another package's and mean something else."""
    if kind is not None:
        _ROWS_OF_CLASS[kind] = rows


def _resolved(row: Activation, constants: tuple[float, ...]) -> Resolved:
    """A row without learnable parameters, and constants that are checked."""
    constants = tuple([float(constant) for constant in constants])
    if extension is None or row.random or row.name in REGISTERED or is_dynamo_compiling():
        return Resolved(row, constants, None)
    from_output = [row.derives_from_output(constants, itemsize) for itemsize in (4, 2)]
    return Resolved(row, constants, None, extension.plain_activation(row.name, constants, *from_output))


_DEFAULTS: dict[str, Resolved] = {}


def add(row: Activation) -> None:
    """Let a row be resolved by name alone where that says all."""
    if not row.learnables and not row.random and not any(constant.required for constant in row.constants):
        _DEFAULTS[row.name] = _resolved(row, tuple([constant.default for constant in row.constants]))


def remove(row: Activation) -> None:
    """Undo add, and register of the row's class."""
    _DEFAULTS.pop(row.name, None)
    for key in [key for key in _CHECKED if key[0] == row.name]:
        del _CHECKED[key]
    for kind in [kind for kind, rows in _ROWS_OF_CLASS.items() if row in rows]:
        del _ROWS_OF_CLASS[kind]


for _row in ACTIVATIONS.values():
    add(_row)


def default(row: Activation) -> Resolved | None:
    """The row with its default constants, if it needs nothing else."""
    return _DEFAULTS.get(row.name)


def resolve(operation: str, activation: str | torch.nn.Module, training: bool = True) -> Resolved:
    """The row, constants and learnable parameters that an ``activation=`` argument stands for.

    training decides whether a random activation given by name draws; a module knows for itself.
    """
    if isinstance(activation, str):
        return _DEFAULTS[activation] if activation in _DEFAULTS else _resolve_text(operation, activation, training)
    if isinstance(activation, torch.nn.Module):
        if activation.__dict__.get("dropout"):  # which nobody would apply
            raise checks.own_dropout(operation, activation)
        if type(activation) not in _ROWS_OF_CLASS or "forward" in activation.__dict__:
            _check_inherits(operation, activation)
        resolved = resolve_module(operation, activation)
        if resolved.parameters is not None:
            checks.up_to_date(operation, activation, [learnable.name for learnable in resolved.row.learnables])
        return resolved
    raise checks.no_activation(operation, activation)


def _check_inherits(operation: str, module: torch.nn.Module) -> None:
    """A module computes its row only with the forward of the row's class; the module of a block is never called."""
    kind = type(module)
    known = next((base for base in kind.__mro__ if base in _ROWS_OF_CLASS), kind)
    checks.inherited_forward(operation, module, known)


def resolve_module(operation: str, module: torch.nn.Module) -> Resolved:
    """Resolve a module of fastlayers.nn, or of torch.nn where the classes share a name."""
    rows = _ROWS_OF_CLASS.get(type(module))
    row = rows[0] if rows and rows[0].keyword is None else row_of_module(operation, module)
    if row.learnables:
        constants = tuple([getattr(module, constant.name) for constant in row.constants]) if row.constants else ()
        return Resolved(row, constants, pack(row, [parameter(module, learnable.name) for learnable in row.learnables]))
    default = _DEFAULTS.get(row.name)
    if not row.constants:
        return default
    constants = tuple([getattr(module, constant.name) for constant in row.constants])
    if default is not None and constants == default.constants:
        return default
    resolved = with_constants(operation, row, constants)
    return drawing(resolved, module.training) if row.random else resolved


def parameter(module: torch.nn.Module, name: str) -> Tensor | None:
    """getattr(module, name) of a parameter, which torch.nn.Module finds where it looks last: ten times slower."""
    value = module._parameters.get(name)
    return getattr(module, name) if value is None else value  # None where there is none, or where it is parametrized


def buffer(module: torch.nn.Module, name: str) -> Tensor | None:
    """getattr(module, name) of a buffer, twice as fast; code that swaps tensors may have made it an attribute."""
    buffers = module._buffers
    return buffers[name] if name in buffers else getattr(module, name)


_NUMBERS = {float, int}
_CHECKED: dict[tuple[str, tuple[float, ...]], Resolved] = {}
"""What with_constants has made of plain numbers."""


def with_constants(operation: str, row: Activation, constants: tuple[float, ...]) -> Resolved:
    """A row without learnable parameters and its constants, checked."""
    default = _DEFAULTS.get(row.name)
    if default is not None and constants == default.constants:
        return default
    plain = not is_dynamo_compiling() and {*map(type, constants)} <= _NUMBERS  # a tensor's value may change
    known = _CHECKED.get((row.name, constants)) if plain else None
    if known is not None:
        return known
    checks.constants(operation, row, constants)
    resolved = _resolved(row, constants)
    if plain:
        if len(_CHECKED) >= 1000:  # as many as a schedule of constants makes in time
            _CHECKED.clear()
        _CHECKED[row.name, constants] = resolved
    return resolved


def drawing(resolved: Resolved, training: bool) -> Resolved:
    """A random activation draws in training only; in evaluation its slope is the mean of the range that it is drawn from."""
    if not resolved.row.random or training:
        return resolved
    return with_constants(resolved.row.name, ACTIVATIONS["leaky_relu"], (sum(resolved.constants) / 2,))


def pack(row: Activation, values: Sequence[Tensor]) -> Tensor:
    """Learnable parameters as kernels take them: [P] of a single one, else [K, P], those of one name together; one value serves all."""
    if len(values) == 1:
        return values[0]
    if not row.repeats:
        return torch.stack(torch.broadcast_tensors(*values))
    tables = [value if value.dim() == 2 else value.unsqueeze(1) for value in values]
    return torch.cat(torch.broadcast_tensors(*tables))


def row_of_module(operation: str, module: torch.nn.Module) -> Activation:
    """The row that a module computes."""
    for kind in type(module).__mro__:  # the first, for all but subclasses
        for row in _ROWS_OF_CLASS.get(kind, ()):
            if row.keyword is None or getattr(module, row.keyword[0]) == row.keyword[1]:
                return row
        if rows := _ROWS_OF_CLASS.get(kind):
            keyword = rows[0].keyword[0]
            checks.one_of(operation, keyword, getattr(module, keyword), [row.keyword[1] for row in rows])
    raise checks.unknown_module(operation, module, dict.fromkeys(row.module for row in ACTIVATIONS.values()))


def parse(operation: str, text: str) -> tuple[Activation, dict[str, float]]:
    """Row and constants of a name such as "silu", or of a name with constants such as "leaky_relu(negative_slope=0.2)"."""
    name = text.partition("(")[0].strip()
    name = _OUR_NAMES.get(name, name)
    checks.one_of(operation, "activation", name, tuple(ACTIVATIONS))
    name, constants = _call_in(operation, text, name)
    return ACTIVATIONS[name], dict(constants)


_OUR_NAMES = {theirs: ours for ours, theirs in TORCH_NAMES.items()}


def _call_in(operation: str, text: str, name: str) -> tuple[str, tuple[tuple[str, float], ...]]:
    """The row that a text which begins with row ``name`` stands for, and the constants that it gives, by name."""
    row = ACTIVATIONS[name]
    try:
        call = ast.parse(text.strip(), mode="eval").body
        given = [] if isinstance(call, ast.Name) else [
            *((constant.name, ast.literal_eval(value)) for constant, value in zip(row.constants, call.args, strict=False)),
            *((keyword.arg, ast.literal_eval(keyword.value)) for keyword in call.keywords),
        ]
        keywords = dict(given)
        if not isinstance(getattr(call, "func", call), ast.Name) or len(keywords) < len(given):
            raise ValueError
        selected = keywords.pop(*row.keyword) if row.keyword else None
        keywords = {constant: float(value) for constant, value in keywords.items()}
        surplus = not isinstance(call, ast.Name) and len(call.args) > len(row.constants)
    except (SyntaxError, ValueError, AttributeError, TypeError):
        raise checks.unreadable(operation, text) from None
    checks.written_constants(operation, row, text, keywords, surplus)
    checks.constants(operation, row, [keywords.get(constant.name, constant.default) for constant in row.constants])
    return _selected(operation, row, selected).name, tuple(keywords.items())


def _selected(operation: str, row: Activation, value: object) -> Activation:
    """The row of row's module that its keyword selects with this value."""
    if row.keyword is None:
        return row
    rows = {other.keyword[1]: other for other in ACTIVATIONS.values() if other.module == row.module}
    checks.one_of(operation, row.keyword[0], value, tuple(rows))
    return rows[value]


_call_in._dynamo_marked_constant = True  # see context.py; Dynamo does not trace ast, and makes constants of numbers and text only


def _resolve_text(operation: str, text: str, training: bool) -> Resolved:
    row, keywords = parse(operation, text)
    checks.nothing_learnable(operation, row, text)
    constants = tuple(keywords.get(constant.name, constant.default) for constant in row.constants)
    return drawing(with_constants(operation, row, constants), training)
