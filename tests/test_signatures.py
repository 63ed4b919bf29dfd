"""What inspect.signature, help() and editors show of modules and functions is what they take."""
from __future__ import annotations

import inspect
import typing
from inspect import Parameter

import pytest
import torch

import fastlayers as fl
from fastlayers import functional as F
from fastlayers import nn
from fastlayers.specs import ACTIVATIONS

ROWS = {row.module: row for row in reversed(ACTIVATIONS.values())}  # of rows that share a class, the first
DROP_IN = sorted(name for name in nn.__all__ if hasattr(torch.nn, name))
OWN = sorted(name for name in ROWS if not hasattr(torch.nn, name))
VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def parameters(thing: object) -> dict[str, Parameter]:
    return dict(inspect.signature(thing).parameters)


def facts(parameter: Parameter) -> tuple[str, object, object]:
    return parameter.name, parameter.kind, parameter.default


@pytest.mark.parametrize("name", DROP_IN)
def test_classes_take_what_torchs_take_and_keywords_with_defaults(name: str) -> None:
    ours, theirs = parameters(getattr(nn, name)), parameters(getattr(torch.nn, name))
    if getattr(torch.nn, name).__init__ is torch.nn.Module.__init__:
        theirs = {}
    assert [facts(ours[parameter]) for parameter in ours if parameter in theirs] == [facts(value) for value in theirs.values()]
    added = [value for parameter, value in ours.items() if parameter not in theirs]
    assert all(value.kind is Parameter.KEYWORD_ONLY and value.default is not Parameter.empty for value in added)
    assert "dropout" in ours or name not in ROWS


@pytest.mark.parametrize("name", OWN)
def test_classes_of_our_own_take_what_they_show(name: str) -> None:
    shown, row = parameters(getattr(nn, name)), ROWS[name]
    assert not any(value.kind in VARIADIC for value in shown.values())
    assert [value.name for value in shown.values() if value.kind is Parameter.POSITIONAL_OR_KEYWORD] == [c.name for c in row.constants]
    one, other = getattr(nn, name)(**{value.name: value.default for value in shown.values()}), getattr(nn, name)()
    assert repr(one) == repr(other)
    for given, default in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(given, default)
    with pytest.raises(TypeError):
        getattr(nn, name)(nonsense=1)


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_functions_take_what_they_show(row) -> None:
    function = getattr(F, row.name)
    shown = parameters(function)
    assert not any(value.kind in VARIADIC for value in shown.values())
    required = [name for name, value in shown.items() if value.default is Parameter.empty]
    assert required == ["x", *(one.name for one in row.learnables), *(c.name for c in row.constants if c.required)]
    x = torch.randn(4, 6)
    values = [torch.full((1, 1) if row.repeats else (1,), start) for start in row.start()]
    values += [constant.default for constant in row.constants if constant.required]
    defaults = {name: value.default for name, value in shown.items() if name not in required}
    assert torch.equal(function(x, *values, **defaults), function(x, *values))
    positional = [value for value in shown.values() if value.kind is Parameter.POSITIONAL_OR_KEYWORD]
    assert torch.equal(function(x, *values, *(value.default for value in positional[len(required):])), function(x, *values))


@pytest.mark.parametrize("row", [row for row in ROWS.values() if inspect.isfunction(getattr(torch.nn.functional, row.name, None))],
                         ids=lambda row: row.name)
def test_functions_have_torchs_arguments(row) -> None:
    ours, theirs = parameters(getattr(F, row.name)), parameters(getattr(torch.nn.functional, row.name))
    positional = [facts(value) for value in ours.values() if value.kind is Parameter.POSITIONAL_OR_KEYWORD]
    assert positional[1:] == [facts(value) for value in theirs.values()][1:]  # after x, which torch calls input


def test_a_users_subclass_shows_its_own_constructor() -> None:
    class Leaky(nn.LeakyReLU):
        def __init__(self, slope: float) -> None:
            super().__init__(slope)

    class Plain(nn.Swish):
        pass

    assert list(parameters(Leaky)) == ["slope"]
    assert parameters(Plain) == parameters(nn.Swish)


@pytest.mark.parametrize(("function", "keeps"), [(fl.convert, True), (fl.fold_batch_norm, True), (fl.revert, False)],
                         ids=lambda value: getattr(value, "__name__", ""))
def test_type_checkers_are_told_that_a_model_keeps_its_class(function, keeps: bool) -> None:
    """But for revert, which makes of a layer of fastlayers one of torch's, a class above it."""
    hints = typing.get_type_hints(function)
    assert isinstance(hints["return"], typing.TypeVar) == keeps
    assert hints["return"] is hints["model"]
    assert getattr(hints["return"], "__bound__", torch.nn.Module) is torch.nn.Module


def test_what_convert_makes_of_a_layer_is_a_subclass() -> None:
    """But for SyncBatchNorm, which says why."""
    assert [theirs.__name__ for theirs, ours in fl.drop_ins.OURS.items() if not issubclass(ours, theirs)] == ["SyncBatchNorm"]
