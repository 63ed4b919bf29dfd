"""Running a model for something else than its result, without a trace."""
from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


def tensors_in(value: object) -> list[Tensor]:
    """All tensors of what a model takes or gives: a tensor, or containers of them."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """After the block torch's generators of the device and of the CPU are as they were before it."""
    if device.type == "cpu":
        return torch.random.fork_rng([])
    return torch.random.fork_rng(list(range(torch.get_device_module(device).device_count())), device_type=device.type)
