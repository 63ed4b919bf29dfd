"""Checks of plain values: numbers, names, shapes, and the arguments of functions."""
from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

from torch import Tensor


class OutOfRange(ValueError, RuntimeError):
    """A ValueError, as of any value out of its range, that is a RuntimeError too: torch leaves it to kernels, which raise that."""


def one_of(operation: str, argument: str, value: object, allowed: Sequence[object]) -> None:
    """value is one of those allowed."""
    if value not in allowed:
        raise OutOfRange(f"{operation}: {argument} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def instance(operation: str, argument: str, value: object, kind: type) -> None:
    """value is an instance of this class."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{operation}: {argument} must be {article} {kind.__name__}, got {type(value).__name__}")


def probability(operation: str, argument: str, p: object) -> None:
    """p is a number in [0, 1]; NaN is not."""
    if not isinstance(p, (int, float)) and not isinstance(p, Real):  # in this order: Real, for numpy's numbers, is ten times slower
        raise TypeError(f"{operation}: {argument} must be a number, got {type(p).__name__}")
    if not 0 <= p <= 1:
        kind = ValueError if p == p else OutOfRange
        raise kind(f"{operation}: {argument} must be between 0 and 1, got {p}")


def number(operation: str, argument: str, value: object) -> None:
    """value is a number, or a tensor that holds one."""
    if isinstance(value, (int, float)):  # Dynamo answers this of a number that it keeps symbolic
        return
    if not hasattr(value, "__float__") or (isinstance(value, Tensor) and value.numel() != 1):
        raise TypeError(f"{operation}: {argument} must be a number, got {type(value).__name__}")


def at_least(operation: str, argument: str, value: float, low: float) -> None:
    """value is a number from low on."""
    number(operation, argument, value)
    if not value >= low:
        raise ValueError(f"{operation}: {argument} must be at least {low}, got {value}")


def whole_number(operation: str, argument: str, value: object, low: int, high: int | None = None) -> None:
    """value is an integer from low to high."""
    if not isinstance(value, Integral):
        raise TypeError(f"{operation}: {argument} must be a whole number, got {type(value).__name__}")
    if value < low or (high is not None and value > high):
        rule = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{operation}: {argument} must be {rule}, got {value}")


def index(operation: str, argument: str, value: object) -> int:
    """value as an int, which NumPy's numbers and tensors may stand for."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{operation}: {argument} must be a whole number, got {type(value).__name__}") from None


def sizes(operation: str, argument: str, value: Iterable[object]) -> tuple[int, ...]:
    """value as the shape of a tensor: whole numbers from 0 on."""
    try:
        shape = tuple(map(operator.index, value))
    except TypeError:
        raise TypeError(f"{operation}: {argument} must be a sequence of whole numbers, got {value!r}") from None
    if any(size < 0 for size in shape):
        raise ValueError(f"{operation}: {argument} must hold numbers at least 0, got {shape}")
    return shape


def constructor_arguments(
    operation: str, positional: Sequence[str], by_keyword: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object],
) -> None:
    """Each argument is one of those, and only the former are given by position."""
    if len(args) > len(positional) or not set(kwargs) <= {*positional[len(args):], *by_keyword}:
        known = [", ".join(positional), f"{', '.join(by_keyword)} by keyword" if by_keyword else ""]
        raise TypeError(f"{operation}: arguments must be {' and '.join(filter(None, known)) or 'none'}, got {args} and {kwargs}")


def wrong_arguments(operation: str, positional: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object]) -> TypeError:
    """The refusal of arguments besides x that a function does not know, gets twice or lacks."""
    return TypeError(f"{operation}: arguments must be x, {', '.join(positional) or 'nothing more'}, got {len(args) + 1} positional and "
                     f"{', '.join(kwargs) or 'no keywords'}")


def plain_function(operation: str, function: object) -> None:
    """A function that has done its work when it returns."""
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{operation}: a decorated function must not be a generator or a coroutine, got {function.__qualname__}")


def available_backend(name: str, reason: str) -> None:
    """A backend that is chosen runs here; reason says why it does not."""
    if reason:
        raise RuntimeError(f"backend: name must be an available backend, got {name!r}: {reason}")


def wrong_device(name: str, device: str, reason: str) -> RuntimeError:
    """The refusal of tensors on a device that the chosen backend does not run on."""
    return RuntimeError(f"backend: {name!r} must be able to run on {device} tensors, got: {reason}")
