"""Derivatives of formulas, at their kinks the right derivative, and where those kinks are."""
from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import sympy

from .functions import stable, where
from .grammar import FormulaError

_MOST_BRANCHES = 64
_HIGHEST_DEGREE = 8
_LARGEST = 30_000
"""Nodes of a formula whose choices are made; each choice within another makes it a few times larger, and SymPy slower."""
_NONSENSE = (sympy.I, sympy.nan, sympy.zoo, sympy.oo, -sympy.oo, sympy.Derivative, sympy.Subs, sympy.DiracDelta)


def derivative(expression: sympy.Expr, symbol: sympy.Symbol, x: sympy.Symbol) -> sympy.Expr:
    """The derivative with respect to a symbol, of the branch that holds just to the right in x."""
    slope = _settled(stable(right_limit(expression, x).diff(symbol)))
    if slope.has(*_NONSENSE):
        raise FormulaError(f"be differentiable in {symbol}", f"{expression}, whose derivative is {slope}")
    return slope


def _settled(slope: sympy.Basic) -> sympy.Basic:
    """The slope with products that are 0 * infinity or 0 / 0 somewhere as their limits: u^a / u, log(u) u^a, and 0 of a flat branch."""
    if not slope.args:
        return slope
    node = slope.func(*map(_settled, slope.args))
    if not node.is_Mul:
        return node
    node = _with_one_power(node)
    for factor in node.args:
        if isinstance(factor, where) and sympy.S.Zero in factor.args[1:]:
            condition, a, b = factor.args
            rest = _settled(node / factor)
            return where(condition, a if a == 0 else a * rest, b if b == 0 else b * rest)
    for factor in node.args:
        for power in node.args:
            if isinstance(factor, sympy.log) and power.is_Pow and power.base == factor.args[0]:
                return where(sympy.And(sympy.Eq(power.base, 0), power.exp > 0), sympy.S.Zero, node)
    return node


def _with_one_power(product: sympy.Expr) -> sympy.Expr:
    """The product with u^a u^n as u^(a + n), which SymPy leaves alone."""
    factors = list(product.args)
    for power in (factor for factor in product.args if factor.is_Pow and not factor.exp.is_number):
        same = [factor for factor in factors if factor.as_base_exp()[0] == power.base]
        if len(same) > 1:
            exponent = sympy.Add(*(factor.as_base_exp()[1] for factor in same))
            factors = [factor for factor in factors if factor not in same] + [power.base**exponent]
    return sympy.Mul(*factors)


def checked(expression: sympy.Expr) -> sympy.Expr:
    """The expression, if it is real and finite as far as can be seen without knowing x."""
    if expression.has(*_NONSENSE):
        raise FormulaError("be real and finite", str(expression))
    return expression


def right_limit(expression: sympy.Basic, x: sympy.Symbol) -> sympy.Basic:
    """The expression with every choice made as it is made just to the right of x; max, abs, sign and their like are choices."""
    limit = _right_limit(expression, x)
    if _size(limit) > _LARGEST:
        raise FormulaError("have fewer choices within one another", str(expression))
    return limit


@functools.lru_cache(maxsize=_LARGEST)
def _size(expression: sympy.Basic) -> int:
    return 1 + sum(map(_size, expression.args))


def _right_limit(expression: sympy.Basic, x: sympy.Symbol) -> sympy.Basic:
    if not expression.args:
        return expression
    if expression.is_Relational:
        return _just_right(expression, x)
    arguments = [right_limit(argument, x) for argument in expression.args]
    if isinstance(expression, (sympy.Max, sympy.Min)):
        beyond = sympy.Gt if isinstance(expression, sympy.Max) else sympy.Lt
        result = arguments[-1]
        for k, one in reversed([*enumerate(arguments)][:-1]):  # each against those after it: conditions stay as small as arguments are
            first = sympy.And(*(_just_right(beyond(one, other), x) for other in arguments[k + 1:]))
            result = where(first, one, result)
        return result
    if isinstance(expression, (sympy.Abs, sympy.sign, sympy.Heaviside)):
        u = arguments[0]
        above, below = _just_right(sympy.Gt(u, 0), x), _just_right(sympy.Lt(u, 0), x)
        if isinstance(expression, sympy.Abs):
            return where(above, u, -u)
        low, middle = (-1, 0) if isinstance(expression, sympy.sign) else (0, arguments[1])
        return where(above, sympy.S.One, where(below, sympy.sympify(low), sympy.sympify(middle)))
    return expression.func(*arguments)


def _just_right(relation: sympy.Basic, x: sympy.Symbol) -> sympy.Basic:
    """The relation as it holds just to the right of x, as far as slopes tell; equalities, which single points out, stay."""
    if not relation.is_Relational or isinstance(relation, (sympy.Eq, sympy.Ne)):
        return relation
    a, b = (right_limit(side, x) for side in relation.args)
    greater = isinstance(relation, (sympy.Gt, sympy.Ge))
    strict, loose = (sympy.Gt, sympy.Ge) if greater else (sympy.Lt, sympy.Le)
    slope = (a - b if greater else b - a).diff(x)
    if slope.is_zero:
        return relation.func(a, b)
    if slope.is_positive or slope.is_negative:
        return loose(a, b) if slope.is_positive else strict(a, b)
    rising = sympy.Gt(slope, 0) if isinstance(relation, strict) else sympy.Ge(slope, 0)
    return sympy.Or(strict(a, b), sympy.And(sympy.Eq(a, b), rising))


def boundaries(expression: sympy.Expr) -> list[sympy.Expr]:
    """What is 0 where a formula passes from one branch to another."""
    return list(dict.fromkeys(_boundaries(expression)))


def _boundaries(expression: sympy.Basic) -> Iterator[sympy.Expr]:
    for node in sympy.preorder_traversal(expression):
        if isinstance(node, (sympy.Max, sympy.Min)):
            yield from (a - b for k, a in enumerate(node.args) for b in node.args[:k])
        elif isinstance(node, (sympy.Abs, sympy.sign, sympy.Heaviside)):
            yield node.args[0]
        elif node.is_Relational:
            yield node.lhs - node.rhs


def roots(boundary: sympy.Expr, x: sympy.Symbol, values: Mapping[sympy.Symbol, float]) -> set[float]:
    """Where a boundary that is polynomial branch by branch may be 0, for these values of the other symbols; of others nothing is said."""
    exact = {symbol: sympy.Rational(repr(value)) for symbol, value in values.items()}
    found = set()
    for branch in _branches(boundary.subs(exact))[:_MOST_BRANCHES]:
        if branch.has(x) and branch.is_polynomial(x):
            polynomial = sympy.Poly(branch, x)
            if polynomial.degree() <= _HIGHEST_DEGREE and all(coefficient.is_Rational for coefficient in polynomial.all_coeffs()):
                found |= {float(root) for root in sympy.real_roots(polynomial)}
    return found


def _branches(expression: sympy.Expr) -> list[sympy.Expr]:
    """The expression with its first choice made in each way, and so on, most of the ways if they are very many."""
    for node in sympy.preorder_traversal(expression):
        if isinstance(node, (sympy.Max, sympy.Min)):
            ways = node.args
        elif isinstance(node, sympy.Abs):
            ways = node.args[0], -node.args[0]
        elif isinstance(node, (sympy.sign, sympy.Heaviside)):
            ways = sympy.S.NegativeOne, sympy.S.Zero, sympy.S.One
        elif isinstance(node, where):
            ways = node.args[1:]
        else:
            continue
        return [branch for way in ways for branch in _branches(expression.xreplace({node: way}))[:_MOST_BRANCHES]]
    return [expression]
