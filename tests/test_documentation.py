"""Examples run as they are written: those of docstrings, and the README's."""
from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import fastlayers

# Not the commands: their modules have no examples and import what only an extra brings.
LIBRARY = ("functional", "backends", "nn", "optim", "ensemble", "stopping")
MODULES = [
    name for part in LIBRARY for name in (
        f"fastlayers.{part}",
        *(info.name for info in pkgutil.walk_packages(getattr(importlib.import_module(f"fastlayers.{part}"), "__path__", ()),
                                                      f"fastlayers.{part}.")))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str) -> None:
    with fastlayers.backend("auto"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_things_have_an_example() -> None:
    for thing in (fastlayers.functional.batch_norm, fastlayers.functional.bias_activation, fastlayers.functional.dropout,
                  fastlayers.functional.dropout_mask, fastlayers.mc_dropout, fastlayers.EarlyStopping,
                  fastlayers.backend, fastlayers.backends, fastlayers.nn.BatchNorm2d,
                  fastlayers.nn.Dropout, fastlayers.optim.SGD, fastlayers.optim.Adam, fastlayers.optim.AdamW):
        assert ">>> " in thing.__doc__, thing


def test_example_of_the_readme() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(example, {})
