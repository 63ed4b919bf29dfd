"""Kernels compiled before the first step."""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from . import checks
from .trials import device_of, random_state_kept, tensors_in


def warmup(model: nn.Module, *inputs: object, optimizer: Optimizer | None = None, **keywords: object) -> None:
    """Compile what a model takes for inputs like these, so that its first step is as fast as its second.

    A copy of the model goes through one forward pass, backward pass and step in training, and one forward pass in evaluation. Triton
    compiles a kernel when sizes and dtypes of a kind first come to it, a second or so each time, and must have done so before a CUDA
    graph is captured. The backends `cpp` and `cuda` have nothing to compile.

    Args:
        model: stays as it is: parameters, gradients, buffers, modes; so do torch's generators. While this runs there is a second
            one in memory. One that torch cannot copy, as DistributedDataParallel's, is to be warmed up before it is wrapped.
        inputs, keywords: what the model is called with. Shapes, dtypes and memory formats count, values do not.
        optimizer: of the model's parameters, or None; stays as it is, too.

    Raises:
        TypeError: ``warmup: model must be a torch.nn.Module, got function``; ``warmup: optimizer must be an Optimizer, got int``

    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    >>> warmup(model, torch.randn(2, 8))
    """
    checks.module("warmup", model)
    if optimizer is not None:
        checks.instance("warmup", "optimizer", optimizer, Optimizer)
    with random_state_kept(device_of(model, inputs, keywords)), torch.inference_mode(False), torch.enable_grad():
        twin, stepping = copy.deepcopy((model, optimizer))
        results = [y for y in tensors_in(_run(twin.train(), inputs, keywords)) if y.requires_grad]
        if results:
            torch.autograd.backward(results, [torch.zeros_like(y) for y in results])
        if stepping is not None:
            stepping.step()
        with torch.no_grad():
            _run(twin.eval(), inputs, keywords)


def _run(model: nn.Module, inputs: tuple, keywords: dict[str, object]) -> object:
    """The model's result; it may write into what it is given."""
    args, kwargs = tree_map_only(Tensor, lambda x: x.detach().clone().requires_grad_(x.requires_grad), (inputs, keywords))
    return model(*args, **kwargs)
