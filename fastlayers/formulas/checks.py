"""Checks of what registers a formula, worded like those of ../checks/."""
from __future__ import annotations

import importlib.util
import keyword
import math
from collections.abc import Mapping
from numbers import Real
from typing import NoReturn


def text(operation: str, argument: str, value: object) -> None:
    """value is a string."""
    if not isinstance(value, str):
        raise TypeError(f"{operation}: {argument} must be a str, got {type(value).__name__}")


def mapping(operation: str, argument: str, value: object) -> None:
    """value is a dictionary or its like."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{operation}: {argument} must be a dict of names and numbers, got {type(value).__name__}")


def new_name(operation: str, argument: str, name: str) -> None:
    """name can be that of something in Python, and is not private."""
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise ValueError(f"{operation}: {argument} must be a Python identifier, no keyword and without a leading underscore, got {name!r}")


def free_name(operation: str, argument: str, name: str, taken: bool, by: str) -> None:
    """name is not taken."""
    if taken:
        raise ValueError(f"{operation}: {argument} must not be taken, got {name!r}, which is {by}")


def same_definition(operation: str, name: str, there: tuple[object, ...], given: tuple[object, ...]) -> None:
    """A pickled formula, with its parameters and constants, is the one that the name stands for in this process."""
    if given != there:
        raise ValueError(f"{operation}: a pickled {name!r} must be the formula that is registered here, {there}, got {given}")


def finite(operation: str, argument: str, value: object) -> None:
    """value is a finite number."""
    if not isinstance(value, Real):
        raise TypeError(f"{operation}: {argument} must be a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{operation}: {argument} must be finite, got {value}")


def formula(operation: str, rule: str, got: str) -> NoReturn:
    """Tell what is wrong with a formula."""
    raise ValueError(f"{operation}: formula must {rule}, got {got}")


def installed(operation: str, module: str, extra: str) -> None:
    """A module that only an extra brings is there."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{operation}: {module} must be installed, got none: pip install fastlayers[{extra}]")
