"""Examples run as they are written: those of docstrings, and the README's."""
from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import cases
import conftest
import pytest
import torch

import fastlayers

tool = conftest.tool("document_activations")

# Not the commands: their modules have no examples and import what only an extra brings.
LIBRARY = ("formulas", "functional", "backends", "nn", "optim", "ensemble", "stopping", "convert", "folding", "warmup")
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
                  fastlayers.functional.dropout_mask, fastlayers.functional.glu, fastlayers.nn.GLU, fastlayers.nn.SwiGLU,
                  fastlayers.mc_dropout, fastlayers.EarlyStopping, fastlayers.convert, fastlayers.revert, fastlayers.register_activation,
                  fastlayers.backend, fastlayers.backends, fastlayers.nn.BatchNorm2d,
                  fastlayers.nn.Dropout, fastlayers.optim.SGD, fastlayers.optim.Adam, fastlayers.optim.AdamW):
        assert ">>> " in thing.__doc__, thing


def test_example_of_the_readme() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(example, {})


@pytest.mark.parametrize("part", ["introduction", "facts", "memory", "speed"])
def test_document_of_activations_is_fresh(part: str) -> None:
    """docs/activations.md says what specs.py, the library's memory and benchmarks/results say now."""
    text = tool.DOCUMENT.read_text()
    if part == "memory":
        _same_torch(text)
    assert getattr(tool, part)() in text, "docs/activations.md is stale: make docs"


def test_constructors_are_called_as_documented() -> None:
    """What docs/activations.md shows without a value is given by position."""
    shown = re.findall(r"`fastlayers\.nn\.(\w+)\((.*?)\)`", tool.DOCUMENT.read_text())
    assert len(shown) == len(tool.rows())
    for name, arguments in shown:
        positional = [argument for argument in arguments.split(", ") if argument and "=" not in argument]
        taken = inspect.signature(getattr(fastlayers.nn, name)).parameters.values()
        assert positional == [one.name for one in taken if one.kind is one.POSITIONAL_OR_KEYWORD][:len(positional)], name


def test_document_of_activations_has_nothing_else() -> None:
    text = tool.DOCUMENT.read_text()
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == [
        *(row.name for row in tool.rows()), "What is kept for backward", "Speed"]
    _same_torch(text)
    assert text == "\n".join(tool.parts().values())


def _same_torch(text: str) -> None:
    version = torch.__version__.split("+")[0]
    if f"torch {version}." not in text:
        pytest.skip(f"torch's bytes in docs/activations.md were measured with another version than {version}")


def test_sheet_of_activations_has_every_panel() -> None:
    assert cases.panels(tool.SHEET) == [row.text for row in tool.rows()], "docs/activations.png is stale: make docs"


def test_document_notices_a_changed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = fastlayers.specs.ACTIVATIONS["gelu"]
    monkeypatch.setitem(fastlayers.specs.ACTIVATIONS, "gelu", dataclasses.replace(row, ulp=5))
    assert tool.facts() not in tool.DOCUMENT.read_text()
    monkeypatch.setitem(fastlayers.specs.ACTIVATIONS, "gelu_two", dataclasses.replace(row, name="gelu_two"))
    assert cases.panels(tool.SHEET) != [row.text for row in tool.rows()]


def test_speed_table_leaves_out_what_a_run_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"ms": {"ours": 2.0, "eager": 5.0, "copy": 1.0}}
    run = {"device": "CPU", "threads": 2, "fastlayers": "1", "torch": "2", "cases": {"silu 32x64x56x56 float32": times}}
    (tmp_path / "one.json").write_text(json.dumps(run))
    (tmp_path / "two.json").write_text(json.dumps(run | {"cases": {"Adam": times}}))
    monkeypatch.setattr(tool, "RESULTS", tmp_path)
    rows = [line for line in tool.speed().splitlines() if line.startswith("| ")]
    assert rows == ["| activation | ours, ms | eager, ms | eager / ours | copies |", "| silu | 2.00 | 5.00 | 2.5 | 2.0 |"]
    assert "two.json" not in tool.speed()
