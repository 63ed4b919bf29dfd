"""From SymPy expressions to source: one assignment per distinct subexpression, the same lines for PyTorch and for Triton.

Both call functions of a module ``formulas`` under the same names: fastlayers/reference/formulas.py and kernels/formulas.py.
"""
from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import sympy

from .. import generated
from .functions import expm1, log1p, sigmoid, softplus, tanh, where
from .grammar import FormulaError

_FUNCTIONS = {
    kind: kind.__name__ for kind in (
        expm1, log1p, sigmoid, softplus, tanh, sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tan, sympy.atan, sympy.sinh, sympy.cosh,
        sympy.asinh, sympy.erf, sympy.erfc, sympy.sign)
} | {sympy.Abs: "absolute", sympy.Heaviside: "step"}
_RELATIONS = {sympy.Gt: ">", sympy.Ge: ">=", sympy.Lt: "<", sympy.Le: "<=", sympy.Eq: "==", sympy.Ne: "!="}


def generate(text: str, value: sympy.Expr, slopes: Sequence[sympy.Expr], x: sympy.Symbol, learnables: Sequence[sympy.Symbol],
             constants: Sequence[sympy.Symbol]) -> generated.Generated:
    """Source of f and of (df/dx, df/d parameter ...) in both languages."""
    arguments = value, slopes, x, learnables, constants
    name = generated.name_of(_module("f", *arguments, False))
    heading = f"# {' '.join(text.split())}\n"
    return generated.Generated(name, *(heading + _module(name, *arguments, triton) for triton in (False, True)))


def _module(
    stem: str, value: sympy.Expr, slopes: Sequence[sympy.Expr], x: sympy.Symbol, learnables: Sequence[sympy.Symbol],
    constants: Sequence[sympy.Symbol], triton: bool,
) -> str:
    names = {x: "x"} | {symbol: f"p{k}" for k, symbol in enumerate((*learnables, *constants))}
    meaning = ", ".join(f"{name} is {symbol}" for symbol, name in names.items() if symbol != x)
    lines = [f"# {meaning}"] if meaning else []
    for name, results in ((stem, (value,)), (f"{stem}_derivative", slopes)):
        body = _Body(names, x, triton)
        outputs = [body.result(result) for result in results]
        if triton:
            lines += ["", "", "@triton.jit", f"def {name}(x, p):", *(f"    p{k} = p[{k}]" for k in range(len(names) - 1))]
        else:
            lines += ["", "", f"def {name}({', '.join(names.values())}):",
                      *(f"    {names[symbol]} = formulas.constant(x, {names[symbol]})" for symbol in constants)]
        lines += [f"    {line}" for line in body.lines]
        lines += [f"    return {outputs[0]}" if name == stem else f"    return ({', '.join(outputs)},)"]
    return "\n".join(lines) + "\n"


class _Body:
    """The lines of one function."""

    def __init__(self, names: dict[sympy.Symbol, str], x: sympy.Symbol, triton: bool) -> None:
        self.lines: list[str] = []
        self._names: dict[sympy.Basic, str] = dict(names)
        self._x, self._triton = x, triton

    def result(self, expression: sympy.Expr) -> str:
        """A value with the shape of x."""
        return self._operand(expression) if expression.has(self._x) else f"formulas.like(x, {self._argument(expression)})"

    def _operand(self, expression: sympy.Basic) -> str:
        """A name, or a number beside an operator. Triton rounds a bare number to float32."""
        if expression.is_number:
            value = _float(expression)
            return repr(value) if not self._triton or _exact_in_float32(value) else self._argument(expression)
        if expression not in self._names:
            text = self._text(expression)
            self._names[expression] = f"t{len(self.lines)}"
            self.lines.append(f"{self._names[expression]} = {text}")
        return self._names[expression]

    def _argument(self, expression: sympy.Basic) -> str:
        """What a function takes: a name, or a number in x's dtype."""
        return f"formulas.constant(x, {_float(expression)!r})" if expression.is_number else self._operand(expression)

    def _text(self, expression: sympy.Basic) -> str:
        if expression.is_Add:
            return self._sum(expression)
        if expression.is_Mul:
            return self._product(expression)
        if expression.is_Pow:
            return self._power(expression.base, expression.exp)
        if isinstance(expression, (sympy.Max, sympy.Min)):
            return self._fold("maximum" if isinstance(expression, sympy.Max) else "minimum", expression.args)
        if isinstance(expression, where):
            condition, a, b = expression.args
            return f"formulas.where({self._operand(condition)}, {self._argument(a)}, {self._argument(b)})"
        if expression.is_Relational:
            return f"{self._operand(expression.lhs)} {_RELATIONS[expression.func]} {self._operand(expression.rhs)}"
        if isinstance(expression, (sympy.And, sympy.Or)):
            return self._fold("both" if isinstance(expression, sympy.And) else "either", expression.args)
        if expression.func not in _FUNCTIONS:
            raise FormulaError("have a derivative that kernels can compute", str(expression))
        return f"formulas.{_FUNCTIONS[expression.func]}({', '.join(map(self._argument, expression.args))})"

    def _sum(self, expression: sympy.Expr) -> str:
        """Positive terms first, so that none needs a sign of its own."""
        parts = [term.as_coeff_Mul() for term in expression.as_ordered_terms()]
        parts.sort(key=lambda part: bool(part[0].is_negative))
        text = ""
        for coefficient, rest in parts:
            negative = bool(coefficient.is_negative)
            operand = self._operand(abs(coefficient) * rest)
            text += f"{' - ' if negative else ' + '}{operand}" if text else f"{'-' if negative else ''}{operand}"
        return text

    def _product(self, expression: sympy.Expr) -> str:
        coefficient, rest = expression.as_coeff_Mul()
        if coefficient == -1:
            return f"-{self._operand(rest)}"
        above, below = [], []
        for factor in sympy.Mul.make_args(rest):
            inverse = factor.is_Pow and factor.exp.is_number and factor.exp.is_negative
            (below if inverse else above).append(1 / factor if inverse else factor)
        numerator = [self._operand(factor) for factor in ([coefficient] if coefficient != 1 else []) + above] or ["1.0"]
        text = " * ".join(numerator)
        for factor in below:
            text += f" / {self._operand(factor)}"
        return text

    def _power(self, base: sympy.Expr, exponent: sympy.Expr) -> str:
        """Products for whole exponents, square roots for half ones, else pow."""
        if exponent.is_number and exponent.is_negative:
            return f"1.0 / {self._operand(base ** -exponent)}"
        if exponent == sympy.Rational(1, 2):
            return f"formulas.sqrt({self._argument(base)})"
        if exponent.is_Integer:
            half = self._operand(base ** (exponent // 2))
            return f"{half} * {half}" + (f" * {self._operand(base)}" if exponent % 2 else "")
        if exponent.is_Rational and exponent.q == 2 and exponent.p < 64:
            return f"{self._operand(base ** (exponent.p // 2))} * {self._operand(sympy.sqrt(base))}"
        return f"formulas.power({self._argument(base)}, {self._argument(exponent)})"

    def _fold(self, name: str, arguments: Sequence[sympy.Expr]) -> str:
        ordered = [self._argument(argument) for argument in sorted(arguments, key=sympy.default_sort_key)]
        text = ordered[0]
        for other in ordered[1:]:
            text = f"formulas.{name}({text}, {other})"
        return text


def _float(expression: sympy.Expr) -> float:
    value = float(expression.evalf(20))
    if not math.isfinite(value):  # numbers that are each finite, multiplied by each other or by an exponent
        raise FormulaError("be real and finite", str(expression.evalf(3)))
    return value


def _exact_in_float32(value: float) -> bool:
    try:
        return struct.unpack("f", struct.pack("f", value))[0] == value
    except OverflowError:
        return False
