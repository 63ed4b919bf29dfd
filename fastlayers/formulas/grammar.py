"""From the text of a formula to a SymPy expression: a walk over Python's syntax tree that knows these names and nothing else.

The text is never evaluated. Numbers stay exact, and none may grow beyond what a float64 holds, so that no formula keeps SymPy busy.
"""
from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping

import sympy

from .functions import expm1, log1p, sigmoid, softplus, tanh, where

LONGEST = 2000
_HIGHEST_POWER = 64


class FormulaError(Exception):
    """What a formula must do, and what is there instead."""

    def __init__(self, rule: str, got: str) -> None:
        super().__init__(rule, got)
        self.rule, self.got = rule, got


def _relu(u: sympy.Expr) -> sympy.Expr:
    return sympy.Max(u, 0)


_FUNCTIONS: dict[str, tuple[Callable[..., sympy.Expr], Callable[..., float]]] = {
    "exp": (sympy.exp, math.exp), "expm1": (expm1, math.expm1), "log": (sympy.log, math.log), "log1p": (log1p, math.log1p),
    "sqrt": (sympy.sqrt, math.sqrt), "sin": (sympy.sin, math.sin), "cos": (sympy.cos, math.cos), "tan": (sympy.tan, math.tan),
    "atan": (sympy.atan, math.atan), "arctan": (sympy.atan, math.atan), "sinh": (sympy.sinh, math.sinh),
    "cosh": (sympy.cosh, math.cosh), "tanh": (tanh, math.tanh), "asinh": (sympy.asinh, math.asinh), "erf": (sympy.erf, math.erf),
    "erfc": (sympy.erfc, math.erfc), "sigmoid": (sigmoid, lambda u: 0.0), "softplus": (softplus, lambda u: u),
    "relu": (_relu, lambda u: u), "abs": (sympy.Abs, abs), "Abs": (sympy.Abs, abs), "sign": (sympy.sign, lambda u: 0.0),
    "Heaviside": (sympy.Heaviside, lambda u: 0.0),
}  # (the function, its value at a number)
_SEVERAL = {"max": sympy.Max, "Max": sympy.Max, "min": sympy.Min, "Min": sympy.Min}
_CHOICES = ("where", "Piecewise")
_STEPS = ("floor", "ceil", "ceiling", "round", "trunc", "fmod", "Mod")
_NUMBERS = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E}
RESERVED = frozenset({"x", *_FUNCTIONS, *_SEVERAL, *_CHOICES, *_STEPS, *_NUMBERS})
"""Names that a parameter or constant cannot have."""

_OPERATORS = {ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b, ast.Div: lambda a, b: a / b}
_RELATIONS = {ast.Lt: sympy.Lt, ast.LtE: sympy.Le, ast.Gt: sympy.Gt, ast.GtE: sympy.Ge, ast.Eq: sympy.Eq, ast.NotEq: sympy.Ne}


def parse(text: str, symbols: Mapping[str, sympy.Symbol]) -> sympy.Expr:
    """The expression that a formula of these symbols stands for, or FormulaError."""
    if len(text) > LONGEST:
        raise FormulaError(f"have at most {LONGEST} characters", str(len(text)))
    try:
        return _Reader(symbols).value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise FormulaError("read like a Python expression", f"{text!r}: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise FormulaError("be nested less deeply", repr(text)) from None
    except ValueError as error:  # a null character
        raise FormulaError("read like a Python expression", f"{text!r}: {error}") from None


class _Reader:
    """Turns nodes of a syntax tree into expressions of the given symbols."""

    def __init__(self, symbols: Mapping[str, sympy.Symbol]) -> None:
        self._symbols = symbols

    def value(self, node: ast.expr) -> sympy.Expr:
        """An expression that stands for a number."""
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return _bounded(node, lambda: float(node.value), lambda: sympy.Rational(repr(node.value)))
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            inner = self.value(node.operand)
            return -inner if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.BinOp):
            return self._operation(node)
        if isinstance(node, ast.IfExp):
            return where(self.condition(node.test), self.value(node.body), self.value(node.orelse))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._call(node)
        raise FormulaError("be made of numbers, names, + - * / **, a if b else c and known functions", repr(ast.unparse(node)))

    def _name(self, node: ast.Name) -> sympy.Expr:
        if node.id in self._symbols:
            return self._symbols[node.id]
        if node.id in _NUMBERS:
            return _NUMBERS[node.id]
        raise FormulaError(f"use no names but {', '.join([*self._symbols, *_NUMBERS])} and those of functions", repr(node.id))

    def _operation(self, node: ast.BinOp) -> sympy.Expr:
        if isinstance(node.op, ast.BitXor):
            raise FormulaError("write a power as **", repr(ast.unparse(node)))
        a, b = self.value(node.left), self.value(node.right)
        if isinstance(node.op, ast.Pow):
            if b.is_number and abs(_number(b, node)) > _HIGHEST_POWER:
                raise FormulaError(f"have no exponents beyond {_HIGHEST_POWER}", repr(ast.unparse(node)))
            return _bounded(node, lambda: float(a) ** float(b), lambda: a**b, a, b)
        if type(node.op) not in _OPERATORS:
            raise FormulaError("be made of numbers, names, + - * / **, a if b else c and known functions", repr(ast.unparse(node)))
        operator = _OPERATORS[type(node.op)]
        return _bounded(node, lambda: operator(float(a), float(b)), lambda: operator(a, b), a, b)

    def _call(self, node: ast.Call) -> sympy.Expr:
        name, given = node.func.id, len(node.args)
        if name in _FUNCTIONS:
            _takes(node, given == 1, "one argument")
            function, numeric = _FUNCTIONS[name]
            u = self.value(node.args[0])
            return _bounded(node, lambda: numeric(float(u)), lambda: function(u), u)
        if name in _SEVERAL:
            _takes(node, given >= 2, "two arguments or more")
            return _SEVERAL[name](*map(self.value, node.args))
        if name == "where":
            _takes(node, given == 3, "a condition and two values")
            return where(self.condition(node.args[0]), *map(self.value, node.args[1:]))
        if name == "Piecewise":
            return self._piecewise(node)
        if name in _STEPS:
            raise FormulaError("be differentiable", f"{ast.unparse(node)!r}, which is a staircase")
        known = sorted([*_FUNCTIONS, *_SEVERAL, *_CHOICES], key=str.lower)
        raise FormulaError(f"use no functions but {', '.join(known)}", repr(name))

    def _piecewise(self, node: ast.Call) -> sympy.Expr:
        pairs = [part.elts for part in node.args if isinstance(part, ast.Tuple) and len(part.elts) == 2]
        last = pairs[-1][1] if pairs else None
        _takes(node, len(pairs) == len(node.args) and isinstance(last, ast.Constant) and last.value is True,
               "pairs (value, condition), the last condition True")
        result = self.value(pairs[-1][0])
        for value, condition in reversed(pairs[:-1]):
            result = where(self.condition(condition), self.value(value), result)
        return result

    def condition(self, node: ast.expr) -> sympy.Basic:
        """An expression that is true or false."""
        if isinstance(node, ast.Compare) and all(type(operator) in _RELATIONS for operator in node.ops):
            sides = [self.value(side) for side in (node.left, *node.comparators)]
            return sympy.And(*(_relation(type(op), a, b) for op, a, b in zip(node.ops, sides, sides[1:], strict=False)))
        if isinstance(node, ast.BoolOp):
            return (sympy.And if isinstance(node.op, ast.And) else sympy.Or)(*map(self.condition, node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return sympy.Not(self.condition(node.operand))
        raise FormulaError("have comparisons for conditions", repr(ast.unparse(node)))


def _relation(operator: type[ast.cmpop], a: sympy.Expr, b: sympy.Expr) -> sympy.Basic:
    """A comparison; of numbers, true or false, which SymPy cannot always tell of exact ones."""
    relation = _RELATIONS[operator](a, b)
    return relation if relation.free_symbols or not relation.args else _RELATIONS[operator](a.evalf(), b.evalf())


def _takes(node: ast.Call, good: bool, what: str) -> None:
    if not good:
        raise FormulaError(f"give {node.func.id} {what}", repr(ast.unparse(node)))


def _number(value: sympy.Expr, node: ast.expr) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise FormulaError("be real and finite", repr(ast.unparse(node))) from None


def _bounded(
    node: ast.expr, numeric: Callable[[], float], exact: Callable[[], sympy.Expr], *arguments: sympy.Expr
) -> sympy.Expr:
    """The exact value, once float64 has said that it is a real number and not too large, where all arguments are numbers."""
    if all(argument.is_number for argument in arguments):
        try:
            value = numeric()
        except (ArithmeticError, TypeError, ValueError):
            value = math.nan
        if isinstance(value, complex) or not math.isfinite(value):
            raise FormulaError("be real and finite", repr(ast.unparse(node)))
    return exact()
