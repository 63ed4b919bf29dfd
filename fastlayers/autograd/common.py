"""What the autograd functions share: what computes, and tensors as kernels take them."""
from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function

from .. import ops, reference
from ..backends import select
from ..context import is_sharded, observed
from ..specs import Activation


class KernelFunction(Function):
    """A Function whose apply is torch's without the part in Python, which small tensors feel.

    That part looks for torch.func transforms, under which no Function of this package is called (see composed.py), and unwraps tensors
    that have outlived a transform; the reference, which computes what kernels cannot read in memory, knows those.
    """

    apply = torch._C._FunctionBase.__dict__["apply"]


class Unrecorded:
    """The ctx of a forward that nobody will ask for gradients."""

    needs_input_grad = (False,) * 10

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps nothing."""


def recorded(function: type[KernelFunction], *arguments: object) -> Tensor:
    """function.apply, or its forward alone in torch.no_grad(), where small tensors would feel the rest of it."""
    if torch.is_grad_enabled() or observed():
        return function.apply(*arguments)
    return function.forward(Unrecorded(), *arguments)


def kernels_for(x: Tensor, activation: str) -> ModuleType:
    """What computes: the custom ops while compiling and where a dispatch mode wants to see what runs, else the chosen backend; of a
    DTensor the reference, for only operators of torch's know how it is cut."""
    if torch.compiler.is_compiling() or observed():
        return reference if is_sharded(x) else ops
    return select(x, activation)


def differentiable(kernels: ModuleType) -> ModuleType:
    """The forward's backend, or the reference where this backward pass is itself being differentiated."""
    return reference if torch.is_grad_enabled() and not torch.compiler.is_compiling() else kernels


def hands_on(row: Activation, p: float) -> bool:
    """Whether the gradient of y is that of what the activation is given, as it is: backward hands it on then, and copies nothing."""
    return row.name == "identity" and p == 0


def vector(values: Tensor | None, compute: torch.dtype) -> Tensor | None:
    """Per-channel numbers as kernels take them: in the dtype of the arithmetic, contiguous."""
    if values is None:
        return None
    if values.dtype is not compute:
        values = values.to(compute)
    return values if values.is_contiguous() else values.contiguous()


def finite_or_old(new: tuple[Tensor | None, ...], old: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """new (running mean, variance, number of batches), or old where any of the first two is not finite."""
    finite = torch.isfinite(new[0]).all() & torch.isfinite(new[1]).all()
    return tuple(None if value is None else torch.where(finite, value, kept) for value, kept in zip(new, old, strict=True))


def dense(x: Tensor) -> Tensor:
    """x itself where its elements fill one block of memory in any order of dimensions, else a copy that does."""
    return x if is_dense(x) else x.clone()


def is_dense(x: Tensor) -> bool:
    """Whether x's elements fill one block of memory, in any order of dimensions."""
    if x.is_contiguous():
        return True
    strides, sizes, expected = x.stride(), x.size(), 1
    for _ in sizes:  # not sorted: Dynamo cannot sort sizes that it keeps symbolic
        for stride, size in zip(strides, sizes, strict=True):
            if stride == expected and size != 1:
                expected *= size
                break
        else:
            break
    return expected == x.numel()
