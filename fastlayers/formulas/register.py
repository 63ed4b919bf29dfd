"""Registration: checks, a row in specs.py's table, the generated functions, a module class and a function."""
from __future__ import annotations

import copyreg
import functools
import importlib
import importlib.util
import threading
from collections.abc import Mapping
from types import ModuleType

import torch

from .. import activation_argument, functional, generated, nn
from ..checks import one_of
from ..generated import Generated
from ..reference import formulas
from ..specs import ACTIVATIONS, Activation, Constant, Learnable
from . import checks

_OPERATION = "register_activation"
_ULP = 16.0
_ABSOLUTE = 1e-6
"""What tests and ``fastlayers check`` grant a formula, whose roundings nobody has looked at: a few of its own operations."""
_TAKEN = ("dropout", "seed", "training", "inplace", "num_parameters", "device", "dtype", "input", "self", "args", "kwargs")
_definitions: dict[str, tuple[object, ...]] = {}
_registering = threading.Lock()


def register_activation(
    name: str, formula: str, *, parameters: Mapping[str, float] | None = None, constants: Mapping[str, float] | None = None,
) -> type[torch.nn.Module]:
    """Make an activation out of a formula: its derivatives are derived, and it is then an activation like any other.

    y = formula(x). It works by name wherever ``activation=`` is taken (batch norm, bias + activation), fused with dropout, as the
    module ``fastlayers.nn.Name`` (the name in camel case) and as ``fastlayers.functional.name``, with second derivatives and under
    torch.compile. The reference and Triton compute it; on CPU tensors, where the C++ kernels do not know it, the reference does
    (``fastlayers.backends("name")`` says so). Its modules are pickled with the formula: ``torch.load(weights_only=False)`` and
    multiprocessing register it in the process that loads them. A program of torch.export has its name alone: register it there first.

    Args:
        name: an identifier that no activation, function or module has yet; registering the same definition again changes nothing.
        formula: one Python expression of x, the parameters and the constants: numbers, pi, e, + - * / **, exp, expm1, log, log1p, sqrt,
            sin, cos, tan, atan, sinh, cosh, tanh, asinh, erf, erfc, sigmoid, softplus, relu, abs, sign, Heaviside, max, min, and
            ``a if x > 0 else b``, ``where(x > 0, a, b)`` or ``Piecewise((a, x > 0), (b, True))``. It is parsed, never evaluated.
        parameters: learnable ones and what they start from; one value each, or one per channel with ``num_parameters=C``.
        constants: what the constructor takes, in this order, and their defaults.

    Returns:
        The module class.

    Raises:
        ValueError: ``register_activation: formula must ...``: it cannot be read, uses an unknown name, does not depend on x or on a
            parameter, or has no derivative; a name that is taken, no identifier, or a Python keyword.
        ImportError: ``register_activation: sympy must be installed, got none: pip install fastlayers[symbolic]``.

    At a kink the derivative is the right one: that of abs(x) at 0 is 1. Where branches are told apart by ``x == 0``, the derivative
    there is that of the branch. At infinities and NaN it gives what the formula gives.

    Accuracy: that of the formula as written, in float32 (float64 for float64), except that log(1 + exp(u)), exp(u) - 1, log(1 + u) and
    quotients that are sigmoid or tanh neither overflow nor cancel.

    >>> Bump = register_activation("bump", "x * exp(-beta * x**2)", parameters={"beta": 1.0})
    >>> y = nn.BatchNorm1d(4, activation=Bump(num_parameters=4))(torch.randn(8, 4))
    >>> unregister_activation("bump")
    """
    for argument, given in (("parameters", parameters or {}), ("constants", constants or {})):
        checks.mapping(_OPERATION, argument, given)
    parameters, constants = dict(parameters or {}), dict(constants or {})
    checks.text(_OPERATION, "name", name)
    checks.text(_OPERATION, "formula", formula)
    definition = formula, tuple(parameters.items()), tuple(constants.items())
    with _registering:
        if _definitions.get(name) == definition:
            return nn.activations.CLASSES[ACTIVATIONS[name].module]
        _check_names(name, parameters, constants)
        row, source = _row(name, formula, parameters, constants)
        generated.REGISTERED[name] = source
        _definitions[name] = definition
        ACTIVATIONS[name] = row
        activation_argument.add(row)
        functional.activations.add(row)
        kind = nn.activations.add(row)
        kind._definition = name, *definition
        return kind


def unregister_activation(name: str) -> None:
    """Forget a registered activation, so that its name is free again; modules of it must not be used any more.

    Raises:
        ValueError: ``unregister_activation: name must be one of bump, got 'silu'``, those that are registered.

    >>> Cube = register_activation("cube", "x**3")
    >>> unregister_activation("cube")
    """
    one_of("unregister_activation", "name", name, tuple(_definitions) or ("those registered, of which there are none",))
    row = ACTIVATIONS.pop(name)
    del _definitions[name], generated.REGISTERED[name]
    activation_argument.remove(row)
    functional.activations.remove(row)
    nn.activations.remove(row)


def _loaded(name: str, formula: str, parameters: tuple[tuple[str, float], ...], constants: tuple[tuple[str, float], ...]) -> type:
    """The class that a pickle means, registered where it is not yet: in another process."""
    there = _definitions.get(name)
    checks.same_definition(_OPERATION, name, there or (formula, parameters, constants), (formula, parameters, constants))
    return register_activation(name, formula, parameters=dict(parameters), constants=dict(constants))


def _reduced(kind: nn.activations.Registered) -> str | tuple:
    """For pickle: a registered row's class is what it was registered with; a subclass of it is found by name."""
    return (_loaded, kind._definition) if "_definition" in vars(kind) else kind.__qualname__


copyreg.pickle(nn.activations.Registered, _reduced)


def _check_names(name: str, parameters: Mapping[str, float], constants: Mapping[str, float]) -> None:
    grammar = _symbolic("grammar")
    checks.new_name(_OPERATION, "name", name)
    checks.free_name(_OPERATION, "name", name, name in ACTIVATIONS, "an activation")
    checks.free_name(_OPERATION, "name", name, hasattr(functional, name), f"fastlayers.functional.{name}")
    module = _class_name(name)
    for library in (nn, torch.nn):
        checks.free_name(_OPERATION, "name", name, hasattr(library, module), f"the class {library.__name__}.{module}")
    for argument, given in (("parameters", parameters), ("constants", constants)):
        for one, value in given.items():
            checks.text(_OPERATION, argument, one)
            checks.new_name(_OPERATION, argument, one)
            checks.free_name(_OPERATION, argument, one, one in grammar.RESERVED, "part of formulas")
            taken = one in _TAKEN or hasattr(nn.activations.FusedActivation, one)
            checks.free_name(_OPERATION, argument, one, taken, "what modules call something else")
            checks.free_name(_OPERATION, argument, one, argument == "constants" and one in parameters, "a parameter")
            checks.finite(_OPERATION, one, value)


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _symbolic(module: str) -> ModuleType:
    """A module of this package that needs SymPy."""
    checks.installed(_OPERATION, "sympy", "symbolic")
    return importlib.import_module(f"{__package__}.{module}")


def _row(name: str, formula: str, parameters: Mapping[str, float], constants: Mapping[str, float]) -> tuple[Activation, Generated]:
    """What the formula says: the row, with derivatives and kinks, and the source."""
    import sympy

    calculus, grammar, printer = (_symbolic(module) for module in ("calculus", "grammar", "printer"))
    symbols = {one: sympy.Symbol(one, real=True) for one in ("x", *parameters, *constants)}
    x, learnables, fixed = symbols["x"], [symbols[one] for one in parameters], [symbols[one] for one in constants]
    try:
        expression = grammar.parse(formula, symbols)
        for one, symbol in symbols.items():
            if not expression.has(symbol):
                raise grammar.FormulaError(f"depend on {one}", repr(formula))
        value = calculus.checked(calculus.stable(expression))
        slopes = [calculus.derivative(value, symbol, x) for symbol in (x, *learnables)]
        source = printer.generate(formula, value, slopes, x, learnables, fixed)
        values = {symbols[one]: float(number) for one, number in (parameters | constants).items()}
        boundaries = calculus.boundaries(value)
        points = sorted({root for boundary in boundaries for root in calculus.roots(boundary, x, values)})
    except grammar.FormulaError as error:
        checks.formula(_OPERATION, error.rule, error.got)
    except RecursionError:
        checks.formula(_OPERATION, "be nested less deeply", repr(formula))
    return Activation(
        name, _class_name(name), f"f(x) = {formula.strip()}",
        "; ".join([f"f'(x) = {slopes[0]}", *(f"df/d{one} = {slope}" for one, slope in zip(parameters, slopes[1:], strict=True))]),
        "registered formula", constants=tuple(Constant(one, float(number)) for one, number in constants.items()),
        learnables=tuple(Learnable(one, float(number)) for one, number in parameters.items()),
        kinks=tuple(_kinks(source, points, list(values.values()))),
        kinks_at=tuple(str(symbol) for symbol in learnables if any(boundary in (x - symbol, symbol - x) for boundary in boundaries)),
        everywhere=False, ulp=_ULP, derivative_ulp=_ULP, derivative_absolute=_ABSOLUTE,
    ), source


def _kinks(source: Generated, points: list[float], values: list[float]) -> list[tuple[float, float]]:
    """Those of the points where the derivative jumps, with the derivative there."""
    near = [[point - 1e-7 * (1 + abs(point)), point, point + 1e-7 * (1 + abs(point))] for point in points]
    exact = functools.partial(torch.tensor, dtype=torch.float64, device="cpu")
    slopes = formulas.compiled(source, "derivative")(exact(near).reshape(-1, 3), *map(exact, values))[0].tolist()
    return [(point, at) for point, (left, at, right) in zip(points, slopes, strict=True) if not abs(left - right) <= 1e-5 * (1 + abs(at))]
