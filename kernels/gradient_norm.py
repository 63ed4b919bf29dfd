"""The sum of squares of a whole list of gradients in Triton: one launch over all of them, and one that adds its partial sums."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import announce, device_guard
from .tensor_lists import BLOCK_BYTES, CHUNK, TYPES, array, tensor_lists

_FINISH_BLOCK = 1024


@triton.jit
def _add_squares(grad, offsets, mask, squares, invalid):
    if mask is None:
        value = tl.load(grad + offsets).to(tl.float64)
    else:
        value = tl.load(grad + offsets, mask, other=0.0).to(tl.float64)
    if grad.dtype.element_ty == tl.float64:
        invalid += value - value
    return squares + value * value, invalid


@triton.jit(do_not_specialize=["count", "chunks"])
def gradient_norm_kernel(
    table, sizes, chunk_tensors, chunk_numbers, partials, count, chunks, GRAD: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):
    """Each program leaves two numbers: the sum of squares of its chunk, and 0, or NaN if an element of it is not finite."""
    program = tl.program_id(0)
    tensor = tl.load(chunk_tensors + program)
    start = tl.load(chunk_numbers + program).to(tl.int64) * CHUNK
    size = tl.load(sizes + tensor)
    grad = array(table, 0, count, tensor, start, GRAD, ALIGNED)
    squares, invalid = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    if start + CHUNK <= size:
        for first in range(0, CHUNK, BLOCK):
            squares, invalid = _add_squares(grad, first + tl.arange(0, BLOCK), None, squares, invalid)
    else:
        rest = (size - start).to(tl.int32)
        for first in range(0, rest, BLOCK):
            offsets = first + tl.arange(0, BLOCK)
            squares, invalid = _add_squares(grad, offsets, offsets < rest, squares, invalid)
    total = tl.sum(squares)
    tl.store(partials + program, total)
    if tl.float64 == GRAD:  # whose squares may overflow although all elements are finite
        tl.store(partials + chunks + program, tl.sum(invalid))
    else:
        tl.store(partials + chunks + program, total - total)


@triton.jit(do_not_specialize=["chunks"])
def gradient_norm_finish(partials, result, chunks, BLOCK: tl.constexpr):
    """Adds the partials in a fixed order."""
    squares, invalid = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    for first in range(0, chunks, BLOCK):
        offsets = first + tl.arange(0, BLOCK)
        squares += tl.load(partials + offsets, offsets < chunks, other=0.0)
        invalid += tl.load(partials + chunks + offsets, offsets < chunks, other=0.0)
    tl.store(result, tl.sum(squares))
    tl.store(result + 1, (tl.sum(invalid) != 0).to(tl.float64))


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    if not grads:
        return torch.zeros(2, dtype=torch.float64)
    lists, device = tensor_lists(grads, grads), grads[0].device
    chunks = lists.chunk_tensors.numel()
    partials, result = (torch.empty(n, dtype=torch.float64, device=device) for n in (2 * chunks, 2))
    announce(grads)
    with device_guard(grads[0]):
        gradient_norm_kernel[(chunks,)](
            lists.table, lists.sizes, lists.chunk_tensors, lists.chunk_numbers, partials, len(grads), chunks,
            GRAD=TYPES[grads[0].dtype], ALIGNED=lists.aligned, BLOCK=BLOCK_BYTES // grads[0].dtype.itemsize, CHUNK=CHUNK,
            num_warps=4, enable_fp_fusion=True,
        )
        gradient_norm_finish[(1,)](partials, result, chunks, BLOCK=_FINISH_BLOCK, num_warps=4, enable_fp_fusion=True)
    return result
