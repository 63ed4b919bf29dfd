"""Blocks that convert makes of a Sequential's layers, and how they come apart."""
from __future__ import annotations

import copy
import pickle

import pytest
import torch
from cases import Twice, bn_relu

import fastlayers as fl
from fastlayers import nn

T = torch.nn


def hooked(module: T.Module) -> T.Module:
    module.register_forward_hook(lambda *_: None)
    return module


def patched(module: T.Module) -> T.Module:
    module.forward = lambda x: x
    return module


class Subclass(T.Sequential):
    """Who knows what it does with its layers."""


ABSORBED = "Absorbed"
FUSED = {
    "all": (lambda: T.Sequential(*bn_relu(), T.Dropout(0.5)), ["BatchNorm1d", ABSORBED, ABSORBED]),
    "no activation": (lambda: T.Sequential(T.BatchNorm1d(4), T.Dropout(0.5), T.ReLU()), ["BatchNorm1d", ABSORBED, "ReLU"]),
    "no batch norm": (lambda: T.Sequential(T.SiLU(), T.Dropout(0.5), T.Dropout(0.5)), ["SiLU", ABSORBED, "Dropout"]),
    "gated": (lambda: T.Sequential(T.GLU(), T.Tanh(), T.Dropout(0.5)), ["GLU", "Tanh", ABSORBED]),
    "gated with dropout": (lambda: T.Sequential(T.GLU(), T.Dropout(0.5)), ["GLU", ABSORBED]),
    "inplace after batch norm": (lambda: T.Sequential(T.BatchNorm1d(4), T.ReLU(inplace=True)), ["BatchNorm1d", ABSORBED]),
    "two activations": (lambda: T.Sequential(*bn_relu(), T.Tanh(), T.Dropout(0.5)), ["BatchNorm1d", ABSORBED, "Tanh", ABSORBED]),
    "already ours": (lambda: T.Sequential(nn.BatchNorm1d(4, activation="relu"), T.Dropout(0.5)), ["BatchNorm1d", ABSORBED]),
    "learnable": (lambda: T.Sequential(T.BatchNorm1d(4), T.PReLU(), T.Dropout(0.5)), ["BatchNorm1d", "PReLU", ABSORBED]),
    "inplace first": (lambda: T.Sequential(T.ReLU(inplace=True), T.Dropout(0.5)), ["ReLU", "Dropout"]),
    "hook on the batch norm": (lambda: T.Sequential(hooked(T.BatchNorm1d(4)), T.ReLU()), ["BatchNorm1d", "ReLU"]),
    "hook on the activation": (lambda: T.Sequential(T.BatchNorm1d(4), hooked(T.ReLU())), ["BatchNorm1d", "ReLU"]),
    "an activation of its own": (lambda: T.Sequential(nn.BatchNorm1d(4, activation="silu"), T.ReLU()), ["BatchNorm1d", "ReLU"]),
    "a forward of its own": (lambda: T.Sequential(T.BatchNorm1d(4), patched(T.ReLU()), T.Dropout(0.5)), ["BatchNorm1d", "ReLU", "Dropout"]),
    "modes": (lambda: T.Sequential(T.BatchNorm1d(4).eval(), T.ReLU()), ["BatchNorm1d", "ReLU"]),
    "twice": (lambda: T.Sequential(*(bn_relu() * 2)), ["BatchNorm1d", "ReLU"] * 2),
    "subclass": (lambda: T.Sequential(T.BatchNorm1d(4), Twice()), ["BatchNorm1d", "Twice"]),
    "between": (lambda: T.Sequential(T.BatchNorm1d(4), T.Flatten(), T.ReLU()), ["BatchNorm1d", "Flatten", "ReLU"]),
    "other dropout": (lambda: T.Sequential(*bn_relu(), T.AlphaDropout(0.5)), ["BatchNorm1d", ABSORBED, "AlphaDropout"]),
    "other convention": (lambda: T.Sequential(T.ReLU(), nn.Dropout(0.5, convention="eval")), ["ReLU", "Dropout"]),
    "dropout of its own": (lambda: T.Sequential(T.BatchNorm1d(4), nn.ReLU(dropout=0.5), T.Dropout(0.5)),
                           ["BatchNorm1d", "ReLU", "Dropout"]),
    "lazy": (lambda: T.Sequential(T.LazyBatchNorm1d(), T.ReLU()), ["LazyBatchNorm1d", "ReLU"]),
    "another container": (lambda: Subclass(*bn_relu()), ["BatchNorm1d", "ReLU"]),
    "another forward": (lambda: patched(T.Sequential(*bn_relu())), ["BatchNorm1d", "ReLU"]),
    "a list": (lambda: T.ModuleList(bn_relu()), ["BatchNorm1d", "ReLU"]),
}


@pytest.mark.parametrize("case", FUSED)
def test_what_is_fused(case: str) -> None:
    model = FUSED[case][0]()
    assert [type(module).__name__ for module in fl.convert(model, fuse=True).children()] == FUSED[case][1] or case == "twice"
    assert [type(module).__name__ for module in model._modules.values()] == FUSED[case][1]
    assert not any(type(module) in (T.BatchNorm1d, T.Dropout, T.GLU) for module in model.modules())


def test_a_block_drops_as_its_layers_do() -> None:
    """p of torch's Dropout, while training, of what the activation gives."""
    model = fl.convert(T.Sequential(T.BatchNorm1d(3), T.Sigmoid(), T.Dropout(0.25)), fuse=True)
    x = torch.randn(40000, 3)
    y = model(x)
    kept = y != 0
    assert abs(kept.double().mean() - 0.75) < 5 * (0.25 * 0.75 / y.numel()) ** 0.5
    expected = T.functional.batch_norm(x, None, None, training=True).sigmoid() / 0.75
    torch.testing.assert_close(y[kept], expected[kept])
    torch.testing.assert_close(fl.mc_dropout(model, x[:50], samples=8).samples.count_nonzero() / 1200, torch.tensor(0.75), rtol=0.1, atol=0)
    state = copy.deepcopy(model[0].state_dict())
    y = model.eval()(x)
    model.train()
    fl.revert(model).eval()
    torch.testing.assert_close(model(x), y)
    assert all(torch.equal(value, state[name]) for name, value in model[0].state_dict().items())


def test_blocks_come_apart_as_they_are_by_then() -> None:
    """Copies and pickles too; what a user changed of a block; a part of the model; layers that were put elsewhere."""
    model = T.Sequential(T.BatchNorm1d(4), T.LeakyReLU(0.3), T.Dropout(0.5), T.BatchNorm1d(4), T.ReLU(inplace=True))
    model[2].note = "mine"
    names = repr(model)
    fl.convert(model, fuse=True)
    for one in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        trunk = one[:3]
        seen = []
        hook = one[1].register_forward_hook(lambda module, x, y, seen=seen: seen.append(y))
        fl.revert(trunk)
        assert repr(fl.revert(one)) == names
        assert one[2].note == "mine"
        assert one[1] is trunk[1]
        one(torch.randn(3, 4))
        assert len(seen) == 1
        hook.remove()
    fl.convert(model.eval(), fuse=True)
    model[3].activation = nn.Hardtanh(-0.5, 0.5)
    x = torch.randn(6, 4)
    y = model(x)
    fl.revert(model)
    assert [type(module) for module in model] == [T.BatchNorm1d, T.LeakyReLU, T.Dropout, T.BatchNorm1d, T.Hardtanh]
    torch.testing.assert_close(model.eval()(x), y)
    fl.convert(model, fuse=True)
    model[0].activation, model[0].dropout, model[3].activation = "silu", 0.2, nn.PReLU(4)
    y = model(x)
    fl.revert(model)
    assert [type(module) for module in model] == [T.BatchNorm1d, T.SiLU, T.Dropout, T.BatchNorm1d, T.PReLU]
    assert model[2].p == 0.2
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(x), y)
    fl.convert(model[3:], fuse=True)
    assert list(model.state_dict())[-1] == "4.weight"
    fl.convert(model, fuse=True)
    model[0] = nn.BatchNorm1d(4).eval()
    y = model(x)
    assert [type(module) for module in fl.revert(model)][:3] == [T.BatchNorm1d, T.Identity, T.Dropout]
    assert model[2].p == 0
    torch.testing.assert_close(model(x), y)


def test_synchronised_blocks_come_apart_too() -> None:
    model = fl.convert(T.Sequential(*bn_relu(), T.Dropout(0.5)), fuse=True)
    T.SyncBatchNorm.convert_sync_batchnorm(model)
    assert [type(module) for module in fl.revert(model)] == [T.SyncBatchNorm, T.ReLU, T.Dropout]


def test_attributes_of_an_absorbed_layer_are_its_own() -> None:
    """Not copied, however large; not run twice, whatever is registered on every module of the model."""
    model, calls = T.Sequential(*bn_relu()), []
    model[1].part, model[1].owner = "mine", [model]
    fl.convert(model, fuse=True)
    assert model[1].owner[0] is model[0].activation.owner[0] is model
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    model(torch.randn(3, 4))
    assert calls == ["BatchNorm1d", "Absorbed", "Sequential"]
    fl.revert(model)
    assert model[1].part == "mine"
