"""What formulas are made of beside SymPy's own functions: smooth functions that stay exact where their formula would not, and a choice."""
from __future__ import annotations

import sympy


class _Smooth(sympy.Function):
    """A function of one argument that has a kernel of its own in every language."""

    nargs = 1
    is_real = True

    def _eval_evalf(self, prec: int) -> sympy.Expr:
        return self.formula()._eval_evalf(prec)


class sigmoid(_Smooth):
    """1 / (1 + exp(-u))."""

    def formula(self) -> sympy.Expr:
        return 1 / (1 + sympy.exp(-self.args[0]))

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sigmoid(self.args[0]) * sigmoid(-self.args[0])


class softplus(_Smooth):
    """log(1 + exp(u))."""

    def formula(self) -> sympy.Expr:
        return sympy.log(1 + sympy.exp(self.args[0]))

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sigmoid(self.args[0])


class tanh(_Smooth):
    """SymPy's tanh with a derivative that keeps its digits where tanh is near 1."""

    def formula(self) -> sympy.Expr:
        return sympy.tanh(self.args[0])

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        double = 2 * self.args[0]
        return 4 * sigmoid(double) * sigmoid(-double)


class log1p(_Smooth):
    """log(1 + u)."""

    def formula(self) -> sympy.Expr:
        return sympy.log(1 + self.args[0])

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return 1 / (1 + self.args[0])


class expm1(_Smooth):
    """exp(u) - 1."""

    def formula(self) -> sympy.Expr:
        return sympy.exp(self.args[0]) - 1

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.exp(self.args[0])


class where(sympy.Function):
    """where(condition, a, b): a where the condition holds, else b. SymPy's Piecewise would solve and reorder the conditions."""

    nargs = 3
    is_real = True

    @classmethod
    def eval(cls, condition: sympy.Basic, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        if condition in (sympy.true, sympy.false):
            return a if condition == sympy.true else b
        return a if a == b else None

    def _eval_derivative(self, symbol: sympy.Symbol) -> sympy.Expr:
        condition, a, b = self.args
        return where(condition, a.diff(symbol), b.diff(symbol))


def stable(expression: sympy.Basic) -> sympy.Basic:
    """The same expression in functions that neither overflow nor cancel: log(1 + exp(u)) is softplus(u), exp(u) - 1 is expm1(u), ..."""
    if not expression.args:
        return expression
    node = expression.func(*(stable(argument) for argument in expression.args))
    for rule in (_logarithm, _sum, _reciprocal, _product):
        node = rule(node)
    return node


def _logarithm(node: sympy.Basic) -> sympy.Basic:
    if isinstance(node, sympy.log) and node.args[0].is_Add and sympy.S.One in node.args[0].args:
        rest = node.args[0] - 1
        return softplus(rest.args[0]) if isinstance(rest, sympy.exp) else log1p(rest)
    return node


def _sum(node: sympy.Basic) -> sympy.Basic:
    """a exp(u) - a; a exp(u) - a exp(-u); a exp(u) + a exp(-u)."""
    if not node.is_Add:
        return node
    for term in node.args:
        for power in (factor for factor in sympy.Mul.make_args(term) if isinstance(factor, sympy.exp)):
            factor, opposite = term / power, sympy.exp(-power.args[0])
            for partner, instead in (
                (-factor, factor * expm1(power.args[0])),
                (-factor * opposite, 2 * factor * sympy.sinh(power.args[0])),
                (factor * opposite, 2 * factor * sympy.cosh(power.args[0])),
            ):
                if partner in node.args and not factor.has(sympy.exp):
                    return _sum(node - term - partner + instead)
    return node


def _reciprocal(node: sympy.Basic) -> sympy.Basic:
    """(1 + exp(u))^-n."""
    if node.is_Pow and node.exp.is_Integer and node.exp.is_negative and node.base.is_Add and sympy.S.One in node.base.args:
        rest = node.base - 1
        if isinstance(rest, sympy.exp):
            return sigmoid(-rest.args[0]) ** -node.exp
    return node


def _product(node: sympy.Basic) -> sympy.Basic:
    """exp(u) / (1 + exp(u)); (exp(u) - 1) / (exp(u) + 1); sinh(u) / cosh(u)."""
    if not node.is_Mul:
        return node
    for factor in node.args:
        for kind, partner, instead in (
            (sympy.exp, lambda u: sigmoid(-u), sigmoid),
            (expm1, lambda u: sigmoid(-u), lambda u: tanh(u / 2)),
            (sympy.sinh, lambda u: 1 / sympy.cosh(u), tanh),
        ):
            if isinstance(factor, kind) and partner(factor.args[0]) in node.args:
                return _product(node / factor / partner(factor.args[0]) * instead(factor.args[0]))
    return node
