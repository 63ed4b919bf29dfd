"""Optimizer updates and gradient norms in Triton: one launch for a whole list of tensors.

Functions and conventions are those of fastlayers/reference/optimizers.py. An update rule is a pair of functions under its row's name:

    {name}_numbers(numbers, t, FLAGS)       what hyperparameters and step come to, float64 scalars: once a program
    {name}(p, g, states, numbers, FLAGS)    (p, states) of a block, in the dtype of the arithmetic

``numbers`` are [lr, weight_decay, ...], FLAGS (maximize, ...), as in specs.py; states holds those that exist.

Lists reach the GPU as a table of addresses, [2 + states + 1, n]: params, grads, states, steps. A program takes one chunk of one
tensor. Tables are kept for as long as addresses stay the same, which they do from step to step.
"""
from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import announce, device_guard

CHUNK = 8192  # elements of one program
_BLOCK_BYTES = 4096  # of one tensor in one pass of a program: at least 128 bits for each of 256 threads, four warps on AMD GPUs
_FINISH_BLOCK = 1024
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def sgd_numbers(numbers, t, FLAGS: tl.constexpr):
    return numbers[0], numbers[1], numbers[2], 1.0 - numbers[3]


@triton.jit
def sgd(p, g, states, numbers, FLAGS: tl.constexpr):
    lr, weight_decay, momentum, undamped = numbers
    NESTEROV: tl.constexpr = FLAGS[1]
    FIRST: tl.constexpr = FLAGS[2]
    g = tl.where(weight_decay != 0, g + weight_decay * p, g)  # 0 times an infinite p would be NaN
    if len(states) == 0:
        return p - lr * g, ()
    else:
        buffer = g
        if not FIRST:
            buffer = momentum * states[0] + undamped * g
        step = buffer
        if NESTEROV:
            step = g + momentum * buffer
        return p - lr * step, (buffer,)


@triton.jit
def adam_numbers(numbers, t, FLAGS: tl.constexpr):
    lr, weight_decay, beta1, beta2, eps = numbers
    step = lr / (1.0 - tl.exp2(t * tl.log2(beta1)))
    root_scale = 1.0 / tl.sqrt(1.0 - tl.exp2(t * tl.log2(beta2)))
    return step, weight_decay, 1.0 - beta1, beta2, 1.0 - beta2, root_scale, eps


@triton.jit
def adam(p, g, states, numbers, FLAGS: tl.constexpr):
    weight_decay = numbers[1]
    return _adam_update(p, g + weight_decay * p, states, numbers, FLAGS)


@triton.jit
def adamw_numbers(numbers, t, FLAGS: tl.constexpr):
    step, weight_decay, weight1, beta2, weight2, root_scale, eps = adam_numbers(numbers, t, FLAGS)
    return step, 1.0 - numbers[0] * weight_decay, weight1, beta2, weight2, root_scale, eps


@triton.jit
def adamw(p, g, states, numbers, FLAGS: tl.constexpr):
    decay = numbers[1]
    return _adam_update(p * decay, g, states, numbers, FLAGS)


@triton.jit
def _adam_update(p, g, states, numbers, FLAGS: tl.constexpr):
    step, _, weight1, beta2, weight2, root_scale, eps = numbers
    AMSGRAD: tl.constexpr = FLAGS[1]
    m = states[0] + weight1 * (g - states[0])
    v = beta2 * states[1] + weight2 * g * g
    if AMSGRAD:
        largest = tl.where(states[2] >= v, states[2], v)  # in this order a NaN is kept
        return p - step * (m / (tl.sqrt(largest) * root_scale + eps)), (m, v, largest)
    else:
        return p - step * (m / (tl.sqrt(v) * root_scale + eps)), (m, v)


@triton.jit
def _cast(values, DTYPE: tl.constexpr):
    """Scalars in another dtype."""
    result = ()
    for k in tl.static_range(len(values)):
        result = result + (values[k].to(DTYPE),)
    return result


@triton.jit
def _array(table, row, count, tensor, start, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointer to element ``start`` of an array in the table."""
    pointer = tl.load(table + row * count + tensor).to(tl.pointer_type(TYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + start


@triton.jit
def _arrays(
    table, count, tensor, start, PARAM: tl.constexpr, STATE: tl.constexpr, STATES: tl.constexpr, ALIGNED: tl.constexpr
):
    """(param, grad, states) of a chunk."""
    states = ()
    for k in tl.static_range(STATES):
        states = states + (_array(table, 2 + k, count, tensor, start, STATE, ALIGNED),)
    return _array(table, 0, count, tensor, start, PARAM, ALIGNED), _array(table, 1, count, tensor, start, PARAM, ALIGNED), states


@triton.jit
def _update_block(
    arrays, offsets, mask, factor, numbers, RULE: tl.constexpr, FLAGS: tl.constexpr, COMPUTE: tl.constexpr
):
    """Load, update and store one block; mask is None where all of it exists."""
    param, grad, states = arrays
    p = tl.load(param + offsets, mask).to(COMPUTE)
    g = tl.load(grad + offsets, mask).to(COMPUTE) * factor
    values = ()
    for k in tl.static_range(len(states)):
        values = values + (tl.load(states[k] + offsets, mask).to(COMPUTE),)
    p, values = RULE(p, g, values, numbers, FLAGS)
    tl.store(param + offsets, p.to(param.dtype.element_ty), mask)
    for k in tl.static_range(len(states)):
        tl.store(states[k] + offsets, values[k].to(states[k].dtype.element_ty), mask)


@triton.jit
def _double(parts, k: tl.constexpr):
    """Number k of those that came as three float32 each: kernels take no other floats."""
    high, middle, low = parts[3 * k], parts[3 * k + 1], parts[3 * k + 2]
    return tl.full((), high, tl.float64) + tl.full((), middle, tl.float64) + tl.full((), low, tl.float64)


@triton.jit
def _numbers(parts, lr):
    """[lr, weight_decay, ...] in float64."""
    values = ()
    for k in tl.static_range(len(parts) // 3 - 1):
        if k == 0 and lr is not None:
            values = values + (tl.load(lr).to(tl.float64),)
        else:
            values = values + (_double(parts, k),)
    return values


@triton.jit
def _gradient_factor(grad_scale, norm, max_grad_norm, FLAGS: tl.constexpr):
    """What every gradient is multiplied by: sign, 1 / grad_scale and clipping."""
    factor = tl.full((), 1.0, tl.float64)
    if grad_scale is not None:
        factor = 1.0 / tl.load(grad_scale).to(tl.float64)
    if norm is not None:
        ratio = max_grad_norm / (tl.sqrt(tl.load(norm)) * factor + 1e-6)
        factor = factor * tl.where(ratio > 1.0, 1.0, ratio)  # a NaN norm gives NaN, as torch's clamp does
    if FLAGS[0]:
        factor = -factor
    return factor


@triton.jit
def _advance(step, tickets, chunks):
    """Count a step: the last program of a tensor writes, when all of them have read."""
    tl.debug_barrier()
    if tl.atomic_add(tickets, 1) == chunks - 1:
        tl.store(step, tl.load(step) + 1.0)
        tl.store(tickets, 0)


@triton.jit(do_not_specialize=["count"])
def optimizer_step_kernel(
    table, sizes, chunk_tensors, chunk_numbers, tickets, count, lr, grad_scale, found_inf, norm, parts,
    RULE: tl.constexpr, NUMBERS: tl.constexpr, FLAGS: tl.constexpr, STATES: tl.constexpr, STEPS: tl.constexpr, PARAM: tl.constexpr,
    STATE: tl.constexpr, COMPUTE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    tensor = tl.load(chunk_tensors + tl.program_id(0))
    start = tl.load(chunk_numbers + tl.program_id(0)).to(tl.int64) * CHUNK
    size = tl.load(sizes + tensor)
    t = tl.full((), 1.0, tl.float64)
    if STEPS:
        step = _array(table, 2 + STATES, count, tensor, 0, tl.float32, False)
        t = tl.load(step, volatile=True).to(tl.float64) + 1.0
        _advance(step, tickets + tensor, tl.maximum(tl.cdiv(size, CHUNK), 1))
    numbers = _cast(NUMBERS(_numbers(parts, lr), t, FLAGS), COMPUTE)
    factor = _gradient_factor(grad_scale, norm, _double(parts, len(parts) // 3 - 1), FLAGS).to(COMPUTE)
    arrays = _arrays(table, count, tensor, start, PARAM, STATE, STATES, ALIGNED)
    if start + CHUNK <= size:
        for first in range(0, CHUNK, BLOCK):
            _update_block(arrays, first + tl.arange(0, BLOCK), None, factor, numbers, RULE, FLAGS, COMPUTE)
    else:
        rest = (size - start).to(tl.int32)
        for first in range(0, rest, BLOCK):
            offsets = first + tl.arange(0, BLOCK)
            _update_block(arrays, offsets, offsets < rest, factor, numbers, RULE, FLAGS, COMPUTE)


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
    grad = _array(table, 0, count, tensor, start, GRAD, ALIGNED)
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


class _Lists(NamedTuple):
    """What the kernels read about a list of tensors, on its device."""

    table: Tensor
    """int64 [arrays, n]: addresses."""
    sizes: Tensor
    """int64 [n]: elements of each tensor."""
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


_captured: list[_Lists] = []  # graphs may be replayed until the end


def _build_lists(addresses: tuple[int, ...], sizes: tuple[int, ...], device: torch.device) -> _Lists:
    chunks = torch.tensor([max(1, -(-size // CHUNK)) for size in sizes])  # an empty tensor has a step to count, too
    tensors = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(chunks)
    numbers = torch.arange(len(tensors)) - (chunks.cumsum(0) - chunks).repeat_interleave(chunks)
    tickets = torch.zeros(len(sizes), dtype=torch.int32)
    sources = torch.tensor(addresses), torch.tensor(sizes), tensors, numbers.to(torch.int32), tickets
    if device.type == "cuda":
        sources = tuple(source.pin_memory() for source in sources)
    aligned = all(address % 16 == 0 for address in addresses)
    return _Lists(*(source.to(device, non_blocking=True) for source in sources), aligned, sources)


_kept_lists = lru_cache(maxsize=64)(_build_lists)


def _lists(arrays: Sequence[Tensor], sized: Sequence[Tensor]) -> _Lists:
    """The lists for these arrays, made anew when an address has changed, and for every capture of a CUDA graph."""
    device = sized[0].device
    key = tuple(map(Tensor.data_ptr, arrays)), tuple(map(Tensor.numel, sized)), device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append(_build_lists(*key))
        return _captured[-1]
    return _kept_lists(*key)


def _split(value: float) -> tuple[float, float, float]:
    """A float64 as the sum of three float32."""
    parts = []
    for _ in range(3):
        part = _as_float32(value)
        parts.append(part)
        value = value - part if part - part == 0 else 0.0  # nothing is left of infinity
    return tuple(parts)


def _as_float32(value: float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def optimizer_step(
    rule: str, params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Tensor], steps: Sequence[Tensor],
    hyperparameters: Sequence[float], flags: Sequence[bool], lr: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None,
    norm: Tensor | None, max_grad_norm: float,
) -> None:
    if not params:
        return
    arrays = [*params, *grads, *states, *steps]
    lists = _lists(arrays, params)
    kind = params[0].dtype
    announce(arrays)
    with device_guard(params[0]):
        optimizer_step_kernel[(lists.chunk_tensors.numel(),)](
            lists.table, lists.sizes, lists.chunk_tensors, lists.chunk_numbers, lists.tickets, len(params), lr, grad_scale, found_inf,
            norm, tuple(part for value in (*hyperparameters, max_grad_norm) for part in _split(value)),
            RULE=globals()[rule], NUMBERS=globals()[f"{rule}_numbers"], FLAGS=tuple(flags), STATES=len(states) // len(params),
            STEPS=bool(steps), PARAM=_TYPES[kind], STATE=_TYPES[states[0].dtype if states else kind],
            COMPUTE=tl.float64 if kind == torch.float64 else tl.float32, ALIGNED=lists.aligned,
            BLOCK=_BLOCK_BYTES // kind.itemsize, CHUNK=CHUNK, num_warps=4, enable_fp_fusion=True,
        )
    torch.autograd.graph.increment_version(params)  # no graph holds states and steps


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    if not grads:
        return torch.zeros(2, dtype=torch.float64)
    lists, device = _lists(grads, grads), grads[0].device
    chunks = lists.chunk_tensors.numel()
    partials, result = (torch.empty(n, dtype=torch.float64, device=device) for n in (2 * chunks, 2))
    announce(grads)
    with device_guard(grads[0]):
        gradient_norm_kernel[(chunks,)](
            lists.table, lists.sizes, lists.chunk_tensors, lists.chunk_numbers, partials, len(grads), chunks,
            GRAD=_TYPES[grads[0].dtype], ALIGNED=lists.aligned, BLOCK=_BLOCK_BYTES // grads[0].dtype.itemsize, CHUNK=CHUNK,
            num_warps=4, enable_fp_fusion=True,
        )
        gradient_norm_finish[(1,)](partials, result, chunks, BLOCK=_FINISH_BLOCK, num_warps=4, enable_fp_fusion=True)
    return result
