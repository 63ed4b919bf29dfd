"""What surrounds a call: a transform of torch.func, forward-mode differentiation, torch.jit.trace, a dispatch mode, a backward pass;
and tensors without memory of their own."""
from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.autograd import forward_ad

_transforms_active = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state
_any_autocast = torch._C._is_any_autocast_enabled
_graph_task = torch._C._current_graph_task_id


def transformed() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...), forward_ad.dual_level or torch.jit.trace is at work: the reference's
    operators are torch's, which they can follow, and save in a file."""
    return _transforms_active() or forward_ad._current_level >= 0 or _tracing() is not None


transformed._dynamo_marked_constant = True  # as torch.compiler.assume_constant_result does, without importing the compiler


def observed() -> bool:
    """Whether somebody records what runs, and sees operators, but no kernel called directly: a TorchDispatchMode, make_fx and
    FakeTensorMode among them."""
    return _modes() > 0


observed._dynamo_marked_constant = True


def autocasting() -> bool:
    """Whether torch.autocast is at work, for any kind of device."""
    return _any_autocast()


def recomputing() -> bool:
    """Whether a backward pass is running in this thread: a forward called then is activation checkpointing's second one."""
    return not torch.compiler.is_compiling() and _graph_task() != -1


def is_sharded(x: Tensor) -> bool:
    """Whether x is a DTensor. Where nobody has imported them, which takes a second, there are none."""
    if type(x) is Tensor:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def in_memory(x: Tensor) -> bool:
    """Whether x holds in memory what it stands for: not a lazily negated or zero one, nor one that autograd batches gradients with."""
    return not (x.is_neg() or x._is_zerotensor()) and (x.layout is not torch.strided or torch._C._has_storage(x))
