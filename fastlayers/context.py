"""What surrounds a call: a torch.func transform, a backward pass."""
from __future__ import annotations

import torch

_transforms_active = torch._C._are_functorch_transforms_active
_graph_task = torch._C._current_graph_task_id


def transformed() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) is at work: kernels cannot see through its tensors, the reference can."""
    return _transforms_active()


transformed._dynamo_marked_constant = True  # as torch.compiler.assume_constant_result does, without importing the compiler



def recomputing() -> bool:
    """Whether a backward pass is running in this thread: a forward called then is activation checkpointing's second one."""
    return not torch.compiler.is_compiling() and _graph_task() != -1
