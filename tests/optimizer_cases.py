"""What the optimizer tests share: every rule with every option at a value that is not its default, and where it runs."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastlayers.reference import optimizers as reference
from fastlayers.specs import UPDATE_RULES


@dataclass(frozen=True)
class Step:
    """One rule with its numbers and flags as kernels take them."""

    rule: str
    hyperparameters: tuple[float, ...]
    flags: tuple[bool, ...]

    @property
    def states(self) -> int:
        return len(UPDATE_RULES[self.rule].present_states(self.hyperparameters, self.flags))

    def __str__(self) -> str:
        return "-".join([self.rule, *map(str, self.hyperparameters), *(str(flag)[0] for flag in self.flags)])


STEPS = (
    Step("sgd", (0.1, 0.0, 0.0, 0.0), (False, False, False)),
    Step("sgd", (0.1, 0.2, 0.9, 0.0), (False, False, False)),
    Step("sgd", (0.1, 0.0, 0.9, 0.3), (True, False, False)),
    Step("sgd", (0.1, 0.0, 0.9, 0.3), (False, False, True)),
    Step("sgd", (0.1, 0.2, 0.9, 0.0), (False, True, False)),
    Step("adam", (0.01, 0.0, 0.9, 0.999, 1e-8), (False, False)),
    Step("adam", (0.01, 0.2, 0.8, 0.99, 1e-6), (True, True)),
    Step("adam", (0.01, 0.0, 0.0, 0.5, 1e-3), (False, False)),
    Step("adamw", (0.01, 0.01, 0.9, 0.999, 1e-8), (False, False)),
    Step("adamw", (0.01, 0.2, 0.8, 0.99, 1e-6), (True, True)),
)


@dataclass
class Lists:
    """Arguments of optimizer_step."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[Tensor]
    steps: list[Tensor]

    def written(self) -> list[Tensor]:
        return [*self.params, *self.states, *self.steps]

    def every(self) -> list[Tensor]:
        return [*self.written(), *self.grads]

    def map(self, function) -> Lists:
        return Lists(*([function(x) for x in tensors] for tensors in (self.params, self.grads, self.states, self.steps)))


def lists(step: Step, sizes: Sequence[int], dtype: torch.dtype, state_dtype: torch.dtype | None = None, device: object = "cpu") -> Lists:
    """Random tensors; second moments are at least 0.1, so that no update is many times larger than its gradient."""
    params = [torch.randn(size, device=device).to(dtype) for size in sizes]
    grads = [torch.randn(size, device=device).to(dtype) for size in sizes]
    states = [torch.rand(size, device=device).add(0.1).to(state_dtype or dtype) for _ in range(step.states) for size in sizes]
    counted = UPDATE_RULES[step.rule].counts_steps
    return Lists(params, grads, states, [torch.tensor(float(3 * i), device=device) for i in range(len(sizes))] if counted else [])


def oracle(step: Step, before: Lists, *options: object) -> Lists:
    """The same step in float64."""
    after = before.map(lambda x: x.cpu().double())
    options = [option.cpu() if isinstance(option, Tensor) else option for option in options]
    reference.optimizer_step(step.rule, after.params, after.grads, after.states, after.steps, step.hyperparameters, step.flags, *options)
    return after
