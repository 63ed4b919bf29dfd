"""Norms of gradients over launches and ranks: what max_grad_norm is held against."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..backends import select
from ..context import is_sharded
from .plan import Work

GradientNorm = Callable[[Sequence[Tensor]], Tensor]


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """The kernel of the backend that runs on these."""
    return select(grads[0]).gradient_norm(grads)


def total_norms(works: Iterable[Work], kernel: GradientNorm = gradient_norm) -> dict[int, Tensor]:
    """gradient_norm for each set of launches that share one: one launch for each device, dtype and sharding in it."""
    lists: dict[int, dict[tuple, tuple[Tensor, list[Tensor]]]] = {}
    for work in works:
        clipping = work.launch.clipping()
        if clipping is not None:
            for p, grad in zip(work.launch.params, work.grads, strict=True):
                key = (grad.device, grad.dtype, (p.device_mesh, p.placements) if is_sharded(p) else None)
                lists.setdefault(clipping[0], {}).setdefault(key, (p, []))[1].append(grad)
    return {number: _sum([over_ranks(kernel(grads), p) for p, grads in kinds.values()]) for number, kinds in lists.items()}


def over_ranks(value: Tensor, p: Tensor) -> Tensor:
    """The sum of what ranks found, each in its part of parameters that lie like p."""
    if is_sharded(p):
        from torch.distributed._functional_collectives import all_reduce

        for dimension, placement in enumerate(p.placements):
            if not placement.is_replicate():
                value = all_reduce(value, "sum", (p.device_mesh, dimension))
    return value


def _sum(values: list[Tensor]) -> Tensor:
    return sum((value.to(values[0].device) for value in values[1:]), values[0])


def on(value: Tensor | None, device: torch.device) -> Tensor | None:
    """value where kernels on this device can read it."""
    return value if value is None or value.device == device else value.to(device)
