"""mc_dropout and EarlyStopping."""
from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from tolerances import close

import fastlayers as fl
from fastlayers import nn


def network(library) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), library.BatchNorm2d(8), torch.nn.ReLU(), library.Dropout2d(0.2), torch.nn.Flatten(),
        library.Dropout(0.3), torch.nn.Linear(8 * 16, 4))


@pytest.mark.parametrize("library", [torch.nn, nn], ids=["torch", "fastlayers"])
def test_mc_dropout(library) -> None:
    """Only dropout is active, everything is put back, and the numbers are those of their definition."""
    model, x = network(library), torch.randn(5, 3, 6, 6)
    model.train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    state, buffers = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    mean, variance, samples = fl.mc_dropout(model, x, samples=64, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())
    assert samples.shape == (64, 5, 4)
    assert not samples.requires_grad
    torch.testing.assert_close(mean, samples.mean(0))
    torch.testing.assert_close(variance, samples.var(0))
    assert (variance > 0).all()
    assert len(samples.flatten(1).unique(dim=0)) == 64, "every sample has masks of its own"
    plain = model.eval()(x)
    assert ((mean - plain).abs() < 6 * (variance / 64).sqrt()).all()
    assert torch.equal(samples, fl.mc_dropout(model, x, samples=64, seed=1).samples)
    assert not torch.equal(samples, fl.mc_dropout(model, x, samples=64, seed=2).samples)
    assert not torch.equal(fl.mc_dropout(model, x).mean, fl.mc_dropout(model, x).mean)


@pytest.mark.parametrize("seed", [-(2**63), -1, 2**64 - 1])
def test_mc_dropout_takes_the_seeds_of_torch(seed: int) -> None:
    first, second = (fl.mc_dropout(nn.Dropout(0.5), torch.ones(4, 3), samples=4, seed=seed).samples for _ in range(2))
    assert torch.equal(first, second)


def test_mc_dropout_on_a_cpu_leaves_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    fl.mc_dropout(torch.nn.Dropout(0.5), torch.ones(4, 3), samples=4, seed=1)
    assert not seeded


def test_mc_dropout_in_chunks() -> None:
    """As many samples at once as fit, each row of x in its place, reproducible with the same memory."""
    model, x = network(nn), torch.randn(5, 3, 6, 6)
    batches = []
    model.register_forward_pre_hook(lambda module, arguments: batches.append(len(arguments[0])))
    one_pass = fl.mc_dropout(model, x, samples=10, seed=1)
    assert batches == [1, 50]
    row = 8 * 16 * 4  # bytes of the largest layer's output
    batches.clear()
    parts = fl.mc_dropout(model, x, samples=10, seed=1, max_bytes=row * 5 * 4 + 1)
    assert batches == [1, 20, 20, 10]
    assert torch.equal(parts.samples, fl.mc_dropout(model, x, samples=10, seed=1, max_bytes=row * 5 * 4 + 1).samples)
    batches.clear()
    fl.mc_dropout(model, x, samples=3, max_bytes=1)
    assert batches == [1, 5, 5, 5]
    assert ((parts.mean - one_pass.mean).abs() < 6 * ((parts.variance + one_pass.variance) / 10).sqrt()).all()


@pytest.mark.parametrize("make", [
    lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True),
    lambda: torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True), 1),
    lambda: torch.nn.Sequential(torch.nn.Linear(8, 8), nn.SiLU(dropout=0.3)),
    lambda: torch.nn.Sequential(torch.nn.Flatten(0, 1), nn.BatchNorm1d(8, activation="relu", dropout=0.3), torch.nn.Unflatten(0, (-1, 3))),
    lambda: torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.AlphaDropout(0.3)),
    lambda: torch.nn.Sequential(torch.nn.Linear(8, 16), nn.GEGLU(dropout=0.3)),
], ids=["transformer layer", "transformer", "fused activation", "fused batch norm", "alpha", "gated"])
def test_mc_dropout_finds_every_kind_of_dropout(make) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    mean, variance, _ = fl.mc_dropout(model, torch.randn(4, 3, 8), samples=16, seed=0)
    assert (variance > 0).float().mean() > 0.4
    assert mean.shape == (4, 3, 8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("library", [torch.nn, nn], ids=["torch", "fastlayers"])
def test_mc_dropout_leaves_x_alone(library) -> None:
    """Also where the first layer is inplace."""
    x = torch.ones(4, 3)
    fl.mc_dropout(torch.nn.Sequential(library.Dropout(0.5, inplace=True)), x, samples=4, seed=0)
    assert (x == 1).all()


def test_mc_dropout_keeps_all_else_in_evaluation() -> None:
    """Random activations and batch statistics are off, and a failing model is put back as it was."""
    model = torch.nn.Sequential(torch.nn.RReLU(0.1, 0.9), torch.nn.BatchNorm1d(3), nn.Dropout(1e-6))
    x = torch.randn(6, 3)
    kept = 1 - 2.0**-16  # p in whole numbers of 65,536
    close(fl.mc_dropout(model, x, samples=2).mean * kept, copy.deepcopy(model).eval()(x))

    class Fails(torch.nn.Dropout):
        def forward(self, input):
            raise ArithmeticError

    failing = torch.nn.Sequential(torch.nn.BatchNorm1d(3), Fails())
    with pytest.raises(ArithmeticError):
        fl.mc_dropout(failing, x)
    assert all(module.training for module in failing.modules())
    assert not failing[0]._forward_hooks


@pytest.mark.parametrize(("call", "kind", "message"), [
    (lambda: fl.mc_dropout(nn.Dropout(0.5), torch.ones(2, 3), samples=1), ValueError,
     "mc_dropout: samples must be at least 2, got 1"),
    (lambda: fl.mc_dropout(nn.Dropout(0.5), torch.ones(2, 3), samples=8.5), TypeError,
     "mc_dropout: samples must be a whole number, got float"),
    (lambda: fl.mc_dropout(torch.nn.Linear(3, 3), torch.ones(2, 3)), ValueError,
     "mc_dropout: model must hold a dropout layer with p above 0"),
    (lambda: fl.mc_dropout(nn.Dropout(0.0), torch.ones(2, 3)), ValueError, "mc_dropout: model must hold a dropout layer with p above 0"),
    (lambda: fl.mc_dropout(nn.Dropout(0.5), [1.0]), TypeError, "mc_dropout: x must be a Tensor, got list"),
    (lambda: fl.mc_dropout(torch.nn.Sequential(nn.Dropout(0.5), torch.nn.Flatten(0)), torch.ones(2, 3)), RuntimeError,
     "mc_dropout: the model's output must have the batch of 100 in dimension 0, got shape"),
    (lambda: fl.mc_dropout(nn.Dropout(0.5), torch.tensor(1.0)), RuntimeError,
     "mc_dropout: x must have the batch in dimension 0, got a 0-d tensor"),
    (lambda: fl.mc_dropout(lambda x: x, torch.ones(2, 3)), TypeError, "mc_dropout: model must be a torch.nn.Module, got function"),
    (lambda: fl.mc_dropout(nn.Dropout(0.5), torch.ones(2, 3), max_bytes="1"), TypeError, "mc_dropout: max_bytes must be a number, got str"),
    (lambda: fl.mc_dropout(nn.Dropout(0.5), torch.ones(2, 3), seed=0.5), TypeError, "mc_dropout: seed must be a whole number, got float"),
    (lambda: fl.EarlyStopping(patience=None), TypeError, "EarlyStopping: patience must be a number, got NoneType"),
    (lambda: fl.EarlyStopping()("0.5"), TypeError, "EarlyStopping: value must be a number, got str"),
    (lambda: fl.EarlyStopping(mode="auto"), ValueError, "EarlyStopping: mode must be one of min, max, got 'auto'"),
    (lambda: fl.EarlyStopping(patience=-1), ValueError, "EarlyStopping: patience must be at least 0, got -1"),
    (lambda: fl.EarlyStopping(min_delta=-1), ValueError, "EarlyStopping: min_delta must be at least 0, got -1"),
    (lambda: fl.EarlyStopping(restore_best=True)(1.0), TypeError, "EarlyStopping: model must be a Module where restore_best is True"),
])
def test_refusals(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + message):
        call()


def test_early_stopping_counts() -> None:
    """Patience counts calls without improvement in a row; a difference of min_delta is none; NaN is none; "max" looks the other way."""
    stopping = fl.EarlyStopping(patience=2, min_delta=0.1)
    assert [stopping(value) for value in (1.0, 0.95, 0.8, 0.75, math.nan)] == [False, False, False, False, True]
    assert (stopping.best, stopping.best_step, stopping.bad_steps, stopping.stopped) == (0.8, 2, 2, True)
    stopping.reset()
    assert (stopping.best, stopping.best_step, stopping.stopped) == (math.inf, -1, False)
    none = fl.EarlyStopping(patience=0)  # as in Keras, where it is the default: the same as 1
    assert [none(value) for value in (1.0, 0.5, 0.5)] == [False, False, True]
    rising = fl.EarlyStopping(patience=1, mode="max")
    assert [rising(torch.tensor(value)) for value in (0.1, 0.2, 0.2)] == [False, False, True]
    assert repr(rising) == "EarlyStopping(patience=1, min_delta=0.0, mode='max', restore_best=False)"


def test_early_stopping_restores_the_best_weights_across_a_resumed_run() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    stopping = fl.EarlyStopping(patience=2, restore_best=True)

    def move() -> None:
        with torch.no_grad():
            model[0].weight += 1
            model[1].running_mean += 1

    stopping(3.0, model)
    move()
    stopping(1.0, model)
    best = copy.deepcopy(model.state_dict())
    move()
    assert not stopping(2.0, model)
    file = io.BytesIO()
    torch.save(stopping.state_dict(), file)
    file.seek(0)
    resumed = fl.EarlyStopping(patience=2, restore_best=True)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    move()
    assert resumed(2.0, model)
    assert resumed.best_step == 1
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())


def test_rrelu_is_as_in_evaluation() -> None:
    """Its training means random slopes, too."""
    x = -torch.ones(2, 4)
    found = fl.mc_dropout(torch.nn.Sequential(fl.nn.RReLU(0.1, 0.9, dropout=0.5)), x, samples=20, seed=0)
    assert {round(value, 4) for value in found.samples.unique().tolist()} == {-1.0, 0.0}  # -1/2 kept, doubled


def test_early_stopping_loads_all_or_nothing_and_gives_copies() -> None:
    model = torch.nn.Linear(1, 1)
    stopping = fl.EarlyStopping(patience=3, restore_best=True)
    stopping(2.0, model)
    saved = stopping.state_dict()
    before = saved["weights"]["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1)
    stopping(1.0, model)
    assert torch.equal(saved["weights"]["weight"], before)
    with pytest.raises(KeyError):
        stopping.load_state_dict({"best": 0.5, "best_step": 3})
    assert (stopping.best, stopping.best_step) == (1.0, 1)
    stopping.load_state_dict(saved)
    assert stopping.best == 2.0


class Noting(torch.nn.Module):
    """Has a state that is no tensor, and parameters that may grow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.notes = torch.nn.Parameter(torch.zeros(3)), {"seen": 0}

    def get_extra_state(self) -> dict[str, int]:
        return self.notes

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.notes = state


def test_early_stopping_keeps_what_the_model_was() -> None:
    """Its other states too, of whatever shape; nothing after reset; and what it was loaded from is left alone."""
    model, stopping = Noting(), fl.EarlyStopping(restore_best=True)
    stopping(1.0, model)
    model.weight = torch.nn.Parameter(torch.ones(5))
    stopping(0.5, model)
    saved = stopping.state_dict()
    model.weight.data.fill_(2.0)
    model.notes["seen"] = 7
    other = fl.EarlyStopping(restore_best=True)
    other.load_state_dict(saved)
    other(0.25, model)
    assert saved["weights"]["weight"].tolist() == [1.0] * 5
    stopping.restore(model)
    assert model.weight.tolist() == [1.0] * 5
    assert model.notes == {"seen": 0}
    stopping.reset()
    model.weight.data.fill_(3.0)
    stopping.restore(model)
    assert model.weight.tolist() == [3.0] * 5
