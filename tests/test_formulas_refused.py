"""What register_activation refuses, and in which words; nothing of a formula is evaluated on the way."""
from __future__ import annotations

import re
import sys
import time

import pytest
import sympy
import test_formulas

import fastlayers as fl
from fastlayers import generated
from fastlayers.specs import ACTIVATIONS

registered = test_formulas._registered  # the formulas whose names are taken here


def refuse(name="refused", formula="x", **keywords):
    return lambda: fl.register_activation(name, formula, **keywords)


START = "register_activation: "
REFUSED = [
    (refuse("silu"), "name must not be taken, got 'silu', which is an activation"),
    (refuse("own_mish", "x"), "name must not be taken, got 'own_mish', which is an activation"),
    (refuse("batch_norm"), "name must not be taken, got 'batch_norm', which is fastlayers.functional.batch_norm"),
    (refuse("linear"), "name must not be taken, got 'linear', which is the class torch.nn.Linear"),
    (refuse("drop out"), "name must be a Python identifier, no keyword and without a leading underscore, got 'drop out'"),
    (refuse("lambda"), "name must be a Python identifier, no keyword and without a leading underscore, got 'lambda'"),
    (refuse("_own"), "name must be a Python identifier, no keyword and without a leading underscore, got '_own'"),
    (refuse(formula="x +"), "formula must read like a Python expression, got 'x +': "),
    (refuse(formula=""), "formula must read like a Python expression, got '': "),
    (refuse(formula="x\0"), "formula must read like a Python expression, got 'x\\x00': "),
    (refuse(formula="x; x"), "formula must read like a Python expression, got 'x; x': "),
    (refuse(formula="x * y"), "formula must use no names but x, pi, e, E and those of functions, got 'y'"),
    (refuse(formula="gamma(x)"), "formula must use no functions but abs, Abs, arctan, "),
    (refuse(formula="x^2"), "formula must write a power as **, got 'x ^ 2'"),
    (refuse(formula="x // 2"), "formula must be made of numbers, names, + - * / **, a if b else c and known functions, got 'x // 2'"),
    (refuse(formula="floor(x)"), "formula must be differentiable, got 'floor(x)', which is a staircase"),
    (refuse(formula="2 * pi"), "formula must depend on x, got '2 * pi'"),
    (refuse(formula="x - x"), "formula must depend on x, got 'x - x'"),
    (refuse(formula="x", parameters={"beta": 1.0}), "formula must depend on beta, got 'x'"),
    (refuse(formula="x", constants={"c": 1.0}), "formula must depend on c, got 'x'"),
    (refuse(formula="a * x", constants={"a": float("inf")}), "a must be finite, got inf"),
    (refuse(formula="a * x", parameters={"a": float("-inf")}), "a must be finite, got -inf"),
    (refuse(formula="x + 1/0"), "formula must be real and finite, got '1 / 0'"),
    (refuse(formula="x * log(-1)"), "formula must be real and finite, got 'log(-1)'"),
    (refuse(formula="x * (-1)**0.5"), "formula must be real and finite, got '(-1) ** 0.5'"),
    (refuse(formula="x * 1e999"), "formula must be real and finite, got '1e309'"),
    (refuse(formula="x * 1e300 * 1e300"), "formula must be real and finite, got 1.00e+600"),
    (refuse(formula="1e308 * x**64"), "formula must be real and finite, got 6.40e+309"),
    (refuse(formula="x ** 65"), "formula must have no exponents beyond 64, got 'x ** 65'"),
    (refuse(formula="exp(exp(exp(100))) * x"), "formula must be real and finite, got 'exp(exp(100))'"),
    (refuse(formula="0**x"), "formula must be differentiable in x, got 0**x, whose derivative is "),
    (refuse(formula="exp(x, 2)"), "formula must give exp one argument, got 'exp(x, 2)'"),
    (refuse(formula="exp(u=x)"), "formula must be made of numbers"),
    (refuse(formula="Piecewise((x, x > 0))"), "formula must give Piecewise pairs (value, condition), the last condition True, got "),
    (refuse(formula="x if x else 0"), "formula must have comparisons for conditions, got 'x'"),
    (refuse(formula="(x > 0) * x"), "formula must be made of numbers"),
    (refuse(formula="True * x"), "formula must be made of numbers"),
    (refuse(formula="x" + " + x" * 600), "formula must have at most 2000 characters, got 2401"),
    (refuse(formula="-" * 1900 + "x"), "formula must be nested less deeply, got "),
    (refuse(formula="exp(" * 150 + "x" + ")" * 150), "formula must be nested less deeply, got "),
    (refuse(formula="abs(1 - " * 12 + "x" + ")" * 12), "formula must have fewer choices within one another, got "),
    (refuse(formula="x * a", parameters={"a b": 1.0}), "parameters must be a Python identifier"),
    (refuse(formula="x * exp", parameters={"exp": 1.0}), "parameters must not be taken, got 'exp', which is part of formulas"),
    (refuse(formula="x", parameters={"x": 1.0}), "parameters must not be taken, got 'x', which is part of formulas"),
    (refuse(formula="x * train", parameters={"train": 1.0}), "parameters must not be taken, got 'train', which is what modules call "),
    (refuse(formula="x * self", parameters={"self": 1.0}), "parameters must not be taken, got 'self', which is what modules call "),
    (refuse(formula="x * seed", constants={"seed": 1.0}), "constants must not be taken, got 'seed', which is what modules call "),
    (refuse(formula="x * a", parameters={"a": 1.0}, constants={"a": 1.0}), "constants must not be taken, got 'a', which is a parameter"),
    (refuse(formula="x * a", parameters={"a": float("nan")}), "a must be finite, got nan"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refusal(call, message: str) -> None:
    before = list(ACTIVATIONS)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="^" + re.escape(START + message)):
        call()
    assert time.perf_counter() - start < 20
    assert list(ACTIVATIONS) == before
    assert "refused" not in generated.REGISTERED


@pytest.mark.parametrize("formula", [
    "__import__('os').getpid() * x", "x.real", "(lambda: x)()", "[x for _ in (1,)][0]", "x.__class__(1)", "eval('x')", "exp.__globals__",
    "f'{x}'", "(x := 1)", "x @ x", "'x' * x", "abs(*[x])", "9**9**9**9 * x", "where(x > 0, x, print(x))",
])
def test_nothing_is_evaluated(formula: str) -> None:
    with pytest.raises(ValueError, match=r"^register_activation: formula must "):
        fl.register_activation("refused", formula)


def test_types_are_checked() -> None:
    for arguments, message in (
        ((3, "x"), "name must be a str, got int"), (("refused", sympy.Symbol("x")), "formula must be a str, got Symbol"),
    ):
        with pytest.raises(TypeError, match=START + message):
            fl.register_activation(*arguments)
    with pytest.raises(TypeError, match=START + "a must be a number, got str"):
        fl.register_activation("refused", "a * x", parameters={"a": "1"})
    with pytest.raises(TypeError, match=START + "parameters must be a dict of names and numbers, got list"):
        fl.register_activation("refused", "a * x", parameters=["a"])
    with pytest.raises(ValueError, match="unregister_activation: name must be one of own_mish, own_pieces, own_two, own_gate, got 'silu'"):
        fl.unregister_activation("silu")


def test_nothing_to_unregister(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlayers.formulas.register._definitions", {})
    with pytest.raises(ValueError, match="name must be one of those registered, of which there are none, got 'silu'"):
        fl.unregister_activation("silu")


def test_without_sympy_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(ImportError, match=r"^register_activation: sympy must be installed, got none: pip install fastlayers\[symbolic\]$"):
        fl.register_activation("refused", "x * 2")
