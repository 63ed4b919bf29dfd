"""What a step would do, tried on copies in float64: norms of gradients and updates, and how much of them rounding would undo."""
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..backends import select
from .norms import gradient_norm, on, over_ranks, total_norms
from .plan import Launch, Work, complete, flags, has_master, numbers

if TYPE_CHECKING:
    from .fused import FusedStep


class GroupDiagnostics(NamedTuple):
    """About one parameter group."""

    gradient_norm: float
    """The norm of the gradients as they are in ``p.grad``, before clipping."""
    update_norm: float
    """The norm of the change of the parameters, before it is rounded."""
    lost: float
    """The share of the updates that rounding to nearest undoes: they would be lost however often they are repeated."""


class Diagnostics(NamedTuple):
    """What ``diagnostics`` returns."""

    groups: list[GroupDiagnostics]
    skipped: int
    """Steps left out because found_inf said so."""


@torch.no_grad()
def of(optimizer: FusedStep) -> Diagnostics:
    """Diagnostics of the next step."""
    own_options = optimizer._group_options()
    optimizer._check_gradients(own_options)
    norms = total_norms(_works(optimizer))
    sums: list[dict[tuple, tuple[Tensor, Tensor]]] = [{} for _ in optimizer.param_groups]  # by sharding: (a parameter, four sums)
    for work in _works(optimizer):
        p = work.launch.params[0]
        key = work.params[0].device, getattr(p, "device_mesh", None), getattr(p, "placements", None)
        before = sums[work.launch.number].get(key)
        measured = _measure(work, norms)
        sums[work.launch.number][key] = p, measured if before is None else before[1] + measured
    zero = torch.zeros(4, dtype=torch.float64, device="cpu")
    groups = [sum((over_ranks(value, p).cpu() for p, value in kinds.values()), zero) for kinds in sums]
    return Diagnostics(
        [GroupDiagnostics(grads.sqrt().item(), updates.sqrt().item(), (lost / count.clamp_min(1)).item())
         for grads, updates, lost, count in groups],
        0 if optimizer._skipped is None else int(optimizer._skipped))


def _works(optimizer: FusedStep) -> Iterator[Work]:
    """A launch for every parameter with a gradient, with states that the optimizer does not have yet made for it."""
    for number, (group, own_options) in enumerate(zip(optimizer.param_groups, optimizer._group_options(), strict=True)):
        row = optimizer.rule(group)
        names = row.present_states(numbers(group, row), flags(group, row, False))
        for p in group["params"]:
            if p.grad is not None:
                own = dict(optimizer.state.get(p, {}))
                first = row.is_first(names, own)
                complete(own, p, group, row, names, own_options)
                yield Launch(number, group, row, own_options, first, names, has_master(p, own_options), [p], [own], direct=False).work()


def _measure(work: Work, norms: dict[int, Tensor]) -> Tensor:
    """Sums over one parameter: squares of its gradient, squares of its update, updates lost, updates."""
    launch, (p,), device = work.launch, work.params, work.params[0].device
    kept = torch.float32 if work.masters else p.dtype
    old = p.double()
    if work.masters:
        old = torch.where(work.masters[0].to(p.dtype) == p, work.masters[0].double(), old)
    exact = [[x.double() for x in tensors] for tensors in (work.grads, work.states)]
    new, (number, largest) = old.clone(), launch.clipping() or (None, 0.0)
    select(p).optimizer_step(
        launch.row.name, [new], *exact, [x.clone() for x in work.scalars], [], [], *launch.arguments(),
        [on(tensor, device) for tensor in launch.tensors()], None, None, None if number is None else on(norms[number], device), None,
        largest, 0.0)
    moved = new != old
    lost = moved & (new.to(kept).double() == old)
    if launch.options.stochastic_rounding and kept == torch.bfloat16:
        lost = torch.zeros_like(lost)
    return torch.stack([gradient_norm(work.grads)[0].to(device), (new - old).square().sum(), lost.sum().double(), moved.sum().double()])
