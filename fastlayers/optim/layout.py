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


def matching_gradients(params: list[Tensor]) -> list[Tensor] | None:
    """The gradients, or None if one is missing or not laid out like its parameter."""
    if extension is not None:
        return extension.matching_gradients(params)
    grads = [p.grad for p in params]
    fits = all(g is not None and g.layout == torch.strided and g.dtype == p.dtype and same_order(g, p)
               for g, p in zip(grads, params, strict=True))
    return grads if fits else None
