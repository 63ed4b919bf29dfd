"""The same layers twice, for the demo and the benchmarks: as a PyTorch user writes them, and fused."""
from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from .reference import activations
from .reference.optimizers import optimizer_step
from .specs import ACTIVATIONS, Activation, UpdateRule

LIBRARIES = ("torch", "fastlayers")


def activation(library: str, name: str, dropout: float = 0.0) -> nn.Module:
    """The activation of row ``name`` followed by dropout."""
    row = ACTIVATIONS[name]
    required = {constant.name: constant.default for constant in row.constants if constant.required}
    keyword = required if row.keyword is None else {row.keyword[0]: row.keyword[1]}
    if library == "fastlayers":
        from . import nn as fused

        return getattr(fused, row.module)(**keyword, dropout=dropout)
    plain = getattr(nn, row.module)(**keyword) if hasattr(nn, row.module) else PlainActivation(row)
    return nn.Sequential(plain, nn.Dropout(dropout)) if dropout else plain


def batch_norm(library: str, dimensions: int, channels: int, name: str, dropout: float = 0.0) -> nn.Module:
    """dropout(activation(batch_norm(x) + residual)), called as block(x) or block(x, residual=r)."""
    if library == "fastlayers":
        from . import nn as fused

        return getattr(fused, f"BatchNorm{dimensions}d")(channels, activation=ACTIVATIONS[name].text, dropout=dropout)
    return PlainBlock(getattr(nn, f"BatchNorm{dimensions}d")(channels), activation("torch", name), dropout)


class PlainActivation(nn.Module):
    """The formula as PyTorch operations, for rows that torch.nn has no module for."""

    def __init__(self, row: Activation) -> None:
        super().__init__()
        self.formula = activations.function(row.name)
        self.learnable = nn.ParameterList(torch.tensor([start]) for start in row.start())
        self.constants = [constant.default for constant in row.constants]

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x, *self.learnable, *self.constants)


class PlainBlock(nn.Module):
    """Batch norm, residual, activation and dropout, one after the other."""

    def __init__(self, norm: nn.Module, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation
        self.dropout = nn.Dropout(dropout) if dropout else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        if residual is not None:
            x = x + residual
        x = self.activation(x)
        return x if self.dropout is None else self.dropout(x)


def plain_optimizer(row: UpdateRule, params: list[Tensor], **arguments: object) -> torch.optim.Optimizer | PlainOptimizer:
    """The fastest that torch.optim has of this rule; the formula as PyTorch operations where it has none."""
    if not hasattr(torch.optim, row.optimizer):
        return PlainOptimizer(row, params, **arguments)
    kind = getattr(torch.optim, row.optimizer)
    return kind(params, **arguments, **({"fused": True} if "fused" in inspect.signature(kind).parameters else {}))


class PlainOptimizer:
    """A rule that torch.optim does not have, at the defaults that our class has."""

    def __init__(self, row: UpdateRule, params: list[Tensor], **arguments: object) -> None:
        from . import optim
        from .optim.plan import flags, numbers

        self.row = row
        self.params = params
        (group,) = getattr(optim, row.optimizer)(params, **arguments).param_groups
        self.numbers, self.flags = numbers(group, row), flags(group, row, False)
        names = row.present_states(self.numbers, self.flags)
        self.states = [torch.zeros_like(p) for _ in names for p in params]
        self.scalars = [torch.zeros(()) for _ in row.scalars for _ in params]

    @torch.no_grad()
    def step(self) -> None:
        grads = [p.grad for p in self.params]
        optimizer_step(
            self.row.name, self.params, grads, self.states, self.scalars, [], [], self.numbers, self.flags, [], None, None, None, None,
            0.0, 0.0)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give ``target`` the parameters and buffers of ``source``, matched by their order: the two libraries nest them differently."""
    pairs = list(zip(source.parameters(), target.parameters(), strict=True)) + list(zip(source.buffers(), target.buffers(), strict=True))
    for value, copy in pairs:
        copy.copy_(value.view_as(copy))
