"""What a row of specs.py says: the facts that there are about an activation and about an update rule."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SMALLEST_SLOPE = 2.0**-14
"""An activation with a smaller slope counts as one that cannot be inverted: y would be lost below the smallest float16."""
_ULP = 4.0  # default budget, in units in the last place of float32


@dataclass(frozen=True)
class Constant:
    """A number fixed when the layer is made, such as ``negative_slope``."""

    name: str
    default: float
    low: float = float("-inf")
    high: float = float("inf")
    refused: tuple[float, ...] = ()
    """Numbers within that range that the formula has no meaning for."""
    required: bool = False
    """Whether it must be given, as in torch; the default is then only an example, for tests and benchmarks."""

    def takes(self, value: float) -> bool:
        """Whether it may have this value."""
        return self.low <= value <= self.high and value not in self.refused

    def rule(self) -> str:
        """Its range in words."""
        above = "above" if self.low in self.refused else "at least"
        bounds = [f"{above} {self.low:g}"] * math.isfinite(self.low) + [f"at most {self.high:g}"] * math.isfinite(self.high)
        others = [f"but not {value:g}" for value in self.refused if value != self.low and math.isfinite(value)]
        kind = "a finite number" if math.inf in self.refused else "a number"
        return " ".join([kind, *([" and ".join(bounds)] if bounds else []), *others])

    def described(self) -> str:
        """Its range and default in words."""
        return self.rule() if self.required else f"{self.rule()}; default {self.default:.6g}"


@dataclass(frozen=True)
class Learnable:
    """A parameter of an activation that is trained: one value, or one per channel."""

    name: str
    init: float
    last: float | None = None
    """Where a row has several (see Repeats), they start evenly spaced from init to last, or all at init; a single one of them at 0."""

    def start(self, repeats: int) -> list[float]:
        """What ``repeats`` of them start from."""
        if self.last is None:
            return [self.init] * repeats
        step = (self.last - self.init) / max(repeats - 1, 1)
        return [self.init + k * step if repeats > 1 else 0.0 for k in range(repeats)]


@dataclass(frozen=True)
class Repeats:
    """The constructor's argument that says how many of each learnable an activation has."""

    name: str
    default: int
    most: int


@dataclass(frozen=True)
class Activation:
    """One activation: what it is called, what it takes, what its backward needs, how exact it must be."""

    name: str
    module: str
    """Name of the class in ``fastlayers.nn``; a ``torch.nn`` name means that the class is drop-in."""
    formula: str
    derivative: str
    source: str
    constants: tuple[Constant, ...] = ()
    ordered: bool = False
    """Whether no constant may be below the one before it."""
    learnables: tuple[Learnable, ...] = ()
    repeats: Repeats | None = None
    kinks: tuple[tuple[float, float | None], ...] = ()
    """(x, the derivative used there) for each point where the left and right derivatives differ, at the default arguments; None for a
    derivative that is random."""
    kinks_at: tuple[str, ...] = ()
    """Learnable parameters that are themselves such points."""
    from_output: str = "never"
    """When backward may keep y in place of x: "always", "never", or a condition on the constants such as "negative_slope >= 0"."""
    invertible: str = "never"
    """When x follows from y: "always", "never", or conditions on constants or learnable parameters, "beta > 0 and threshold > 15"."""
    saturates: bool = False
    """Whether an end of the function is flat at a height that half types may round, so that their y has lost x there."""
    everywhere: bool = True
    """Whether there is a value for every x and every parameter: else sums need care where a kernel computes beside a tensor's end."""
    masks: bool = False
    """Whether nothing passes where the slope is 0, as torch has it for these: an infinite or NaN gradient becomes 0 there, too."""
    keyword: tuple[str, object] | None = None
    """The argument of ``module`` that selects this row where several rows share one class."""
    autocast: str = ""
    """What torch.autocast makes of a float32 or half x: "" nothing, "lower" its own dtype, "float32 on cuda" float32 there."""
    random: bool = False
    """Whether the function takes, after the constants, a number per element that is uniform in (0, 1), drawn from the seed."""
    ulp: float = _ULP
    derivative_ulp: float = _ULP
    derivative_absolute: float = 0.0
    """Absolute error also granted to the derivative: where it is computed from y, or where it crosses zero."""

    def __post_init__(self) -> None:
        names = [c.name for c in self.constants]
        if self.from_output not in ("always", "never") and not any(n in self.from_output for n in names):
            raise ValueError(f"{self.name}: from_output names no constant: {self.from_output!r}")
        if self.from_output not in ("always", "never"):  # read once, looked at in every forward
            name, bound = self.from_output.split(" >= ")
            object.__setattr__(self, "_condition", (names.index(name), float(bound)))
        names += [learnable.name for learnable in self.learnables]
        if self.invertible not in ("always", "never") and not any(n in self.invertible for n in names):
            raise ValueError(f"{self.name}: invertible names no constant and no parameter: {self.invertible!r}")

    def derives_from_output(self, constants: tuple[float, ...], itemsize: int = 4) -> bool:
        """Whether the derivative follows from y for these constants and elements of so many bytes."""
        if self.saturates and itemsize == 2:
            return False
        if self.from_output == "always" or self.from_output == "never":
            return self.from_output == "always"
        position, bound = self._condition
        return constants[position] >= bound

    @property
    def text(self) -> str:
        """The row as ``activation=`` takes it: its name, and the constants that must be given."""
        required = [f"{constant.name}={constant.default:g}" for constant in self.constants if constant.required]
        return f"{self.name}({', '.join(required)})" if required else self.name

    def kinks_with(self, parameters: Sequence) -> list:
        """All points where the derivative jumps: numbers, and the learnable parameters, as kernels take them, that are such points."""
        repeats = len(parameters) // max(len(self.learnables), 1)
        own = [parameters[k * repeats + i] for k, one in enumerate(self.learnables) if one.name in self.kinks_at for i in range(repeats)]
        return [*(kink for kink, _ in self.kinks), *own]

    def start(self, repeats: int | None = None) -> list[float]:
        """What the learnable parameters start from, in the order of kernels: all of the first, then all of the next."""
        count = repeats or (self.repeats.default if self.repeats else 1)
        return [value for learnable in self.learnables for value in learnable.start(count)]

    def accuracy(self) -> str:
        """The budgets in words."""
        slope = f"{self.derivative_ulp:g} ULP" + (f" + {self.derivative_absolute:g}" if self.derivative_absolute else "")
        return f"value {self.ulp:g} ULP, derivative {slope}" if self.ulp or self.derivative_ulp else "exact"

    def inverts(self, constants: tuple[float, ...]) -> bool:
        """Whether x follows from y for these constants, and for learnable parameters of at least SMALLEST_SLOPE where they count."""
        if self.invertible in ("always", "never"):
            return self.invertible == "always"
        values = dict(zip([c.name for c in self.constants], constants, strict=True))
        conditions = [condition.split(" > ") for condition in self.invertible.split(" and ")]
        return all(values.get(name, 1.0) >= max(float(bound), SMALLEST_SLOPE) for name, bound in conditions)


@dataclass(frozen=True)
class Hyperparameter:
    """A number that an update rule takes from a parameter group: low <= number < high."""

    name: str
    low: float = 0.0
    high: float = math.inf
    beta: int | None = None
    """Its position in the group's ``betas``; None for a number that the group has under its name."""


_IN_EVERY_RULE = (Hyperparameter("lr"), Hyperparameter("weight_decay"))


def accuracy(rows: Sequence[Activation]) -> str:
    """The budgets of rows that share a class or a function, as their docstrings have them."""
    budgets = {row.accuracy() for row in rows}
    if budgets == {"exact"}:
        return "Accuracy: exact."
    stated = budgets.pop() if len(budgets) == 1 else "; ".join(f"for {row.keyword[1]!r} {row.accuracy()}" for row in rows)
    return f"Accuracy in float32, in units in the last place (ULP): {stated}, plus the rounding of x."


@dataclass(frozen=True)
class UpdateRule:
    """One optimizer update: what it is called, which state it keeps per parameter, which numbers it takes."""

    name: str
    optimizer: str
    """Name of the class in ``fastlayers.optim``; drop-in where ``torch.optim`` has the name, too."""
    formula: str
    source: str
    states: tuple[str, ...]
    """Keys of the state tensors with the parameter's shape, in the order kernels take them, as torch.optim calls them."""
    own_numbers: tuple[Hyperparameter, ...]
    """Numbers that kernels take, in this order, after ``lr`` and ``weight_decay``."""
    flags: tuple[str, ...] = ()
    """Booleans that kernels take, in this order, after ``maximize``; "first" says that the states hold nothing yet."""
    first_matters_with: str = ""
    """The number that the flag "first" is for: where it is 0, a first step is what states of zeros give. "": it always matters."""
    optional_states: tuple[tuple[str, str], ...] = ()
    """(state, flag or hyperparameter): the state exists only when that flag is set or that number is not zero."""
    scalars: tuple[str, ...] = ("step",)
    """Keys of the one-element float32 states, in the order kernels take them. The first is "step", the number of updates so far."""
    starts: tuple[tuple[str, float | str], ...] = ()
    """(state, what it starts as: a number, or the option that says it), for the states that do not start as 0."""

    hyperparameters: tuple[str, ...] = field(init=False)
    """The names of own_numbers."""

    def __post_init__(self) -> None:
        names = tuple([number.name for number in self.own_numbers])
        places = [(number.name, None) if number.beta is None else ("betas", number.beta) for number in self.numbers]
        object.__setattr__(self, "hyperparameters", names)
        object.__setattr__(self, "_places", tuple(places))  # looked at in every step

    @property
    def numbers(self) -> tuple[Hyperparameter, ...]:
        """All numbers that kernels take, in their order."""
        return (*_IN_EVERY_RULE, *self.own_numbers)

    def values(self, group: Mapping[str, Any]) -> list[Any]:
        """The numbers of a group, as it has them: floats, or tensors of one element."""
        return [group[name] if beta is None else group[name][beta] for name, beta in self._places]

    def is_first(self, names: Sequence[str], own: Mapping[str, object]) -> bool:
        """Whether the rule is to be told that this is the first step of a parameter: own are its states so far, names those it needs."""
        return "first" in self.flags and len(names) > 0 and own.get(names[0]) is None

    def first_matters(self, group: Mapping[str, Any]) -> bool:
        """Whether a first step differs from one with states of zeros, for the numbers of this group."""
        return "first" in self.flags and (not self.first_matters_with or group[self.first_matters_with] != 0)

    def present_states(self, hyperparameters: Sequence[float], flags: Sequence[bool]) -> tuple[str, ...]:
        """The states that exist for these arguments, given as kernels take them: [lr, weight_decay, ...], [maximize, ...]."""
        given = dict(zip(("lr", "weight_decay", *self.hyperparameters, "maximize", *self.flags), (*hyperparameters, *flags), strict=True))
        needs = dict(self.optional_states)
        return tuple(state for state in self.states if state not in needs or given[needs[state]])
