"""What the commands share: how a wrong request is told, and how an option's value is checked."""
from __future__ import annotations

import importlib.util
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_LOG_WIDTH = 160


class UsageError(Exception):
    """The user asked for something that cannot be done: one line on stderr, exit code 2."""


def need(module: str, extra: str) -> ModuleType:
    """Import a module that only an extra brings, or say which one."""
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{package} is not installed: pip install fastlayers[{extra}]")
    return importlib.import_module(module)


def console(extra: str) -> Console:
    """A rich console; where nobody watches, in a log or a pipe, its lines are long enough for any table."""
    module = need("rich.console", extra)
    return module.Console() if sys.stdout.isatty() else module.Console(width=_LOG_WIDTH)


def one_of(*names: str) -> Callable[[str], str]:
    """An argparse type: one of these names."""

    def parse(text: str) -> str:
        if text not in names:
            raise ArgumentTypeError(f"must be one of {', '.join(names)}, got {text!r}")
        return text

    return parse


def whole_number(low: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least ``low``."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < low:
            raise ArgumentTypeError(f"must be a whole number of at least {low}, got {text!r}")
        return int(text)

    return parse


def number(low: float, high: float = float("inf")) -> Callable[[str], float]:
    """An argparse type: a number from ``low`` to ``high``, both included."""

    def parse(text: str) -> float:
        rule = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ArgumentTypeError(f"must be a number {rule}, got {text!r}")
        return value

    return parse

