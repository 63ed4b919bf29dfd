"""Averaged weights: the state "average" that ``ema_decay`` keeps, and swapping it with the parameters."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import checks

if TYPE_CHECKING:
    from .fused import FusedStep


class Swapped:
    """What ``swap_ema`` returns: its block sees the averages, and leaves in place what was there before."""

    def __init__(self, optimizer: FusedStep) -> None:
        self._optimizer = optimizer

    def __enter__(self) -> None:
        self._inside = not self._optimizer._swapped  # another such block: the call has brought the weights back
        if self._inside:
            swap(self._optimizer)

    def __exit__(self, *exception: object) -> None:
        if not self._inside:
            swap(self._optimizer)


def are_swapped(optimizer: FusedStep) -> bool:
    """Whether averages stand in the parameters' place: those then keep their own values as state "weights"."""
    return any("weights" in own for own in optimizer.state.values())


@torch.no_grad()
def swap(optimizer: FusedStep) -> Swapped:
    """Averages into the parameters, or the parameters' own values back.

    Parameters keep their memory, and averages their precision, which may be higher.
    """
    pairs: list[tuple[Tensor, dict[str, Tensor]]] = [(p, own) for p, own in optimizer.state.items() if "average" in own]
    checks.averages(type(optimizer).__name__, len(pairs))
    for p, own in pairs:
        if optimizer._swapped:
            p.copy_(own.pop("weights"))
        else:
            own["weights"] = p.detach().clone()
            p.copy_(own["average"])
    optimizer._swapped = not optimizer._swapped
    return Swapped(optimizer)
