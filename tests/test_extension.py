"""What the compiled extension says about itself is what Python says in its place."""
from __future__ import annotations

import sys

import pytest
import torch
from cases import needs_cpp

import fastlayers as fl
from fastlayers.backends import extension
from fastlayers.specs import ACTIVATIONS, UPDATE_RULES

pytestmark = needs_cpp


def test_functors_say_of_activations_what_their_rows_say() -> None:
    """Python decides by the row what to call a kernel with, the kernel by its functor what to do: for GPUs and CPUs alike."""
    assert extension.activation_facts() == {
        row.name: {
            "learnables": len(row.learnables), "most_repeats": row.repeats.most if row.repeats else 1, "constants": len(row.constants),
            "everywhere": row.everywhere, "masks": row.masks, "from_output": row.from_output != "never", "random": row.random,
            "invertible": row.invertible != "never",
        } for row in ACTIVATIONS.values()}


def test_functors_say_of_update_rules_what_their_rows_say() -> None:
    assert extension.update_rule_facts() == {
        row.name: {"states": len(row.states), "hyperparameters": len(row.hyperparameters), "flags": len(row.flags),
                   "scalars": len(row.scalars)} for row in UPDATE_RULES.values()}


def test_an_extension_of_another_torch_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls would end in memory that means something else: it may crash, or not even that."""
    backends = sys.modules["fastlayers.backends"]
    assert backends._load("cpp") == (extension, "")
    for version in ("2.8.1", "3.13.0"):
        monkeypatch.setattr(extension, "torch_version", version)
        assert backends._load("cpp") == (None, (
            f"the C++ extension fastlayers._C was built for torch {version}, this is torch {torch.__version__}: reinstall fastlayers with "
            "pip install --no-build-isolation --force-reinstall --no-deps"))
    monkeypatch.setattr(extension, "torch_version", ".".join(torch.__version__.split(".")[:2]) + ".99")
    assert backends._load("cpp") == (extension, ""), "releases of one series share their classes"


def test_an_extension_without_a_row_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was built before the row was written: the import of the package asks it about every row."""
    backends = sys.modules["fastlayers.backends"]
    facts = {name: value for name, value in extension.activation_facts().items() if name not in ("relu", "mish")}
    monkeypatch.setattr(extension, "activation_facts", lambda: facts)
    assert backends._load("cpp") == (
        None, "the C++ extension fastlayers._C was built without relu, mish: build or install fastlayers again")
    for name in ("activation_facts", "update_rule_facts"):
        monkeypatch.delattr(extension, name)
    assert backends._load("cpp")[1].startswith("the C++ extension fastlayers._C was built without identity, "), "before it told its rows"


def test_an_extension_that_is_loaded_after_a_formula_is_registered_is_not_left_out() -> None:
    """As that for GPUs may be: it cannot know the formula, which others compute."""
    pytest.importorskip("sympy", reason="SymPy is not installed")
    fl.register_activation("loaded_before", "x**3")
    try:
        assert sys.modules["fastlayers.backends"]._load("cpp") == (extension, "")
    finally:
        fl.unregister_activation("loaded_before")
