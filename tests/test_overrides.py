"""Inputs with a say of their own: torch.fx's proxies, which record every layer and function as one call, and tensor subclasses."""
from __future__ import annotations

import re
from typing import ClassVar

import cases
import pytest
import torch
from torch import Tensor

import fastlayers as fl
from fastlayers import nn

NAMES = [name for name in nn.__all__ if not name.startswith("Lazy") and name != "SyncBatchNorm"]
FUNCTIONS = {
    "relu": (), "gelu": ("tanh",), "leaky_relu": (0.2,), "dropout": (0.5,), "alpha_dropout": (0.5, True), "dropout1d": (0.5,), "glu": (),
    "bias_activation": (torch.randn(4), "silu"), "batch_norm": (torch.randn(4), torch.rand(4)),
}


def input_for(name: str) -> Tensor:
    dimensions = re.search(r"[123](?=d)", name)
    return torch.randn(3, 4, *(6, 5, 2)[:int(dimensions[0]) if dimensions else 1])


class Named(Tensor):
    """A user's subclass, which keeps a list of the functions that were called with it."""

    calls: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.calls.append(function.__name__)
        return super().__torch_function__(function, types, args, kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_fx_keeps_a_layer_whole(name: str) -> None:
    """The traced network has the layer itself: it computes the same, moves the same buffers and follows train() and eval()."""
    layer, x = cases.module(name), input_for(name)
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Identity(), layer))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]
    assert traced.get_submodule("1") is layer
    for training in (True, False):
        traced.train(training)
        torch.manual_seed(3)
        expected = layer(x)
        torch.manual_seed(3)
        assert torch.equal(traced(x), expected)


def test_fx_traces_residuals() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.dropout = nn.BatchNorm2d(4, activation="relu"), nn.Dropout(0.1)

        def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
            return self.dropout(self.norm(x, residual=shortcut), residual_after=shortcut)

    block, x, shortcut = Block().eval(), torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    traced = torch.fx.symbolic_trace(block)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["norm", "dropout"]
    assert torch.equal(traced(x, shortcut), block(x, shortcut))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fx_records_a_function_as_one_call(name: str) -> None:
    function, x = getattr(fl.functional, name), input_for(name)
    arguments = FUNCTIONS[name]
    constants = {f"constant{k}": value for k, value in enumerate(arguments) if isinstance(value, Tensor)}

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for key, value in constants.items():
                self.register_buffer(key, value)

        def forward(self, x: Tensor) -> Tensor:
            given = [getattr(self, f"constant{k}") if isinstance(value, Tensor) else value for k, value in enumerate(arguments)]
            return function(x, *given)

    network = Network()
    traced = torch.fx.symbolic_trace(network)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [function]
    torch.manual_seed(3)
    expected = network(x)
    torch.manual_seed(3)
    assert torch.equal(traced(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_gives_a_subclass_its_like(name: str) -> None:
    layer, plain = cases.module(name), input_for(name)
    results = []
    for x in (plain.clone().requires_grad_(), plain.as_subclass(Named).clone().requires_grad_()):
        torch.manual_seed(3)
        y = layer(x)
        assert type(y) is type(x)
        y.as_subclass(Tensor).square().sum().backward()
        results.append((y.as_subclass(Tensor), x.grad.as_subclass(Tensor)))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_subclass_sees_the_function_that_was_called(name: str) -> None:
    function, x = getattr(fl.functional, name), input_for(name)
    torch.manual_seed(3)
    expected = function(x, *FUNCTIONS[name])
    Named.calls.clear()
    torch.manual_seed(3)
    y = function(x.as_subclass(Named), *FUNCTIONS[name])
    assert Named.calls == [name]
    assert type(y) is Named
    assert torch.equal(y.as_subclass(Tensor), expected)
