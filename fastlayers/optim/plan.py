"""What one optimizer step launches: the parameters with gradients, sorted into lists that one kernel takes.

Sorting costs a few microseconds a parameter, so a plan is kept from step to step. It holds parameters and state dictionaries,
never addresses or gradients: those are read anew at every step, so nothing can be stale. ``Plan.is_current`` notices everything
else that would change the sorting.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..specs import UpdateRule
from .layout import gradients_if_ready, in_order_of, is_dense

Group = dict[str, Any]


@dataclass(slots=True)
class Launch:
    """Parameters of one group that one kernel launch updates: same device, same dtypes, same states."""

    group: Group
    row: UpdateRule
    first: bool
    """Whether the states hold nothing yet; only for rows with that flag."""
    names: tuple[str, ...]
    """The states that exist."""
    params: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    dense: bool = True
    """False if a parameter has gaps in its memory: kernels then work on a copy of it."""

    def work(self) -> Work | None:
        """What the kernel is to work on now, in the memory order of the parameters; None if the plan is out of date."""
        states = [state[name] for name in self.names for state in self.states]
        steps = [state["step"] for state in self.states] if self.row.counts_steps else []
        grads = gradients_if_ready(self.params, states, steps) if self.dense else None
        if grads is not None:
            return Work(self, self.params, grads, states, steps)
        return self._work_on_copies(states, steps)

    def _work_on_copies(self, states: list[Tensor], steps: list[Tensor]) -> Work | None:
        """The same where parameters have gaps in their memory or gradients lie in another order: those are copied."""
        grads, count = [p.grad for p in self.params], len(self.params)
        if any(grad is None for grad in grads):
            return None
        for p in self.params:
            checks.gradient(self.row.optimizer, p)
        targets = [p if is_dense(p) else p.clone(memory_format=torch.contiguous_format) for p in self.params]
        fitting = [in_order_of(state, targets[k % count], states[0].dtype) is state for k, state in enumerate(states)]
        if not all(fitting) or any(step.dtype != torch.float32 or step.device != p.device for step, p in zip(steps, targets, strict=False)):
            return None
        return Work(self, targets, [in_order_of(grad, target) for grad, target in zip(grads, targets, strict=True)], states, steps)

    def arguments(self) -> tuple[list[float], list[bool]]:
        """hyperparameters and flags of the group as they are now."""
        return numbers(self.group, self.row), flags(self.group, self.row, self.first)

    def native(self) -> tuple[object, ...]:
        """The launch as the C++ extension's step_launches takes it."""
        hyperparameters, switches = self.arguments()
        if isinstance(self.group["lr"], Tensor):
            hyperparameters[0] = self.group["lr"].item()
        return self.row.name, self.params, self.states, self.names, hyperparameters, switches


class Work(NamedTuple):
    """The tensors of a launch."""

    launch: Launch
    targets: list[Tensor]
    """The parameters, or copies without gaps."""
    grads: list[Tensor]
    states: list[Tensor]
    """State-major, as kernels take them."""
    steps: list[Tensor]

    def write_back(self) -> None:
        """Bring what was worked on as a copy back to the parameters."""
        for p, target in zip(self.launch.params, self.targets, strict=True):
            if p is not target:
                p.copy_(target)


@dataclass(slots=True)
class Plan:
    """The launches of a step, and what they were derived from."""

    launches: list[Launch]
    groups: list[Group]
    rows: list[UpdateRule]
    members: list[list[Tensor]]
    """The parameters of each group."""
    idle: list[Tensor]
    """Those without a gradient."""
    states: list[dict[str, Tensor]]
    """All values of the optimizer's ``state``."""

    def is_current(self, groups: list[Group], rows: list[UpdateRule], state: dict[Tensor, dict[str, Tensor]]) -> bool:
        """Whether groups, parameters and state dictionaries are the same objects, and nothing idle has got a gradient."""
        return (
            _same(self.groups, groups)
            and _same(self.rows, rows)
            and _same(self.states, state.values())
            and all(_same(group["params"], members) for group, members in zip(groups, self.members, strict=True))
            and all(p.grad is None for p in self.idle)
            and all(launch.names == launch.row.present_states(*launch.arguments()) for launch in self.launches)
        )


def _same(one: Collection[object], other: Collection[object]) -> bool:
    """Whether both hold the same objects in the same order."""
    return len(one) == len(other) and all(map(is_, one, other))


def numbers(group: Group, row: UpdateRule) -> list[float]:
    """[lr, weight_decay, ...] as kernels take them; lr is 0 where it is a tensor, which kernels read themselves."""
    lr, betas = group["lr"], group.get("betas", ())
    values = [float(betas[int(name[4:]) - 1]) if name.startswith("beta") else float(group[name]) for name in row.hyperparameters]
    return [0.0 if isinstance(lr, Tensor) else float(lr), float(group["weight_decay"]), *values]


def flags(group: Group, row: UpdateRule, first: bool) -> list[bool]:
    """[maximize, ...] as kernels take them."""
    return [bool(group["maximize"]), *(first if name == "first" else bool(group[name]) for name in row.flags)]


def make_plan(groups: list[Group], rows: list[UpdateRule], state: dict[Tensor, dict[str, Tensor]]) -> Plan:
    """Sort what has a gradient into launches; make the states that do not exist yet."""
    launches: dict[tuple, Launch] = {}
    for number, (group, row) in enumerate(zip(groups, rows, strict=True)):
        names = row.present_states(numbers(group, row), flags(group, row, False))
        for p in group["params"]:
            if p.grad is None:
                continue
            own = state[p] if names or row.counts_steps else {}
            first = "first" in row.flags and bool(names) and own.get(names[0]) is None
            _complete(own, p, row, names)
            key = (number, p.device, p.dtype, own[names[0]].dtype if names else None, first)
            launch = launches.setdefault(key, Launch(group, row, first, names))
            launch.params.append(p)
            launch.states.append(own)
            launch.dense = launch.dense and is_dense(p)
    members = [list(group["params"]) for group in groups]
    idle = [p for params in members for p in params if p.grad is None]
    return Plan(list(launches.values()), list(groups), rows, members, idle, list(state.values()))


def _complete(own: dict[str, Tensor], p: Tensor, row: UpdateRule, names: tuple[str, ...]) -> None:
    """Make p's missing states; bring the others, which may come from a checkpoint, to p's device and memory order.

    States are of p's dtype, or of float32 if p is a half type and any of them is float32.
    """
    if row.counts_steps:
        step = own.get("step", 0.0)
        if not isinstance(step, Tensor) or step.device != p.device or step.dtype != torch.float32:
            own["step"] = torch.as_tensor(step, dtype=torch.float32, device=p.device)
    half = p.dtype in (torch.float16, torch.bfloat16)
    existing = [own[name].dtype for name in names if own.get(name) is not None]
    dtype = torch.float32 if half and torch.float32 in existing else p.dtype
    model = p if is_dense(p) else torch.empty_like(p, memory_format=torch.contiguous_format)
    for name in names:
        if own.get(name) is None:
            own[name] = torch.zeros_like(model, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
        else:
            own[name] = in_order_of(own[name].to(p.device), model, dtype)
