"""What is timed, built from specs.py: every activation, dropout, batch norm with what may follow it, the optimizers.

Each case declares the bytes that the best algorithm moves between memory and a CPU whose cache holds one channel: forward reads
and writes each tensor once, and backward does too.
"""
from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from fastlayers import nn as fused_nn
from fastlayers import optim as fused_optim
from fastlayers.contenders import LIBRARIES, activation, batch_norm, copy_weights, plain_optimizer
from fastlayers.specs import ACTIVATIONS, UPDATE_RULES

LARGE = (32, 64, 56, 56)
SMALL = ((10, 100), (64, 512), (8, 16, 8, 8), (16, 64, 14, 14))
"""Sizes at which the cost of a call shows."""
EXTREME = ((32, 4, 224, 224), (1, 2048, 7, 7))
"""Few channels of many values, many channels of few."""
FOLLOWERS = ("identity", "relu", "silu", "gelu")
"""The activations that batch norm is also timed with beside a residual, in channels_last and at small sizes."""
BLOCKS = (*FOLLOWERS, "leaky_relu", "prelu", "mish")
"""The activations that batch norm is timed with."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
_SECONDARY = "bfloat16"

MODEL = (262_144,) * 95 + (103_424,)  # 25 million parameters in 96 tensors
MANY = (64,) * 500
_MAX_NORM = 1.0

Contenders = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """One row of the benchmark's table."""

    name: str
    bytes: int
    """The least traffic of the algorithm, in bytes."""
    numel: int
    """Elements of the tensor that one copy of is the yardstick."""
    dtype: str
    build: Callable[[torch.device, bool], Contenders]
    """(device, whether to compile) -> what to call, by contender: eager, compile, ours."""


def select(cases: Iterator[Case], pattern: str | None) -> list[Case]:
    """The cases whose name contains the pattern, which may hold ``*``; several patterns are separated by commas."""
    patterns = [f"*{one.strip()}*" for one in (pattern or "").split(",")]
    return [case for case in cases if any(fnmatch.fnmatchcase(case.name, one) for one in patterns)]


def all_cases(dtype: str | None = None) -> Iterator[Case]:
    """Every case, in the order of the table; ``dtype`` builds all of them in that dtype instead of the standard mix."""
    from .gated import gated_cases  # whose cases are made of this file's

    main = dtype or "float32"
    yield from (_layer(name, LARGE, main, False, _Activation(name)) for name in ACTIVATIONS)
    yield _layer("dropout", LARGE, main, False, _Activation("identity", 0.1))
    yield from (_layer(block.title, LARGE, main, False, block) for block in _blocks())
    yield from (_layer(block.title, LARGE, main, True, block) for block in _blocks(FOLLOWERS))
    if dtype is None:
        yield from (_layer(name, LARGE, _SECONDARY, False, _Activation(name)) for name in FOLLOWERS[1:])
        yield _layer("dropout", LARGE, _SECONDARY, False, _Activation("identity", 0.1))
        yield from (_layer(block.title, LARGE, _SECONDARY, last, block) for block in _blocks(FOLLOWERS) for last in (False, True))
    for shape in EXTREME:
        yield from (_layer(block.title, shape, main, False, block) for block in _blocks(("relu",)) if not block.residual)
    for shape in SMALL:
        yield from (_layer(name, shape, main, False, _Activation(name)) for name in FOLLOWERS[1:])
        yield _layer("dropout", shape, main, False, _Activation("identity", 0.1))
        yield from (_layer(block.title, shape, main, False, block) for block in _blocks(FOLLOWERS))
    yield from gated_cases(main)
    for rule in UPDATE_RULES:
        yield _optimizer(rule, "25M in 96 tensors", MODEL, main, None)
        yield _optimizer(rule, "500 tensors of 64", MANY, main, None)
        yield _optimizer(rule, "25M in 96 tensors", MODEL, main, _MAX_NORM)


@dataclass(frozen=True)
class _Activation:
    """An activation, or dropout where it is the identity."""

    activation: str
    dropout: float = 0.0
    residual = False

    def tensors_moved(self) -> int:
        """x, y; x or y, dy, dx. Dropout alone reads no x in backward."""
        return 4 if self.activation == "identity" else 5

    def module(self, library: str, shape: tuple[int, ...]) -> nn.Module:
        """The layer in one library."""
        if self.activation == "identity" and self.dropout:
            return (nn if library == "torch" else fused_nn).Dropout(self.dropout)
        return activation(library, self.activation, self.dropout)


@dataclass(frozen=True)
class _Block:
    """Batch norm and what follows it."""

    activation: str
    dropout: float = 0.0
    residual: bool = False

    @property
    def title(self) -> str:
        """batch_norm+silu+residual+dropout"""
        parts = ["batch_norm", *([self.activation] if self.activation != "identity" else [])]
        return "+".join([*parts, *(["residual"] if self.residual else []), *(["dropout"] if self.dropout else [])])

    def tensors_moved(self) -> int:
        """x, y; x, dy, dx; with a residual also the residual in forward, its gradient, and, to recompute the activation, the residual."""
        return 5 + self.residual * (2 if self.activation == "identity" else 3)

    def module(self, library: str, shape: tuple[int, ...]) -> nn.Module:
        """The block in one library."""
        return batch_norm(library, 2 if len(shape) == 4 else 1, shape[1], self.activation, self.dropout)


def _blocks(activations: tuple[str, ...] = BLOCKS) -> Iterator[_Block]:
    for name, dropout, residual in product(activations, (0.0, 0.1), (False, True)):
        if not residual or name in FOLLOWERS:
            yield _Block(name, dropout, residual)


def _layer(title: str, shape: tuple[int, ...], dtype: str, channels_last: bool, what: _Activation | _Block) -> Case:
    """Forward and backward of one layer."""
    name = f"{title} {'x'.join(map(str, shape))} {dtype}" + (" channels_last" if channels_last else "")
    size = math.prod(shape)

    def build(device: torch.device, compile_too: bool) -> Contenders:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x, dy, shortcut = (torch.randn(shape, device=device).to(DTYPES[dtype]).contiguous(memory_format=layout) for _ in range(3))
        inputs = [x.requires_grad_(), *([shortcut.requires_grad_()] if what.residual else [])]
        models = {library: _cast(what.module(library, shape).to(device), DTYPES[dtype]) for library in LIBRARIES}
        copy_weights(models["torch"], models["fastlayers"])
        contenders = {"eager": models["torch"]}
        if compile_too:
            contenders["compile"] = torch.compile(models["torch"])
        contenders["ours"] = models["fastlayers"]
        return {library: _forward_backward(model, inputs, dy) for library, model in contenders.items()}

    return Case(name, what.tensors_moved() * size * DTYPES[dtype].itemsize, size, dtype, build)


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Parameters as a user of this dtype has them: batch norm keeps float32 ones for half types, PReLU must not."""
    for module in model.modules():
        if dtype == torch.float64 or not isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                value.data = value.data.to(dtype) if value.is_floating_point() else value.data
    return model


def _forward_backward(model: nn.Module, inputs: list[Tensor], dy: Tensor) -> Callable[[], object]:
    wanted = [*inputs, *model.parameters()]
    residual = {"residual": inputs[1]} if len(inputs) > 1 else {}

    def call() -> object:
        return torch.autograd.grad(model(inputs[0], **residual), wanted, dy)

    return call


def _optimizer(rule: str, title: str, sizes: tuple[int, ...], dtype: str, max_norm: float | None) -> Case:
    """One step over a list of parameters; eager is the fastest that torch.optim has: fused=True, or its default where there is none."""
    row = UPDATE_RULES[rule]
    options = {"momentum": 0.9} if rule == "sgd" else {}
    hyperparameters = [1e-3, 0.0, *(options.get(name, 0.0) for name in row.hyperparameters)]
    states = len(row.present_states(hyperparameters, [False] * (1 + len(row.flags))))
    sweeps = 3 + 2 * states + (max_norm is not None)  # the parameter twice, its gradient, each state twice; the norm reads the gradient
    name = f"{row.optimizer}{'+clip' if max_norm else ''} {title} {dtype}"

    def build(device: torch.device, compile_too: bool) -> Contenders:
        lists = [_parameters(sizes, DTYPES[dtype], device) for _ in LIBRARIES]
        eager = plain_optimizer(row, lists[0], lr=1e-3, **options)
        ours = getattr(fused_optim, row.optimizer)(lists[1], lr=1e-3, max_grad_norm=max_norm, **options)

        def eager_step() -> None:
            if max_norm is not None:
                nn.utils.clip_grad_norm_(lists[0], max_norm)
            eager.step()

        return {"eager": eager_step, "ours": ours.step}

    return Case(name, sweeps * sum(sizes) * DTYPES[dtype].itemsize, sum(sizes), dtype, build)


def _parameters(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    parameters = [torch.randn(size, device=device).to(dtype).requires_grad_() for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, device=device).to(dtype) * 1e-2
    return parameters
