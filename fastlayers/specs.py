"""The facts about every activation and every update rule, one row each.

A row drives the modules, the tests, the benchmarks, ``python -m fastlayers check`` and the documentation. The mathematics
itself stands once per language, under the row's name: ``fastlayers/reference/``, ``csrc/common/`` and ``kernels/``.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_SLOPE = 2.0**-14
"""An activation with a smaller slope counts as one that cannot be inverted: y would be lost below the smallest float16."""
_ULP = 4.0  # default budget, in units in the last place of float32 (DESIGN: "value <= 4 ULP, derivative <= 4 ULP")


@dataclass(frozen=True)
class Constant:
    """A number fixed when the layer is made, such as ``negative_slope``."""

    name: str
    default: float
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Learnable:
    """A parameter of an activation that is trained: one value, or one per channel."""

    name: str
    init: float


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
    learnables: tuple[Learnable, ...] = ()
    kinks: tuple[tuple[float, float], ...] = ()
    """(x, the derivative used there) for each point where the left and right derivatives differ, at the default arguments."""
    from_output: str = "never"
    """When backward may keep y in place of x: "always", "never", or a condition on the constants such as "negative_slope >= 0"."""
    invertible: str = "never"
    """When x follows from y: "always", "never", or a condition on the constants or learnable parameters, "negative_slope > 0"."""
    keyword: tuple[str, object] | None = None
    """The argument of ``module`` that selects this row where several rows share one class."""
    ulp: float = _ULP
    derivative_ulp: float = _ULP
    derivative_absolute: float = 0.0
    """Absolute error also granted to the derivative: where it is computed from y, or where it crosses zero."""

    def __post_init__(self) -> None:
        names = [c.name for c in self.constants]
        if self.from_output not in ("always", "never") and not any(n in self.from_output for n in names):
            raise ValueError(f"{self.name}: from_output names no constant: {self.from_output!r}")
        names += [learnable.name for learnable in self.learnables]
        if self.invertible not in ("always", "never") and not any(n in self.invertible for n in names):
            raise ValueError(f"{self.name}: invertible names no constant and no parameter: {self.invertible!r}")

    def derives_from_output(self, constants: tuple[float, ...]) -> bool:
        """Whether the derivative follows from y for these constants."""
        if self.from_output in ("always", "never"):
            return self.from_output == "always"
        name, bound = self.from_output.split(" >= ")
        return constants[[c.name for c in self.constants].index(name)] >= float(bound)

    def inverts(self, constants: tuple[float, ...]) -> bool:
        """Whether x follows from y for these constants, and for learnable parameters of at least SMALLEST_SLOPE where they count."""
        if self.invertible in ("always", "never"):
            return self.invertible == "always"
        name, _ = self.invertible.split(" > ")
        values = dict(zip([c.name for c in self.constants], constants, strict=True))
        return values.get(name, 1.0) >= SMALLEST_SLOPE


@dataclass(frozen=True)
class UpdateRule:
    """One optimizer update: what it is called, which state it keeps per parameter, which numbers it takes."""

    name: str
    optimizer: str
    """Name of the class in ``fastlayers.optim`` and ``torch.optim``."""
    formula: str
    source: str
    states: tuple[str, ...]
    """Keys of the state tensors with the parameter's shape, in the order kernels take them, as torch.optim calls them."""
    hyperparameters: tuple[str, ...]
    """Numbers that kernels take, in this order, after ``lr`` and ``weight_decay``."""
    flags: tuple[str, ...]
    """Booleans that kernels take, in this order, after ``maximize``; "first" says that the states hold nothing yet."""
    optional_states: tuple[tuple[str, str], ...] = ()
    """(state, flag or hyperparameter): the state exists only when that flag is set or that number is not zero."""
    counts_steps: bool = True
    """Whether the update depends on the number of updates made so far, which torch.optim keeps as state "step"."""

    def present_states(self, hyperparameters: Sequence[float], flags: Sequence[bool]) -> tuple[str, ...]:
        """The states that exist for these arguments, given as kernels take them: [lr, weight_decay, ...], [maximize, ...]."""
        given = dict(zip(("lr", "weight_decay", *self.hyperparameters, "maximize", *self.flags), (*hyperparameters, *flags), strict=True))
        needs = dict(self.optional_states)
        return tuple(state for state in self.states if state not in needs or given[needs[state]])


_ACTIVATIONS = (
    Activation(
        "identity", "Identity", "f(x) = x", "f'(x) = 1", "-", from_output="always", invertible="always", ulp=0, derivative_ulp=0,
    ),
    Activation(
        "relu", "ReLU", "f(x) = max(0, x)", "f'(x) = 1 if x > 0 else 0", "Nair & Hinton, ICML 2010",
        kinks=((0.0, 0.0),), from_output="always", ulp=0, derivative_ulp=0,
    ),
    Activation(
        "leaky_relu", "LeakyReLU", "f(x) = x if x > 0 else negative_slope * x", "f'(x) = 1 if x > 0 else negative_slope",
        "Maas, Hannun & Ng, ICML 2013", constants=(Constant("negative_slope", 0.01),), kinks=((0.0, 0.01),),
        from_output="negative_slope >= 0", invertible="negative_slope > 0", ulp=1,
    ),
    Activation(
        "sigmoid", "Sigmoid", "f(x) = 1 / (1 + exp(-x))", "f'(x) = f(x) (1 - f(x))", "Verhulst 1838; Rumelhart et al., 1986",
        from_output="always", derivative_absolute=1e-7,
    ),
    Activation(
        "tanh", "Tanh", "f(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x))", "f'(x) = 1 - f(x)^2", "LeCun et al., 1998",
        from_output="always", derivative_absolute=1.2e-7,
    ),
    Activation(
        "silu", "SiLU", "f(x) = x s(x), s the logistic sigmoid", "f'(x) = s(x) (1 + x (1 - s(x)))",
        "Elfwing, Uchibe & Doya, arXiv:1702.03118", derivative_absolute=1e-7,
    ),
    Activation(
        "gelu", "GELU", "f(x) = x erfc(-x / sqrt(2)) / 2", "f'(x) = erfc(-x / sqrt(2)) / 2 + x exp(-x^2 / 2) / sqrt(2 pi)",
        "Hendrycks & Gimpel, arXiv:1606.08415", keyword=("approximate", "none"), derivative_absolute=1e-7,
    ),
    Activation(
        "gelu_tanh", "GELU", "f(x) = x s(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), s the logistic sigmoid (= x (1 + tanh u) / 2)",
        "f'(x) = s(2u) + 2 x s(2u) (1 - s(2u)) u'(x)", "Hendrycks & Gimpel, arXiv:1606.08415", keyword=("approximate", "tanh"),
        derivative_absolute=1e-7,
    ),
    Activation(
        "prelu", "PReLU", "f(x) = x if x > 0 else weight * x", "f'(x) = 1 if x > 0 else weight; df/dweight = 0 if x > 0 else x",
        "He et al., arXiv:1502.01852", learnables=(Learnable("weight", 0.25),), kinks=((0.0, 0.25),), invertible="weight > 0",
        ulp=1,
    ),
)

_UPDATE_RULES = (
    UpdateRule(
        "sgd", "SGD",
        "g += weight_decay p; b = g at the first step, else momentum b + (1 - dampening) g; "
        "p -= lr (g + momentum b if nesterov else b)",
        "Sutskever et al., ICML 2013", states=("momentum_buffer",), hyperparameters=("momentum", "dampening"),
        flags=("nesterov", "first"), optional_states=(("momentum_buffer", "momentum"),), counts_steps=False,
    ),
    UpdateRule(
        "adam", "Adam",
        "g += weight_decay p; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; "
        "p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps); with amsgrad max over time of v stands for v",
        "Kingma & Ba, arXiv:1412.6980; Reddi et al., ICLR 2018 (amsgrad)", states=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        hyperparameters=("beta1", "beta2", "eps"), flags=("amsgrad",), optional_states=(("max_exp_avg_sq", "amsgrad"),),
    ),
    UpdateRule(
        "adamw", "AdamW",
        "p -= lr weight_decay p; then Adam without its weight decay", "Loshchilov & Hutter, arXiv:1711.05101",
        states=("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), hyperparameters=("beta1", "beta2", "eps"), flags=("amsgrad",),
        optional_states=(("max_exp_avg_sq", "amsgrad"),),
    ),
)


def _by_name(rows: tuple) -> dict:
    table = {row.name: row for row in rows}
    if len(table) != len(rows):
        raise ValueError(f"a name stands twice in {[row.name for row in rows]}")
    return table


ACTIVATIONS: dict[str, Activation] = _by_name(_ACTIVATIONS)
UPDATE_RULES: dict[str, UpdateRule] = _by_name(_UPDATE_RULES)
