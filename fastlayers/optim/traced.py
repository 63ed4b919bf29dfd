"""A step while torch.compile traces it: custom ops in the graph, in place of calls that Dynamo cannot look into.

Dynamo does not trace a method ``_init_group`` of an optimizer but runs it, and maps the tensors that it puts into the lists it is
given to graph inputs. So everything that makes or sorts states happens there, and what is traced is plain: ops on those lists.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import checks, ops
from .plan import Group, flags, make_plan, numbers

if TYPE_CHECKING:
    from .fused import FusedStep

Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


def fill_lists(optimizer: FusedStep, group: Group, number: int, lists: Lists) -> int:
    """Put params, grads, states and steps of launch ``number`` of a group into the lists; how many launches the group has.

    -1 if the graph cannot hold the step: tensors would have to be copied first, or a state that depends on being the first is new.
    """
    row, name = optimizer.rule(group), type(optimizer).__name__
    for p in group["params"]:
        if p.grad is not None:
            checks.gradient(name, p)
    if "first" in row.flags and group["dampening"] != 0 and any(
        p.grad is not None and optimizer.state.get(p, {}).get(row.states[0]) is None for p in group["params"]
    ):
        return -1
    launches = make_plan([group], [row], optimizer.state).launches
    works = [launch.work() for launch in launches]
    if not all(work.targets is launch.params and all(grad is p.grad for p, grad in zip(launch.params, work.grads, strict=True))
               for launch, work in zip(launches, works, strict=True)):
        return -1
    if number < len(works):
        for target, tensors in zip(lists, (works[number].targets, *works[number][2:]), strict=True):
            target.extend(tensors)
    return len(works)


def step(optimizer: FusedStep) -> bool:
    """The step as custom ops, one for each group, device and dtype; False if it has to be made outside of the graph."""
    found = []
    for group in optimizer.param_groups:
        number, count = 0, 1
        while number < count:
            lists = [], [], [], []
            count = optimizer._init_group(group, number, *lists)
            if count < 0:
                return False
            if lists[0]:
                found.append((group, lists))
            number += 1
    norm = None
    if optimizer.max_grad_norm is not None:
        for _, (_, grads, _, _) in found:
            part = ops.gradient_norm(grads)
            norm = part if norm is None else norm + part.to(norm.device)
    for group, (params, grads, states, steps) in found:
        row, device = optimizer.rule(group), params[0].device
        lr = group["lr"] if isinstance(group["lr"], Tensor) else None
        scaling = [_on(value, device) for value in (
            lr, getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None), norm)]
        ops.optimizer_step(row.name, params, grads, states, steps, numbers(group, row), flags(group, row, False), *scaling,
                           optimizer.max_grad_norm or 0.0)
    return True


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return value if value is None else value.to(device)
