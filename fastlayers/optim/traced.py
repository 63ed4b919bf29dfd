"""A step while torch.compile traces it: custom ops in the graph, in place of calls that Dynamo cannot look into.

Dynamo does not trace a method ``_init_group`` of an optimizer but runs it, and maps the tensors that it puts into the lists it is
given to graph inputs. So everything that makes or sorts states happens there, and what is traced is plain: ops on those lists.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from ..specs import UpdateRule
from . import checks
from .norms import total_norms
from .plan import Group, Launch, Work, make_plan, next_seed

if TYPE_CHECKING:
    from .fused import FusedStep

Lists = tuple[list[Tensor], ...]
"""params, grads, states, scalars, masters, averages"""


def fill_lists(optimizer: FusedStep, group: Group, number: int, lists: Lists) -> int:
    """Put the tensors of launch ``number`` of a group into the lists; how many launches the group has.

    -1 if the graph cannot hold the step: tensors would have to be copied first, or a state that depends on being the first is new.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is not None:  # there has to be something to count in: what is assigned to an optimizer while tracing is lost
        skipped = optimizer._skipped
        optimizer._skipped = found_inf.new_zeros((), dtype=torch.int64) if skipped is None else skipped.to(found_inf.device)
    row = optimizer.rule(group)
    own_options = [own for other, own in zip(optimizer.param_groups, optimizer._group_options(), strict=True) if other is group]
    optimizer._check_gradients(optimizer._group_options())
    if row.first_matters(group) and any(
        p.grad is not None and row.is_first(row.states, optimizer.state.get(p, {})) for p in group["params"]
    ):
        return -1
    launches = make_plan([group], [row], own_options, optimizer.state).launches
    works = [launch.work() for launch in launches]
    if not all(work.params is launch.params and all(grad is p.grad for p, grad in zip(launch.params, work.grads, strict=True))
               for launch, work in zip(launches, works, strict=True)):
        return -1
    if number < len(works):
        for target, found in zip(lists, works[number][1:], strict=True):
            target.extend(found)
    return len(works)


def step(optimizer: FusedStep) -> bool:
    """The step as custom ops, one for each group, device and dtype; False if it has to be made outside of the graph."""
    checks.not_swapped(type(optimizer).__name__, "step", optimizer._swapped)
    works = []
    own_options = optimizer._group_options()
    for index, group in enumerate(optimizer.param_groups):
        number, count = 0, 1
        while number < count:
            lists = [], [], [], [], [], []
            count = optimizer._init_group(group, number, *lists)
            if count < 0:
                return False
            if lists[0]:
                launch = Launch(index, group, optimizer.rule(group), own_options[index], False, (), bool(lists[4]), lists[0])
                works.append(Work(launch, *lists))
            number += 1
    found_inf = getattr(optimizer, "found_inf", None)
    if found_inf is not None:
        optimizer._skipped.add_((found_inf != 0).to(torch.int64).reshape(()))
    for index, group in enumerate(optimizer.param_groups):
        if own_options[index].stochastic_rounding and group["params"]:
            next_seed(group, index)
    norms = total_norms(works, ops.gradient_norm)
    for work in works:
        work.launch.group = _scheduled_as_tensors(work.launch.group, work.launch.row, work.params[0].device)
        optimizer._launch(work, norms, ops.optimizer_step)
    return True


def _scheduled_as_tensors(group: Group, row: UpdateRule, device: torch.device) -> Group:
    """The group, with tensors for what schedulers change: a number is a constant of the graph, which each new one would compile anew.

    A number that says by being 0 that a state does not exist stays one where it is 0.
    """
    deciding = [need for _, need in row.optional_states]
    names = [one.name for one in row.numbers if one.beta is None]
    scheduled = {name: _as_tensor(group[name], device) for name in names
                 if name not in deciding or isinstance(group[name], Tensor) or group[name] != 0}
    if "betas" in group:
        scheduled["betas"] = tuple(_as_tensor(beta, device) for beta in group["betas"])
    return {**group, **scheduled}


def _as_tensor(value: float | Tensor, device: torch.device) -> Tensor:
    """A product, one of the few things that the compiler makes of a number without looking at it."""
    return value if isinstance(value, Tensor) else torch.ones((), dtype=torch.float64, device=device) * value
