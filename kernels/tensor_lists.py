"""Lists of tensors for kernels that walk all of them in one launch: a table of addresses, and which chunk each program takes.

A program takes one chunk of one tensor. Tables are kept for as long as addresses stay the same, which they do from step to step.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 8192  # elements of one program
BLOCK_BYTES = 4096  # of one tensor in one pass of a program: at least 128 bits for each of 256 threads, four warps on AMD GPUs
TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def array(table, row, count, tensor, start, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointer to element ``start`` of an array in the table."""
    pointer = tl.load(table + row * count + tensor).to(tl.pointer_type(TYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + start


class TensorLists(NamedTuple):
    """What the kernels read about a list of tensors, on its device."""

    table: Tensor
    """int64 [arrays, n]: addresses."""
    sizes: Tensor
    """int64 [2, n]: elements of each tensor; those of the tensors before it, each rounded up to a multiple of 8."""
    chunk_tensors: Tensor
    """int32 [chunks]: the tensor that a program works on."""
    chunk_numbers: Tensor
    """int32 [chunks]: which chunk of it."""
    tickets: Tensor
    """int32 [n], zero between launches: programs that have read the tensor's step."""
    aligned: bool
    """Whether all addresses are multiples of 16."""
    sources: tuple[Tensor, ...]
    """The host memory that these were copied from: a CUDA graph reads it again at every replay."""


_captured: list[TensorLists] = []  # graphs may be replayed until the end


def _build_lists(addresses: tuple[int, ...], sizes: tuple[int, ...], device: torch.device, stream: int | None) -> TensorLists:
    """Copied on the current stream, ``stream``: another one knows neither when they have come nor when they may go."""
    with torch.device("cpu"):  # whatever torch.set_default_device says
        chunks = torch.tensor([max(1, -(-size // CHUNK)) for size in sizes])  # an empty tensor has a step to count, too
        tensors = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(chunks)
        numbers = torch.arange(len(tensors)) - (chunks.cumsum(0) - chunks).repeat_interleave(chunks)
        tickets = torch.zeros(len(sizes), dtype=torch.int32)
        numel = torch.tensor(sizes)
        rounded = (numel + 7) // 8 * 8
        sources = torch.tensor(addresses), torch.stack([numel, rounded.cumsum(0) - rounded]), tensors, numbers.to(torch.int32), tickets
    if device.type == "cuda":
        sources = tuple(source.pin_memory() for source in sources)
    aligned = all(address % 16 == 0 for address in addresses)
    return TensorLists(*(source.to(device, non_blocking=True) for source in sources), aligned, sources)


_kept_lists = lru_cache(maxsize=64)(_build_lists)


def tensor_lists(arrays: Sequence[Tensor], sized: Sequence[Tensor]) -> TensorLists:
    """The lists for these arrays, made anew when an address has changed, and for every capture of a CUDA graph."""
    device = sized[0].device
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
    key = tuple(map(Tensor.data_ptr, arrays)), tuple(map(Tensor.numel, sized)), device, stream
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append(_build_lists(*key))
        return _captured[-1]
    return _kept_lists(*key)
