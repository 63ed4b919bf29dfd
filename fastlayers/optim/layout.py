"""Memory layouts of parameters, gradients and states: kernels walk all of them in one memory order."""
from __future__ import annotations

import torch
from torch import Tensor

from ..backends import extension


def is_dense(x: Tensor) -> bool:
    """Whether x fills its memory without gaps or overlaps, in any order of its dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1):
        if stride != expected:
            return x.numel() == 0
        expected *= size
    return True


def same_order(x: Tensor, model: Tensor) -> bool:
    """Whether x and model, of one shape, are laid out alike; strides of dimensions of size 1 mean nothing."""
    if x.stride() == model.stride():
        return True
    strides = zip(x.stride(), model.stride(), model.shape, strict=True)
    return model.numel() == 0 or all(a == b for a, b, size in strides if size != 1)


def in_order_of(x: Tensor, model: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x itself, or a copy of it in the memory order and, if given, the dtype wanted."""
    dtype = dtype or x.dtype
    if x.dtype == dtype and same_order(x, model):
        return x
    return torch.empty_strided(model.size(), model.stride(), dtype=dtype, device=x.device).copy_(x)


def gradients_if_ready(params: list[Tensor], states: list[Tensor], steps: list[Tensor]) -> list[Tensor] | None:
    """The gradients, or None where one is missing or anything does not fit its parameter: kind, device, shape, memory order.

    states: state k of parameter i at k * n + i.
    """
    if extension is not None:
        return extension.gradients_if_ready(params, states, steps)
    grads, count = [p.grad for p in params], len(params)
    ready = (
        all(_fits(p, params[0].dtype, p) and _fits(grad, params[0].dtype, p) for p, grad in zip(params, grads, strict=True))
        and all(_fits(state, states[0].dtype, params[k % count]) for k, state in enumerate(states))
        and all(step.dtype == torch.float32 and step.device == p.device for p, step in zip(params, steps, strict=False))
    )
    return grads if ready else None


def _fits(x: Tensor | None, dtype: torch.dtype, p: Tensor) -> bool:
    return (x is not None and x.layout == torch.strided and x.dtype == dtype and x.device == p.device and x.shape == p.shape
            and same_order(x, p))
