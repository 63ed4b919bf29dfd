"""Prints the tables of csrc/cpu/normal_tail.h: ``python tools/fit_normal_tail.py``.

Eight polynomials of degree 8 stand for 1 - Phi(a), and eight for the derivative of a (1 - Phi(a)). Which one is for a, a quadratic of a
says when it is rounded: their stretches get shorter the farther out, as the exponential falls faster there. The quadratic is the one
that leaves the largest of the eight errors least; a center is a float for which the constant term is nearly a float, too, and not in the
middle of its stretch but towards the end: farther out than it the terms cancel, and rounding costs the more the farther that is.
Coefficients are rounded one after the other, the rest fitted anew. Errors are relative, but absolute, of
a tenth, where the function crosses zero.
"""
from __future__ import annotations

import textwrap
from collections.abc import Callable

import mpmath
import numpy as np
from numpy.polynomial import chebyshev

PIECES, DEGREE = 8, 8
ZERO = 0.7518  # of the derivative
OVERLAP = 1e-5  # where rounding may choose either neighbour
CENTER = 0.7  # as a share of the stretch: results are within 2.3 ULP then, 4.4 for a half


def tail(a: mpmath.mpf) -> mpmath.mpf:
    """1 - Phi(a)."""
    return mpmath.ncdf(-a)


def moment_derivative(a: mpmath.mpf) -> mpmath.mpf:
    """The derivative of a (1 - Phi(a))."""
    return mpmath.ncdf(-a) - a * mpmath.npdf(a)


def stretches(square: float, linear: float, end: float) -> list[tuple[float, float]]:
    """Where (square a + linear) a is rounded to 0, to 1, ..."""
    inner = [(np.sqrt(linear**2 + 4 * square * (k + 0.5)) - linear) / (2 * square) for k in range(PIECES - 1)]
    return list(zip([0.0, *inner], [*inner, end], strict=True))


def samples(function: Callable, low: float, high: float, count: int) -> tuple[np.ndarray, list[mpmath.mpf], list[mpmath.mpf], np.ndarray]:
    """(Chebyshev's nodes on [-1, 1], those on the stretch, the function there, the weight of its errors)."""
    nodes = chebyshev.chebpts1(count)
    a = [mpmath.mpf((low + high) / 2) + mpmath.mpf((high - low) / 2) * mpmath.mpf(float(node)) for node in nodes]
    values = [function(each) for each in a]
    sizes = np.abs(np.array(values, dtype=float))
    crosses = function is moment_derivative and low < ZERO < high
    return nodes, a, values, 1 / (np.maximum(sizes, 0.1) if crosses else sizes)


def least_largest(basis: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """(largest weighted error, coefficients), by least squares whose weights grow where the error is large (Lawson)."""
    best, importance = (np.inf, basis[0]), np.ones_like(weights)
    for _ in range(25):
        scale = weights * np.sqrt(importance)
        found = np.linalg.lstsq(basis * scale[:, None], values * scale, rcond=None)[0]
        errors = np.abs(basis @ found - values) * weights
        best = min(best, (errors.max(), found), key=lambda pair: pair[0])
        importance *= errors / errors.max() + 1e-2
        importance /= importance.max()
    return best


def largest_error(function: Callable, low: float, high: float) -> float:
    """Of the best polynomial on a stretch."""
    nodes, _, values, weights = samples(function, low, high, 40)
    return least_largest(chebyshev.chebvander(nodes, DEGREE), np.array(values, dtype=float), weights)[0]


def best_quadratic(function: Callable, end: float) -> tuple[np.float32, np.float32]:
    """(square, linear), such that end is just about to be rounded to 8."""
    def candidates() -> list[tuple[np.float32, np.float32]]:
        return [(np.float32(7.49 * share / end**2), np.float32(7.49 * (1 - share) / end)) for share in np.arange(0.3, 0.95, 0.03)]

    def worst(pair: tuple[np.float32, np.float32]) -> float:
        return max(largest_error(function, *stretch) for stretch in stretches(*map(float, pair), end))

    return min(candidates(), key=worst)


def center(function: Callable, low: float, high: float) -> np.float32:
    """A float near where it should be whose value is a float but for 1e-10 of it."""
    best = (np.inf, np.float32(0))
    for step in range(400):
        for side in (1, -1):
            candidate = np.float32(low + (high - low) * (CENTER + side * step * 2.5e-5))
            value = function(mpmath.mpf(float(candidate)))
            best = min(best, (abs(float(mpmath.mpf(float(np.float32(float(value)))) / value - 1)), candidate))
        if best[0] < 1e-10:
            break
    return best[1]


def coefficients(function: Callable, low: float, high: float, about: np.float32) -> list[np.float32]:
    """The constant term first."""
    _, a, values, weights = samples(function, low, high, 60)
    distance = np.array([float(each - mpmath.mpf(float(about))) for each in a])
    unit, rounded = np.abs(distance).max(), []
    for k in range(DEGREE + 1):
        known = [sum(mpmath.mpf(float(c)) * mpmath.mpf(float(d)) ** i for i, c in enumerate(rounded)) for d in distance]
        rest = np.array([float(value - part) for value, part in zip(values, known, strict=True)])
        basis = np.stack([(distance / unit) ** i for i in range(k, DEGREE + 1)], axis=1)
        rounded.append(np.float32(least_largest(basis, rest, weights)[1][0] / unit**k))
    return rounded


def table(name: str, function: Callable, end: float) -> str:
    """A Pieces in C++."""
    square, linear = best_quadratic(function, end)
    wide = [(max(low - OVERLAP, 0.0), high + OVERLAP) for low, high in stretches(float(square), float(linear), end)]
    centers = [center(function, *stretch) for stretch in wide]
    columns = [coefficients(function, *stretch, about) for stretch, about in zip(wide, centers, strict=True)]

    def row(numbers: list[np.float32], indent: str) -> str:
        text = ", ".join(f"{float(number):.9g}f" for number in numbers)
        return textwrap.fill(f"{{{text}}},", 140, initial_indent=indent, subsequent_indent=indent + " ")

    rows = "\n".join(row([column[k] for column in columns], "        ") for k in range(DEGREE + 1))
    return (f"constexpr Pieces {name} = {{\n    {end}f, {float(square):.9g}f, {float(linear):.9g}f,\n{row(centers, '    ')}\n"
            f"    {{\n{rows}\n    }},\n}};\n")


if __name__ == "__main__":
    mpmath.mp.dps = 40
    print(table("normal_tail", tail, 5.75))
    print(table("normal_moment_derivative", moment_derivative, 6.0), end="")
