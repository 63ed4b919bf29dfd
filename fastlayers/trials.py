"""Running a model for something else than its result, without a trace."""
from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def tensors_in(value: object) -> list[Tensor]:
    """All tensors of what a model takes or gives: a tensor, or containers of them."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def device_of(model: nn.Module, *inputs: object) -> torch.device:
    """Where a model computes: on the accelerator, if any of its tensors or its inputs is on one."""
    devices = [tensor.device for tensor in tensors_in([inputs, list(model.parameters()), list(model.buffers())])]
    return next((device for device in devices if device.type not in ("cpu", "meta")), torch.device("cpu"))


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """After the block torch's generators of the device and of the CPU are as they were before it."""
    if device.type == "cpu":
        return torch.random.fork_rng([])
    return torch.random.fork_rng(list(range(torch.get_device_module(device).device_count())), device_type=device.type)
