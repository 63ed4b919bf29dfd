"""fl.warmup: everything a step needs is compiled, and nothing else has happened."""
from __future__ import annotations

import copy

import conftest
import pytest
import torch

import fastlayers as fl
from fastlayers import nn


def network(activation: str = "silu") -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), nn.BatchNorm1d(8, activation=activation), nn.Dropout(0.2, inplace=True), torch.nn.Linear(8, 2))


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> list[torch.Tensor]:
    """One step; gradients, parameters, buffers and the optimizer's state after it."""
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [*(p.grad for p in model.parameters()), *model.state_dict().values(), *states, model.eval()(x)]


def test_the_next_step_compiles_nothing() -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed")
    compiled = []
    fl.register_activation("warm", "x / (2 + abs(x))")  # whose kernels no other test can have compiled
    try:
        with conftest.running_on("triton") as device, pytest.MonkeyPatch.context() as patch:
            model, x = network("warm").to(device), torch.randn(4, 6, device=device)
            optimizer = fl.optim.Adam(model.parameters(), max_grad_norm=1.0)
            patch.setattr(triton.knobs.runtime, "jit_cache_hook", lambda **keywords: compiled.append(keywords["repr"]))
            fl.warmup(model, x, optimizer=optimizer)
            assert any("forward" in name for name in compiled)
            assert any("backward" in name for name in compiled)
            compiled.clear()
            train(model, optimizer, x)
            assert not compiled
    finally:
        fl.unregister_activation("warm")


def test_nothing_else_has_happened(cpu_backend: str) -> None:
    """Before the first step and between two of them: the run goes on as one that was not warmed up."""
    torch.manual_seed(1)
    model, x = network(), torch.randn(4, 6)
    twin = copy.deepcopy(model)
    results = []
    for one, warm in ((model, True), (twin, False)):
        optimizer = fl.optim.Adam(one.parameters())
        torch.manual_seed(2)
        found = []
        for _ in range(2):
            given, training = x.clone(), one.training
            if warm:
                gradients = [p.grad for p in one.parameters()]
                fl.warmup(one, given, optimizer=optimizer)
                assert all(p.grad is gradient for p, gradient in zip(one.parameters(), gradients, strict=True))
            assert one.training is training
            assert torch.equal(given, x)
            found += train(one.train(), optimizer, x)
        results.append(found)
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


def test_what_models_take_and_give() -> None:
    """Keywords, containers, an input that is written into or wants its gradient, whole numbers; a model without parameters."""
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[bool, bool]] = []

        def forward(self, pair, *, scale):
            x, tokens = pair
            self.seen.append((self.training, x.requires_grad))
            return {"y": (x * scale["by"], tokens + 1), "loss": x.sum()}

    model = Network()
    model.seen = seen = []
    model.__deepcopy__ = lambda memo: model  # to look at the calls
    x = torch.randn(3, requires_grad=True)
    fl.warmup(model, (x, torch.arange(3)), scale={"by": torch.ones(())})
    assert seen == [(True, True), (False, True)]
    assert x.grad is None
    fl.warmup(nn.ReLU(inplace=True), x.detach())
    assert (x < 0).any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(mode) -> None:
    """Of tensors made there, too, which autograd cannot save."""
    with mode():
        model, x = network(), torch.randn(4, 6)
        fl.warmup(model, x, optimizer=fl.optim.Adam(model.parameters()))
        assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()


def test_what_is_no_model_and_no_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^warmup: model must be a torch.nn.Module, got builtin_function_or_method$"):
        fl.warmup(torch.relu, torch.randn(3))
    with pytest.raises(TypeError, match=r"^warmup: optimizer must be an Optimizer, got int$"):
        fl.warmup(nn.ReLU(), torch.randn(3), optimizer=3)


def test_backward_and_the_step_belong_together() -> None:
    """Also where gradients are off: those that the model's copy has found are what the optimizer's steps with."""
    steps = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None) -> None:
            steps.append([p.grad is not None for group in self.param_groups for p in group["params"]])

    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        fl.warmup(model, torch.randn(4, 3), optimizer=Noting(model.parameters(), lr=0.1))
    assert steps == [[True, True]]
    assert model.weight.grad is None
