"""fastlayers.optim.build: an optimizer by name, with the parameter groups that people write by hand."""
from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import fastlayers as fl


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5))
        self.tied = self.layers[2].weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.head = nn.Linear(5, 2)


def test_build_makes_groups() -> None:
    optimizer = fl.optim.build(
        "adamw", Net(), lr=1e-3, weight_decay=0.1, overrides={"HEAD.weight": {"lr": 0.5}, "head": {"lr": 0.25}}, max_grad_norm=1.0)
    assert type(optimizer) is fl.optim.AdamW
    assert optimizer.max_grad_norm == 1.0
    assert [(group["lr"], group["weight_decay"], group["param_names"]) for group in optimizer.param_groups] == [
        (1e-3, 0.1, ["tied", "layers.0.weight"]), (1e-3, 0.0, ["layers.0.bias", "layers.1.weight", "layers.1.bias", "layers.2.bias"]),
        (0.5, 0.1, ["head.weight"]), (0.25, 0.0, ["head.bias"])]
    for row in fl.specs.UPDATE_RULES.values():
        assert type(fl.optim.build(row.name, Net(), no_decay=())).__name__ == row.optimizer
    decaying = fl.optim.build("adamw", Net(), weight_decay=0.1, overrides={"layers.2.bias": {"weight_decay": 0.3}})
    assert {path: group["weight_decay"] for group in decaying.param_groups for path in group["param_names"] if "bias" in path} == {
        "layers.0.bias": 0.0, "layers.1.bias": 0.0, "layers.2.bias": 0.3, "head.bias": 0.0}
    words, word = (fl.optim.build("adamw", Net(), no_decay=value) for value in (("norm",), "norm"))
    assert [group["param_names"] for group in word.param_groups] == [group["param_names"] for group in words.param_groups]


def test_build_refuses() -> None:
    with pytest.raises(ValueError, match=rf"^build: name must be one of {', '.join(fl.specs.UPDATE_RULES)}, got 'adamq'$"):
        fl.optim.build("adamq", Net())
    with pytest.raises(ValueError, match=r"^build: overrides must fit a parameter, got 'haed'$"):
        fl.optim.build("sgd", Net(), overrides={"haed": {"lr": 1.0}})
    with pytest.raises(ValueError, match=r"^build: overrides\['head'\] must hold arguments of SGD, got 'rate'$"):
        fl.optim.build("sgd", Net(), overrides={"head": {"lr": 1.0, "rate": 1.0}})
    with pytest.raises(TypeError, match=r"^build: overrides\['head'\] must be a Mapping, got float$"):
        fl.optim.build("sgd", Net(), overrides={"head": 1.0})
    with pytest.raises(ValueError, match=r"^build: model must have parameters that require a gradient, got none$"):
        fl.optim.build("sgd", nn.ReLU())
    with pytest.raises(TypeError, match=r"^build: model must be a torch.nn.Module, got list$"):
        fl.optim.build("sgd", [])
    for value in (5, [5]):
        with pytest.raises(TypeError, match=rf"^build: no_decay must be a word or a sequence of words, got {re.escape(str(value))}$"):
            fl.optim.build("sgd", Net(), no_decay=value)
    with pytest.raises(TypeError, match=r"^build: a word of overrides must be a str, got int$"):
        fl.optim.build("sgd", Net(), overrides={5: {"lr": 1.0}})
