"""Activation modules, one class per module name in specs.py.

Where torch.nn has the class ours subclasses it: same constructor, attributes and state_dict, plus the keyword ``dropout``. Where it has
not, the constructor takes the row's constants; by keyword, where the row has learnable parameters, ``num_parameters``, how many of them
(``num_hinges`` of APL) and what they start from.
"""
from __future__ import annotations

import inspect
from inspect import Parameter
from types import FunctionType

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.types import Device

from .. import checks
from ..activation_argument import parse, register, resolve_module
from ..functional.activations import apply
from ..overrides import traced
from ..rows import accuracy
from ..specs import ACTIVATIONS, Activation, Learnable
from .scripting import NotScripted


class FusedActivation(NotScripted, torch.nn.Module):
    """What all activation classes share: y = dropout(activation(x)) in one kernel, dropout only while training."""

    dropout: float = 0.0
    inplace: bool = False

    def forward(self, input: Tensor) -> Tensor:
        """y = dropout(activation(input)), shape, dtype and memory format of input; ``inplace`` counts where there is no dropout."""
        if type(input) is not Tensor and isinstance(input, Proxy):
            return traced(self, input)
        name = type(self).__name__
        if self.inplace and not self.dropout:
            resolved = resolve_module(name, self)
            if resolved.row.random:
                return input.copy_(apply(name, input.clone(), resolved))
            return super().forward(input)  # torch's kernel: in place there is no traffic left to save
        return apply(name, input, resolve_module(name, self), dropout=self.dropout, training=self.training)

    def extra_repr(self) -> str:
        return ", ".join(part for part in (super().extra_repr(), f"dropout={self.dropout}" if self.dropout else "") if part)


def from_name(
    operation: str, text: str, device: Device = None, dtype: torch.dtype | None = None
) -> torch.nn.Module:
    """The module that a name such as "relu", or "leaky_relu(0.2)", stands for; device and dtype are of its learnable parameters."""
    row, constants = parse(operation, text)
    keywords = dict([row.keyword]) if row.keyword else {}
    if row.learnables:
        keywords |= {"device": device, "dtype": dtype}
    return CLASSES[row.module](**constants, **keywords)


def _constructor(base: type[torch.nn.Module]):
    def __init__(self, *args: object, dropout: float = 0.0, **kwargs: object) -> None:
        checks.probability(type(self).__name__, "dropout", dropout)
        base.__init__(self, *args, **kwargs)
        self.dropout = dropout

    __init__.__doc__ = base.__init__.__doc__
    own = base.__init__ is not torch.nn.Module.__init__  # which takes anything, only to refuse it in its own words
    __init__.__signature__ = _signature(list(inspect.signature(base.__init__).parameters.values())[1:] if own else [], {"dropout": 0.0})
    return __init__


def _signature(positional: list[Parameter], keyword_only: dict[str, object]) -> inspect.Signature:
    """What inspect, help() and editors show of a constructor in place of (self, *args, **kwargs)."""
    options = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in keyword_only.items()]
    parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *positional, *options]
    return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))  # **kwargs of torch.nn.Identity stays last


def _own_constructor(row: Activation):
    """The constructor of an activation that torch.nn does not have."""
    constants = {constant.name: constant.default for constant in row.constants}
    starts = {} if row.repeats else {learnable.name: learnable.init for learnable in row.learnables}
    counts = ({"num_parameters": 1} if row.learnables else {}) | ({row.repeats.name: row.repeats.default} if row.repeats else {})

    def __init__(
        self, *args: float, dropout: float = 0.0, device: Device = None, dtype: torch.dtype | None = None, **kwargs: float,
    ) -> None:
        operation = type(self).__name__
        checks.probability(operation, "dropout", dropout)
        checks.constructor_arguments(operation, list(constants), [*counts, *starts], args, kwargs)
        torch.nn.Module.__init__(self)
        given = constants | counts | starts | dict(zip(constants, args, strict=False)) | kwargs
        checks.constants(operation, row, [given[name] for name in constants])
        for name in constants:
            setattr(self, name, given[name])
        for name in counts:
            checks.whole_number(operation, name, given[name], 1, row.repeats.most if row.repeats and name == row.repeats.name else None)
            setattr(self, name, given[name])
        for learnable in row.learnables:
            self.register_parameter(learnable.name, _parameter(learnable, row, given, device, dtype))
        self.dropout = dropout

    __init__.__signature__ = _signature(
        [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default) for name, default in constants.items()],
        counts | starts | {"dropout": 0.0, "device": None, "dtype": None})

    def reset_parameters(self) -> None:
        """Give every learnable parameter the value that it starts from by default."""
        with torch.no_grad():
            for learnable in row.learnables:
                parameter = getattr(self, learnable.name)
                parameter.copy_(_parameter(learnable, row, counts | vars(self) | starts, parameter.device, parameter.dtype))

    def extra_repr(self) -> str:
        shown = [name for name in (*constants, *counts) if name in constants or row.learnables]
        parts = [*(f"{name}={getattr(self, name)}" for name in shown), FusedActivation.extra_repr(self)]
        return ", ".join(part for part in parts if part)

    methods = {"__init__": __init__, "extra_repr": extra_repr}
    return methods | ({"reset_parameters": reset_parameters} if row.learnables else {})


def _parameter(
    learnable: Learnable, row: Activation, given: dict[str, float], device: Device, dtype: torch.dtype | None
) -> torch.nn.Parameter:
    """A learnable parameter at its start: (num_parameters,), or (repeats, num_parameters)."""
    if not row.repeats:
        checks.number(row.module, learnable.name, given[learnable.name])
        return torch.nn.Parameter(torch.full((given["num_parameters"],), float(given[learnable.name]), device=device, dtype=dtype))
    start = torch.tensor(learnable.start(given[row.repeats.name]), device=device, dtype=dtype or torch.get_default_dtype())
    return torch.nn.Parameter(start.unsqueeze(1).repeat(1, given["num_parameters"]))


class Registered(type):
    """The kind of a registered row's class: copyreg knows of it, so that pickle takes along what the class is made of."""


def _class(rows: list[Activation], kind: type = type) -> type[torch.nn.Module]:
    """The module class of rows that share a module name."""
    name = rows[0].module
    base = getattr(torch.nn, name, None)
    methods = {"__init__": _constructor(base)} if base else _own_constructor(rows[0])
    made = kind(name, (FusedActivation, base) if base else (FusedActivation,), {
        "__doc__": _documentation(rows, base), "__module__": __name__, "forward": _own_forward(), **methods})
    register(base, rows)
    register(made, rows)
    return made


def _own_forward() -> FunctionType:
    """FusedActivation's under a code object of its own, by which torch.compile counts recompilations: after eight it gives up."""
    shared = FusedActivation.forward
    own = FunctionType(shared.__code__.replace(), shared.__globals__, shared.__name__, closure=shared.__closure__)
    own.__doc__, own.__annotations__, own.__qualname__ = shared.__doc__, shared.__annotations__, shared.__qualname__
    return own


def _documentation(rows: list[Activation], base: type[torch.nn.Module] | None) -> str:
    """Formula, arguments, shape, accuracy, source and example of a class, from its rows."""
    row, name = rows[0], rows[0].module
    formulas = "\n\n".join(each.formula + (f"  ({each.keyword[0]}={each.keyword[1]!r})" if each.keyword else "") for each in rows)
    arguments = _own_arguments(row) if base is None else []
    if base is not None and "inplace" in inspect.signature(base.__init__).parameters:
        arguments += ["inplace: as in torch, whose kernel runs then; without effect where there is dropout. Default False."]
    arguments += ["dropout: probability of dropping an element while training; keyword only; default 0."]
    given = ", ".join(f"{constant.default:g}" for constant in row.constants if constant.required)
    kind = f"Drop-in for ``torch.nn.{name}``: same arguments, attributes and state_dict, plus ``dropout``." if base else (
        "All arguments but the constants are keyword only.")
    if row.random:
        kind += " Its slopes are drawn from a seed in forward and again in backward: nothing but x and 8 bytes are kept."
    errors = [f"ValueError: ``{name}: dropout must be between 0 and 1, got 1.5``" + (
        ", or a constant out of its range." if row.constants else ".")]
    if row.name != "identity":  # which gives back whatever it is given
        errors += [f"RuntimeError: ``{name}: x must be float32, bfloat16, float16 or float64, got int64``."]
    source = "" if row.source == "-" else f"\nSource: {row.source}.\n"
    return f"""{name}, with dropout in the same kernel.

{formulas}

{kind}

Args:
    {(chr(10) + "    ").join(arguments)}

Shape: any; y has the shape, dtype and memory format of x. float32, float64, float16, bfloat16.

Raises:
    {(chr(10) + "    ").join(errors)}

{accuracy(rows)}
{source}
>>> y = {name}({given})(torch.randn(4, 8))
"""


def _own_arguments(row: Activation) -> list[str]:
    """What a constructor of ours takes, an entry each."""
    arguments = [f"{constant.name}: {constant.described()}." for constant in row.constants]
    arguments += ["num_parameters: 1, or the number of channels C = x.size(1); default 1."] if row.learnables else []
    if row.repeats:
        names = " and ".join(learnable.name for learnable in row.learnables)
        arguments += [f"{row.repeats.name}: S, how many of {names} there are, 1 to {row.repeats.most}; default {row.repeats.default}."]
    else:
        arguments += [f"{learnable.name}: what this learnable parameter starts from; default {learnable.init:g}."
                      for learnable in row.learnables]
    return [*arguments, "device, dtype: of the learnable parameters." if row.learnables else "device, dtype: without effect."]


def _classes() -> dict[str, type[torch.nn.Module]]:
    grouped: dict[str, list[Activation]] = {}
    for row in ACTIVATIONS.values():
        grouped.setdefault(row.module, []).append(row)
    return {name: _class(rows) for name, rows in grouped.items()}


CLASSES = _classes()
globals().update(CLASSES)


def add(row: Activation) -> type[torch.nn.Module]:
    """Make the class of a registered row."""
    CLASSES[row.module] = globals()[row.module] = _class([row], Registered)
    return CLASSES[row.module]


def remove(row: Activation) -> None:
    """Undo add."""
    del CLASSES[row.module], globals()[row.module]


__all__ = list(CLASSES)
