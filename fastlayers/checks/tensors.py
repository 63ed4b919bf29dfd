"""Checks of tensors, and of the seeds that go with them: dtype, device, shape, memory."""
from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from ..reference.dtypes import HALF
from .values import OutOfRange, index

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_STRIDED = torch.strided


def tensor(operation: str, argument: str, value: object) -> None:
    """value is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{operation}: {argument} must be a Tensor, got {type(value).__name__}")


def floating(operation: str, x: Tensor) -> None:
    """x is strided and has one of the four dtypes that kernels take."""
    if type(x) is not Tensor:
        tensor(operation, "x", x)
    if x.dtype not in FLOATING:
        raise RuntimeError(f"{operation}: x must be float32, bfloat16, float16 or float64, got {dtype_name(x.dtype)}")
    if x.layout is not _STRIDED:
        raise RuntimeError(f"{operation}: x must be dense, got a {dtype_name(x.layout).lstrip('_')} tensor of shape {tuple(x.shape)}")
    if x.is_nested:
        raise RuntimeError(f"{operation}: x must be dense or jagged, got a nested tensor of layout torch.strided")


def real(operation: str, argument: str, value: Tensor) -> None:
    """value is a tensor of real numbers, whole ones or bools among them."""
    tensor(operation, argument, value)
    if value.is_complex():
        raise RuntimeError(f"{operation}: {argument} must hold real numbers, got {dtype_name(value.dtype)}")


def dimensions(operation: str, x: Tensor, allowed: Sequence[int]) -> None:
    """x has one of the allowed numbers of dimensions."""
    if x.dim() not in allowed:
        raise ValueError(f"{operation}: x must be {' or '.join(f'{n}-D' for n in allowed)}, got {x.dim()}-D of shape {tuple(x.shape)}")


def has_channels(operation: str, x: Tensor) -> None:
    """x has samples and channels, dimensions 0 and 1. Of another one SyncBatchNorm of torch raises a ValueError, dropout a RuntimeError."""
    if x.dim() < 2:
        raise OutOfRange(f"{operation}: x must be at least 2-D, got {x.dim()}-D of shape {tuple(x.shape)}")


def channel_dimension(operation: str, x: Tensor, channel_dim: int) -> int:
    """x has a dimension channel_dim; counted from the front, as kernels take it."""
    if type(channel_dim) is not int:
        channel_dim = index(operation, "channel_dim", channel_dim)
    if not -x.dim() <= channel_dim < x.dim():
        raise ValueError(f"{operation}: x must have a channel dimension {channel_dim}, got shape {tuple(x.shape)}")
    return channel_dim if channel_dim >= 0 else channel_dim + x.dim()


def channel_vectors(operation: str, x: Tensor, channel_dim: int, **vectors: Tensor | None) -> None:
    """Each vector is None or holds one number per channel of x, where x is, in x's dtype or the dtype it is computed in."""
    shape, dtype, device = (x.size(channel_dim),), x.dtype, x.device
    wide = torch.float32 if dtype is not torch.float64 else dtype
    try:
        for vector in vectors.values():  # this runs at every step: the reasons are looked for only when something is wrong
            if vector is not None and (
                    vector.shape != shape or (vector.dtype is not dtype and vector.dtype is not wide) or vector.device != device):
                break
        else:
            return
    except AttributeError:  # not a tensor
        pass
    for argument, vector in vectors.items():
        if vector is None:
            continue
        tensor(operation, argument, vector)
        if vector.shape != shape:
            raise RuntimeError(f"{operation}: {argument} must have shape {shape} for x of shape {tuple(x.shape)} with channels in "
                               f"dimension {channel_dim}, got {tuple(vector.shape)}")
        dtype_for(operation, argument, vector, x)
        on_device(operation, argument, vector, x)


def like_x(operation: str, argument: str, value: Tensor, x: Tensor) -> None:
    """value has x's shape, dtype and device."""
    tensor(operation, argument, value)
    if value.shape != x.shape:
        raise RuntimeError(f"{operation}: {argument} must have the shape of x, {tuple(x.shape)}, got {tuple(value.shape)}")
    if value.dtype != x.dtype:
        raise RuntimeError(f"{operation}: {argument} must have the dtype of x, {dtype_name(x.dtype)}, got {dtype_name(value.dtype)}")
    on_device(operation, argument, value, x)


def own_memory(operation: str, **vectors: Tensor) -> None:
    """A vector that is written to has a place in memory for each of its elements, which one made by expand() has not."""
    for argument, vector in vectors.items():
        if vector.stride() == (0,):
            raise RuntimeError(f"{operation}: {argument} must have memory for each channel, got {vector.numel()} views of one element")


def halves(operation: str, x: Tensor, dim: int) -> int:
    """x can be cut in two along dimension dim; counted from the front, as kernels take it."""
    if x.dim() == 0:
        raise RuntimeError(f"{operation}: x must have a dimension to be cut in two, got a 0-d tensor")
    if type(dim) is not int:
        dim = index(operation, "dim", dim)
    if not -x.dim() <= dim < x.dim():
        raise IndexError(f"{operation}: dim must be between {-x.dim()} and {x.dim() - 1} for x of shape {tuple(x.shape)}, got {dim}")
    if x.size(dim) % 2:
        raise RuntimeError(f"{operation}: x must have an even size along dim {dim}, got shape {tuple(x.shape)}")
    return dim if dim >= 0 else dim + x.dim()


def has_batch(operation: str, x: object) -> None:
    """A tensor of samples."""
    tensor(operation, "x", x)
    if x.dim() == 0:
        raise RuntimeError(f"{operation}: x must have the batch in dimension 0, got a 0-d tensor")


def batched_output(operation: str, y: object, batch: int) -> None:
    """A tensor with as many rows as the model was given."""
    tensor(operation, "the model's output", y)
    if y.dim() == 0 or y.size(0) != batch:
        raise RuntimeError(f"{operation}: the model's output must have the batch of {batch} in dimension 0, got shape {tuple(y.shape)}")


def seed(operation: str, value: object, x: Tensor) -> None:
    """A seed is an int that 64 bits hold, or a 0-d int64 tensor where x is."""
    if not isinstance(value, Tensor):
        if not isinstance(value, Integral):
            raise TypeError(f"{operation}: seed must be a 0-d int64 tensor or an int, got {type(value).__name__}")
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{operation}: seed must be between -2^63 and 2^63 - 1, got {value}")
        return
    if value.dtype != torch.int64 or value.dim() != 0:
        raise RuntimeError(
            f"{operation}: seed must be a 0-d int64 tensor or an int, got {dtype_name(value.dtype)} of shape {tuple(value.shape)}")
    on_device(operation, "seed", value, x)


def generator(operation: str, value: object, x: Tensor) -> None:
    """A torch.Generator of x's device."""
    if not isinstance(value, torch.Generator):
        raise TypeError(f"{operation}: generator must be a torch.Generator, got {type(value).__name__}")
    if value.device.type != x.device.type:
        raise RuntimeError(f"{operation}: generator must be on {x.device} like x, got one on {value.device}")


def one_source(operation: str, generator: object) -> None:
    """Nothing is drawn where a seed is given."""
    if generator is not None:
        raise ValueError(f"{operation}: generator must be None where seed is given, got both")


def channels_to_drop(operation: str, x: Tensor, wanted: Sequence[int], strict: bool) -> None:
    """The number of dimensions of channel dropout's x; unless strict, another one than wanted is only warned of, as in torch."""
    tensor(operation, "x", x)
    if x.dim() in wanted:
        return
    rule = f"{operation}: x must be {' or '.join(f'{n}-D' for n in wanted)}, got {x.dim()}-D of shape {tuple(x.shape)}"
    if strict:
        raise RuntimeError(rule)
    if not torch.compiler.is_compiling():  # which would break the graph
        warnings.warn(f"{rule}; torch will refuse it in the future, and so will fastlayers", stacklevel=_outside())


def _outside() -> int:
    """The stacklevel, for a check that warns, of the caller outside this package and torch.nn."""
    level = 3
    frame = sys._getframe(level)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("fastlayers.", "torch.nn.")):
        frame, level = frame.f_back, level + 1
    return level


def dtype_for(operation: str, argument: str, value: Tensor, x: Tensor) -> None:
    """value has x's dtype, or the one that half x is computed in."""
    if value.dtype == x.dtype:
        return
    if not (value.dtype == torch.float32 and x.dtype in HALF):
        wanted = dtype_name(x.dtype) if x.dtype in (torch.float32, torch.float64) else f"{dtype_name(x.dtype)} or float32"
        raise RuntimeError(f"{operation}: {argument} must be {wanted} for x of {dtype_name(x.dtype)}, got {dtype_name(value.dtype)}")


def on_device(operation: str, argument: str, value: Tensor, x: Tensor) -> None:
    """value is where x is."""
    if value.device != x.device:
        raise RuntimeError(f"{operation}: {argument} must be on {x.device} like x, got {value.device}")


def dtype_name(dtype: torch.dtype | torch.layout) -> str:
    """The name of a dtype, or of a layout, as errors say it."""
    return str(dtype).removeprefix("torch.")
