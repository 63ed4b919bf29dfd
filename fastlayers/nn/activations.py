"""Activation modules, one class per module name in specs.py.

Where torch.nn has the class ours subclasses it: same constructor, attributes and state_dict, plus the keyword ``dropout``. Where it has
not, the constructor takes the row's constants, then ``num_parameters`` if the row has learnable parameters.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .. import checks, functional
from ..activation_argument import parse, register, resolve_module
from ..specs import ACTIVATIONS, Activation


class FusedActivation(torch.nn.Module):
    """What all activation classes share: y = dropout(activation(x)) in one kernel, dropout only while training."""

    dropout: float = 0.0
    inplace: bool = False

    def forward(self, input: Tensor) -> Tensor:
        """y = dropout(activation(input)), shape, dtype and memory format of input."""
        if self.inplace and not self.dropout:
            return super().forward(input)  # torch's kernel: in place there is no traffic left to save
        name = type(self).__name__
        return functional.apply(name, input, resolve_module(name, self), dropout=self.dropout, training=self.training)

    def extra_repr(self) -> str:
        return ", ".join(part for part in (super().extra_repr(), f"dropout={self.dropout}" if self.dropout else "") if part)


def from_name(operation: str, text: str) -> torch.nn.Module:
    """The module that a name such as "relu", or "leaky_relu(0.2)", stands for."""
    row, constants = parse(operation, text)
    keywords = dict([row.keyword]) if row.keyword else {}
    return CLASSES[row.module](**constants, **keywords)


def _constructor(base: type[torch.nn.Module]):
    def __init__(self, *args: object, dropout: float = 0.0, **kwargs: object) -> None:
        checks.probability(type(self).__name__, "dropout", dropout)
        base.__init__(self, *args, **kwargs)
        self.dropout = dropout

    __init__.__doc__ = base.__init__.__doc__
    return __init__


def _own_constructor(row: Activation):
    """The constructor of an activation that torch.nn does not have."""
    names = [constant.name for constant in row.constants]

    def __init__(
        self, *args: float, num_parameters: int = 1, dropout: float = 0.0, device: torch.device | None = None,
        dtype: torch.dtype | None = None, **kwargs: float,
    ) -> None:
        operation = type(self).__name__
        checks.probability(operation, "dropout", dropout)
        values = {constant.name: constant.default for constant in row.constants} | dict(zip(names, args, strict=False)) | kwargs
        if len(args) > len(names) or set(values) != set(names):
            raise TypeError(f"{operation}: arguments must be {', '.join(names) or 'none'}, got {args} and {kwargs}")
        torch.nn.Module.__init__(self)
        for constant in row.constants:
            checks.number_in(operation, constant.name, values[constant.name], constant.low, constant.high)
            setattr(self, constant.name, values[constant.name])
        for learnable in row.learnables:
            value = torch.full((num_parameters,), learnable.init, device=device, dtype=dtype)
            setattr(self, learnable.name, torch.nn.Parameter(value))
        self.dropout = dropout

    return __init__


def _class(rows: list[Activation]) -> type[torch.nn.Module]:
    """The module class of rows that share a module name."""
    name = rows[0].module
    base = getattr(torch.nn, name, None)
    formulas = "\n\n".join(
        row.formula + (f"  ({row.keyword[0]}={row.keyword[1]!r})" if row.keyword else "") for row in rows)
    drop_in = f"Drop-in for ``torch.nn.{name}``, same arguments, plus:" if base else "Arguments: the constants of the formula, and:"
    namespace = {
        "__doc__": f"""{name}, with dropout in the same kernel.

{formulas}

{drop_in}

Args:
    dropout: probability of dropping an element while training; keyword only.

Shape: any; y has the shape, dtype and memory format of x. float32, float64, float16, bfloat16.

Accuracy: float32 within {rows[0].ulp:g} units in the last place, plus the rounding of x.

Source: {rows[0].source}.
""",
        "__module__": __name__,
        "__init__": _constructor(base) if base else _own_constructor(rows[0]),
    }
    kind = type(name, (FusedActivation, base) if base else (FusedActivation,), namespace)
    register(base, rows)
    register(kind, rows)
    return kind


def _classes() -> dict[str, type[torch.nn.Module]]:
    grouped: dict[str, list[Activation]] = {}
    for row in ACTIVATIONS.values():
        grouped.setdefault(row.module, []).append(row)
    return {name: _class(rows) for name, rows in grouped.items()}


CLASSES = _classes()
globals().update(CLASSES)
__all__ = list(CLASSES)
