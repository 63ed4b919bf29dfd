"""One optimizer step over a whole list of tensors in Triton, in one launch: loads and stores, whatever the update rule.

Functions and conventions are those of fastlayers/reference/optimizers.py; the rules are in optimizers.py. Lists reach the GPU as a
table of addresses, [arrays, n]: params, grads, states, scalars, masters, averages. What may be missing comes as a tuple of one or
none: Triton 3.5 and 3.6 cannot return None, nor have it in a tuple.
"""
from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import optimizers
from .dropout import half_word
from .launch import announce, device_guard
from .tensor_lists import BLOCK_BYTES, CHUNK, TYPES, array, tensor_lists

_ROUNDING_STREAM = tl.constexpr(2)  # Philox counter word 2 of stochastic rounding


@triton.jit
def _cast(values, DTYPE: tl.constexpr):
    """Scalars in another dtype."""
    result = ()
    for k in tl.static_range(len(values)):
        result = result + (values[k].to(DTYPE),)
    return result


@triton.jit
def _arrays(
    table, count, tensor, start, PARAM: tl.constexpr, STATE: tl.constexpr, STATES: tl.constexpr, SCALARS: tl.constexpr,
    MASTER: tl.constexpr, AVERAGE: tl.constexpr, ALIGNED: tl.constexpr,
):
    """(param, grad, states, masters, averages) of a chunk, one master and average or none; those of half types are float32."""
    WIDE: tl.constexpr = tl.float64 if tl.float64 == PARAM else tl.float32
    states = ()
    for k in tl.static_range(STATES):
        states = states + (array(table, 2 + k, count, tensor, start, STATE, ALIGNED),)
    masters, averages = (), ()
    if MASTER:
        masters = (array(table, 2 + STATES + SCALARS, count, tensor, start, WIDE, ALIGNED),)
    if AVERAGE:
        averages = (array(table, 2 + STATES + SCALARS + MASTER, count, tensor, start, WIDE, ALIGNED),)
    param = array(table, 0, count, tensor, start, PARAM, ALIGNED)
    return param, array(table, 1, count, tensor, start, PARAM, ALIGNED), states, masters, averages


@triton.jit
def _numbers_of(key, first_group, BLOCK: tl.constexpr):
    """(the 16-bit numbers of a block,), a row for each Philox counter, eight columns; () without a key."""
    if len(key) == 0:
        return ()
    else:
        group = first_group + tl.arange(0, BLOCK // 8)
        low, high = (group & 0xFFFFFFFF).to(tl.uint32), (group >> 32).to(tl.uint32)
        words = tl.philox(key[0], low, high, tl.zeros_like(low) + _ROUNDING_STREAM, tl.zeros_like(low))
        words = (words[0][:, None], words[1][:, None], words[2][:, None], words[3][:, None])
        return (half_word(words, tl.arange(0, 8)[None, :]).to(tl.uint32),)


@triton.jit
def _walk(seed, sizes, count, tensor, start, BLOCK: tl.constexpr):
    """((Philox key,), first counter of the chunk, offsets of a block): with a seed a block is a matrix, eight elements in a row."""
    if seed is None:
        return (), 0, tl.arange(0, BLOCK)
    else:
        offsets = tl.arange(0, BLOCK // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
        return (tl.load(seed),), (tl.load(sizes + count + tensor) + start) // 8, offsets


@triton.jit
def _rounded(value, numbers, STORAGE: tl.constexpr):
    """value as memory of this type keeps it: rounded to nearest, or to bfloat16 by the numbers, where there are any."""
    if len(numbers) == 0 or tl.bfloat16 != STORAGE:
        return value.to(STORAGE)
    else:
        cut = ((value.to(tl.uint32, bitcast=True) + numbers[0]) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        return tl.where(value != value, value.to(tl.bfloat16), cut)


@triton.jit
def _update_block(
    arrays, offsets, mask, numbers, factor, average_weight, values, RULE: tl.constexpr, FLAGS: tl.constexpr, COMPUTE: tl.constexpr
):
    """Load, update and store one block; mask is None where all of it exists. values: what RULE takes as its numbers."""
    param, grad, states, masters, averages = arrays
    STORAGE: tl.constexpr = param.dtype.element_ty
    p = tl.load(param + offsets, mask).to(COMPUTE)
    if len(masters) > 0:
        exact = tl.load(masters[0] + offsets, mask)
        p = tl.where(exact.to(STORAGE).to(COMPUTE) == p, exact, p)  # somebody may have changed the parameter
    g = tl.load(grad + offsets, mask).to(COMPUTE) * factor
    own = ()
    for k in tl.static_range(len(states)):
        own = own + (tl.load(states[k] + offsets, mask).to(COMPUTE),)
    p, own = RULE(p, g, own, values, FLAGS)
    if len(masters) == 0:
        kept = _rounded(p, numbers, STORAGE)
    else:
        kept = p.to(STORAGE)
        tl.store(masters[0] + offsets, p, mask)
    tl.store(param + offsets, kept, mask)
    for k in tl.static_range(len(states)):
        tl.store(states[k] + offsets, _rounded(own[k], numbers, states[k].dtype.element_ty), mask)
    if len(averages) > 0:
        mean = tl.load(averages[0] + offsets, mask)
        tl.store(averages[0] + offsets, mean + average_weight * (kept.to(COMPUTE) - mean), mask)


@triton.jit
def _double(parts, k: tl.constexpr):
    """Number k of those that came as three float32 each: kernels take no other floats."""
    high, middle, low = parts[3 * k], parts[3 * k + 1], parts[3 * k + 2]
    return tl.full((), high, tl.float64) + tl.full((), middle, tl.float64) + tl.full((), low, tl.float64)


@triton.jit
def _hyperparameters(parts, tensors):
    """[lr, weight_decay, ...] in float64; tensors[k] is empty, or holds the tensor that number k is in."""
    values = ()
    for k in tl.static_range(len(tensors)):
        if len(tensors[k]) > 0:
            values = values + (tl.load(tensors[k][0]).to(tl.float64),)
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
def _advance(table, row, count, tensor, tickets, chunks, numbers, ADVANCE: tl.constexpr, SCALARS: tl.constexpr):
    """What the tensor's scalars become, in float64. The last of its programs writes them, when all have read."""
    pointers, scalars = (), ()
    for k in tl.static_range(SCALARS):
        pointers = pointers + (array(table, row + k, count, tensor, 0, tl.float32, False),)
        scalars = scalars + (tl.load(pointers[k], volatile=True),)
    step = scalars[0] + 1.0
    if ADVANCE is None:
        scalars = (step,)
    else:
        scalars = ADVANCE(numbers, scalars, step)
    tl.debug_barrier()
    if tl.atomic_add(tickets + tensor, 1) == chunks - 1:
        for k in tl.static_range(SCALARS):
            tl.store(pointers[k], scalars[k])
        tl.store(tickets + tensor, 0)
    return _cast(scalars, tl.float64)


@triton.jit(do_not_specialize=["count"])
def optimizer_step_kernel(
    table, sizes, chunk_tensors, chunk_numbers, tickets, count, tensors, grad_scale, found_inf, norm, seed, parts,
    RULE: tl.constexpr, NUMBERS: tl.constexpr, ADVANCE: tl.constexpr, FLAGS: tl.constexpr, STATES: tl.constexpr, SCALARS: tl.constexpr,
    MASTER: tl.constexpr, AVERAGE: tl.constexpr, PARAM: tl.constexpr, STATE: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):
    if found_inf is not None:
        if tl.load(found_inf) != 0:
            return
    tensor = tl.load(chunk_tensors + tl.program_id(0))
    start = tl.load(chunk_numbers + tl.program_id(0)).to(tl.int64) * CHUNK
    size = tl.load(sizes + tensor)
    hyperparameters = _hyperparameters(parts, tensors)
    scalars = ()
    if SCALARS:
        chunks = tl.maximum(tl.cdiv(size, CHUNK), 1)
        scalars = _advance(table, 2 + STATES, count, tensor, tickets, chunks, hyperparameters, ADVANCE, SCALARS)
    values = _cast(NUMBERS(hyperparameters, scalars, FLAGS), COMPUTE)
    factor = _gradient_factor(grad_scale, norm, _double(parts, len(tensors)), FLAGS).to(COMPUTE)
    average_weight = _double(parts, len(tensors) + 1).to(COMPUTE)
    arrays = _arrays(table, count, tensor, start, PARAM, STATE, STATES, SCALARS, MASTER, AVERAGE, ALIGNED)
    key, group, offsets = _walk(seed, sizes, count, tensor, start, BLOCK)
    if start + CHUNK <= size:
        for first in range(0, CHUNK, BLOCK):
            numbers = _numbers_of(key, group + first // 8, BLOCK)
            _update_block(arrays, first + offsets, None, numbers, factor, average_weight, values, RULE, FLAGS, COMPUTE)
    else:
        rest = (size - start).to(tl.int32)
        for first in range(0, rest, BLOCK):
            numbers = _numbers_of(key, group + first // 8, BLOCK)
            _update_block(
                arrays, first + offsets, first + offsets < rest, numbers, factor, average_weight, values, RULE, FLAGS, COMPUTE)


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
    rule: str, params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Tensor], scalars: Sequence[Tensor],
    masters: Sequence[Tensor], averages: Sequence[Tensor], hyperparameters: Sequence[float], flags: Sequence[bool],
    tensors: Sequence[Tensor | None], grad_scale: Tensor | None, found_inf: Tensor | None, norm: Tensor | None, seed: Tensor | None,
    max_grad_norm: float, ema_decay: float,
) -> None:
    if not params:
        return
    arrays = [*params, *grads, *states, *scalars, *masters, *averages]
    lists = tensor_lists(arrays, params)
    kind = params[0].dtype
    announce(arrays)
    with device_guard(params[0]):
        optimizer_step_kernel[(lists.chunk_tensors.numel(),)](
            lists.table, lists.sizes, lists.chunk_tensors, lists.chunk_numbers, lists.tickets, len(params),
            tuple(() if tensor is None else (tensor,) for tensor in tensors or (None,) * len(hyperparameters)),
            grad_scale, found_inf, norm, seed,
            tuple(part for value in (*hyperparameters, max_grad_norm, 1 - ema_decay) for part in _split(value)),
            RULE=getattr(optimizers, rule), NUMBERS=getattr(optimizers, f"{rule}_numbers"),
            ADVANCE=getattr(optimizers, f"{rule}_scalars", None), FLAGS=tuple(flags), STATES=len(states) // len(params),
            SCALARS=len(scalars) // len(params), MASTER=len(masters) > 0, AVERAGE=len(averages) > 0, PARAM=TYPES[kind],
            STATE=TYPES[states[0].dtype if states else kind], COMPUTE=tl.float64 if kind == torch.float64 else tl.float32,
            ALIGNED=lists.aligned, BLOCK=BLOCK_BYTES // kind.itemsize, CHUNK=CHUNK, num_warps=4, enable_fp_fusion=True,
        )
    torch.autograd.graph.increment_version(params)  # no graph holds states and scalars
