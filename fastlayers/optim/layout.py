"""Memory layouts of parameters, gradients and states: kernels walk all of them in one memory order, and only this rank's part."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..autograd import common
from ..backends import extension
from ..context import in_memory, is_sharded
from ..reference.dtypes import accumulate_dtype


def local(x: Tensor) -> Tensor:
    """This rank's part of a DTensor; any other tensor itself."""
    return x.to_local() if is_sharded(x) else x


def local_gradient(p: Tensor) -> Tensor:
    """This rank's part of p's gradient, placed as p is."""
    grad = p.grad
    if is_sharded(p) and grad.placements != p.placements:
        grad = grad.redistribute(placements=p.placements)
    return local(grad)


def placed_like(value: Tensor, p: Tensor) -> Tensor:
    """value, a rank's part, as a DTensor where p is one."""
    if not is_sharded(p):
        return value
    return type(p).from_local(value, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())


def is_dense(x: Tensor) -> bool:
    """Whether kernels can walk x: its elements fill one block of memory, in any order; a lazily negated or zero tensor's are not there."""
    return in_memory(x) and common.is_dense(x)


def same_order(x: Tensor, model: Tensor) -> bool:
    """Whether x and model, of one shape, are laid out alike; strides of dimensions of size 1 mean nothing."""
    if x.stride() == model.stride():
        return True
    strides = zip(x.stride(), model.stride(), model.shape, strict=True)
    return model.numel() == 0 or all(a == b for a, b, size in strides if size != 1)


def in_order_of(x: Tensor, model: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x itself, or a copy of it in the memory order and, if given, the dtype wanted."""
    dtype = dtype or x.dtype
    if x.dtype == dtype and same_order(x, model) and in_memory(x):
        return x
    return torch.empty_strided(model.size(), model.stride(), dtype=dtype, device=x.device).copy_(x)


def gradients_if_ready(
    params: list[Tensor], states: list[Tensor], scalars: list[Tensor], masters: list[Tensor], averages: list[Tensor]
) -> list[Tensor] | None:
    """The gradients, or None where one is missing, a parameter has gaps or anything does not fit it: kind, device, shape, memory order.

    states and scalars: number k of parameter i at k * n + i.
    """
    if extension is not None:
        return extension.gradients_if_ready(params, states, scalars, masters, averages)
    grads = [p.grad for p in params]
    ready = all(_fits(p, params[0].dtype, p) and is_dense(p) and _fits(grad, params[0].dtype, p)
                for p, grad in zip(params, grads, strict=True))
    return grads if ready and fitting(params, states, scalars, masters, averages) else None


def fitting(
    params: Sequence[Tensor], states: Sequence[Tensor], scalars: Sequence[Tensor], masters: Sequence[Tensor], averages: Sequence[Tensor]
) -> bool:
    """Whether everything that belongs to the parameters has their device, shape and memory order, and the dtype that it must have."""
    count = len(params)
    return (
        all(_fits(state, states[0].dtype, params[k % count]) for k, state in enumerate(states))
        and all(scalar.dtype == torch.float32 and scalar.device == params[k % count].device for k, scalar in enumerate(scalars))
        and all(_fits(x, accumulate_dtype(p), p) for x, p in [*zip(masters, params, strict=False), *zip(averages, params, strict=False)])
    )


def _fits(x: Tensor | None, dtype: torch.dtype, p: Tensor) -> bool:
    return (x is not None and x.layout == torch.strided and in_memory(x) and x.dtype == dtype and x.device == p.device
            and x.shape == p.shape and same_order(x, p))
