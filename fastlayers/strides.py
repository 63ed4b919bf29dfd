"""Tensors in the order of memory that kernels take them in."""
from __future__ import annotations

from torch import Tensor


def with_stride(value: Tensor | None, stride: tuple[int, ...]) -> Tensor | None:
    """value itself where it has these strides, else a copy that has: element i of memory is then the same one in both.

    Hooks on saved tensors may give back other strides than they were given; None is for what was not saved.
    Not to be called in a loop: Dynamo of torch 2.9 gives up where a gradient's strides are asked for in one.
    """
    if value is None or value.stride() == stride:
        return value
    return value.new_empty_strided(value.size(), stride).copy_(value)
