"""Activations as functions, under the names of specs.py, with the arguments of ``torch.nn.functional`` where it has the function."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import autograd, checks
from ..activation_argument import Resolved
from ..specs import ACTIVATIONS, Activation
from .epilogue import IDENTITY, fused


def apply(
    operation: str, x: Tensor, activation: Resolved, *, dropout: float = 0.0, training: bool = True, seed: Tensor | int | None = None
) -> Tensor:
    """A resolved activation, then dropout: what the modules and the functions named after activations call."""
    if dropout:
        checks.probability(operation, "dropout", dropout)
    dropping = dropout and training
    if activation.row is IDENTITY.row and not dropping:
        return x  # whatever it is, as torch.nn.Identity does
    checks.floating(operation, x)
    if dropping:
        return fused(operation, x, None, None, None, activation, dropout, training, seed, 1 if x.dim() > 1 else 0)
    row, constants, parameters = activation
    if parameters is not None:
        checks.parameters(operation, row.learnables[0].name, parameters, x, x.size(1) if x.dim() > 1 else 1)
    return autograd.activation(x, parameters, row, constants)


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


FUNCTIONS = _functions()
