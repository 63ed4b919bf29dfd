"""Gated units y = dropout(a * activation(b)), a and b the halves of x along a dimension, and their gradients, in Triton.

Functions and conventions are those of fastlayers/reference/gated.py. One launch walks y [outer, inner] in memory order, in groups of
eight elements as tiles.py does, and finds each group's two places in x [outer, 2, inner]. Where inner is a multiple of eight all
accesses are whole groups ("ALIGNED"); elsewhere those of y and dy still are, and those of x and dx go element by element.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference
from ..reference.gated import empty_halved
from ..specs import ACTIVATIONS
from . import formulas, launch, reductions, tiles
from .dropout import dropout_key, keeps
from .epilogue import arguments_of, reaching
from .memory import or_reference


@triton.jit
def _row(n, length, multiplier, bits, ROWS: tl.constexpr):
    """Which row of ``length`` n lies in. ROWS: "one" there is only one, "many" n < 2^31 and length > 1, else "any"."""
    if ROWS == "one":
        return n * 0
    elif ROWS == "many":
        return tiles.divide(n, multiplier, bits)
    else:
        return n // length


@triton.jit
def _tiles(
    start, end, numel, length, multiplier, bits, GATE_FIRST: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr
):
    """The tiles (see tiles.py) of y, of a and of b for slots start .. start + GROUPS - 1 of y, ``end`` of which the program has.

    They have no row. length is that of a row of y: in groups of eight if ALIGNED, else in elements.
    """
    slot = start + tl.arange(0, GROUPS)
    column = tl.arange(0, 8)[None, :]
    offsets = (slot.to(tl.int64) * 8)[:, None] + column
    if ALIGNED:
        full = slot < end
        inside = full[:, None] & (column >= 0)
        first = slot + _row(slot, length, multiplier, bits, ROWS) * length
        second = ((first + length).to(tl.int64) * 8)[:, None] + column
        first = (first.to(tl.int64) * 8)[:, None] + column
    else:
        full = (slot < end) & (slot.to(tl.int64) * 8 + 8 <= numel)
        inside = (slot < end)[:, None] & (offsets < numel)
        first = offsets + _row(offsets, length, multiplier, bits, ROWS) * tl.cast(length, tl.int64)
        second = first + length
    if GATE_FIRST:
        return (slot, offsets, inside, full), (slot, second, inside, full), (slot, first, inside, full)
    else:
        return (slot, offsets, inside, full), (slot, first, inside, full), (slot, second, inside, full)


@triton.jit(do_not_specialize=["threshold", "slots", "chunk_slots", "numel", "length", "multiplier", "bits"])
def gated_forward_halves(
    x, y, parameters, seed, threshold, slots, chunk_slots, numel, length, multiplier, bits,
    ACTIVATION: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr, GATE_FIRST: tl.constexpr, ALIGNED: tl.constexpr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    arguments = arguments_of(parameters, 0, None, 1, LEARNABLE, False, CONSTANTS, False, COMPUTE)
    key = dropout_key(seed, threshold, None, None, None, COMPUTE)
    end = tl.minimum((tl.program_id(0) + 1) * chunk_slots, slots)
    for start in range(tl.program_id(0) * chunk_slots, end, GROUPS):
        out, value, gate = _tiles(start, end, numel, length, multiplier, bits, GATE_FIRST, ALIGNED, ROWS, GROUPS)
        result = tiles.load(x, value, None, False, COMPUTE) * ACTIVATION(tiles.load(x, gate, None, False, COMPUTE), arguments)
        if seed is not None:
            result = result * tl.where(keeps(key, out[0]), key[2], 0.0)
        tiles.store(y, result, out, not ALIGNED)


@triton.jit(do_not_specialize=["threshold", "slots", "chunk_slots", "numel", "length", "multiplier", "bits"])
def gated_backward_halves(
    dy, x, dx, partials, parameters, seed, threshold, slots, chunk_slots, numel, length, multiplier, bits,
    ACTIVATION: tl.constexpr, DERIVATIVE: tl.constexpr, FROM_OUTPUT: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr,
    DPARAMETERS: tl.constexpr, MASKS: tl.constexpr, GATE_FIRST: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr,
    GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    OTHER: tl.constexpr = 0.0 if DPARAMETERS > 0 else None  # what lies outside must not count
    arguments = arguments_of(parameters, 0, None, 1, LEARNABLE, False, CONSTANTS, False, COMPUTE)
    key = dropout_key(seed, threshold, None, None, None, COMPUTE)
    totals = reductions.zeros(DPARAMETERS, COMPUTE, GROUPS)
    end = tl.minimum((tl.program_id(0) + 1) * chunk_slots, slots)
    for start in range(tl.program_id(0) * chunk_slots, end, GROUPS):
        out, value, gate = _tiles(start, end, numel, length, multiplier, bits, GATE_FIRST, ALIGNED, ROWS, GROUPS)
        gradient = tiles.load(dy, out, OTHER, not ALIGNED, COMPUTE)
        if seed is not None:
            gradient = gradient * tl.where(keeps(key, out[0]), key[2], 0.0)
        b = tiles.load(x, gate, OTHER, False, COMPUTE)
        outer = gradient * tiles.load(x, value, OTHER, False, COMPUTE)
        activated = ACTIVATION(b, arguments)
        slopes = DERIVATIVE(activated if FROM_OUTPUT else b, arguments)
        if dx is not None:
            tiles.store(dx, gradient * activated, value, False)
            tiles.store(dx, reaching(outer, slopes[0], MASKS) * slopes[0], gate, False)
        sums = ()
        for k in tl.static_range(DPARAMETERS):
            sums += (tl.fma(outer, slopes[k + 1], totals[k]),)
        totals = sums
    reductions.store_sums(partials, totals, tl.program_id(0), tl.num_programs(0), 0, 1, DPARAMETERS, False, 1, 1, GROUPS)


def _dropout(seed: Tensor | None, p: float) -> tuple[Tensor | None, int]:
    """(seed, threshold) as kernels take them; no seed where nothing can be dropped."""
    return (None, 0) if seed is None or p == 0 else (seed, reference.dropout.threshold(p))


def _plan(x: Tensor, dim: int, sums: bool) -> tuple[launch.Plan, tuple[int, ...], dict[str, object]]:
    """(plan of a walk over y as one row, sizes and constexprs as the kernels take them)."""
    numel, inner = x.numel() // 2, x.size(dim) // 2 * x.stride(dim)
    plan = launch.plan(launch.Layout(1, 1, numel), x.dtype, sums)
    aligned = inner % 8 == 0
    length = inner // 8 if aligned else inner
    rows = "one" if numel == inner else "many" if length > 1 and (aligned or numel < 2**31) else "any"
    constants = plan.constants | {"ALIGNED": aligned, "ROWS": rows}
    del constants["ONE_ROW"]
    return plan, (*plan.sizes[:2], numel, length, *launch.reciprocal(length)), constants


@or_reference
def gated_forward(
    x: Tensor, parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, dim: int,
    gate_first: bool,
) -> Tensor:
    """y, with the dtype of x and half its size along ``dim``."""
    y = empty_halved(x, dim)
    if y.numel() == 0:
        return y
    plan, sizes, constexprs = _plan(x, dim, False)
    half = x.dtype.itemsize == 2
    with launch.device_guard(x):
        gated_forward_halves[plan.grid](
            x, y, parameters, *_dropout(seed, p), *sizes, ACTIVATION=formulas.function(activation, "", half), CONSTANTS=tuple(constants),
            LEARNABLE=launch.parameter_counts(parameters)[0], GATE_FIRST=gate_first, **constexprs)
    return y


@or_reference
def gated_backward(
    dy: Tensor, x: Tensor, parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float,
    dim: int, gate_first: bool, output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dparameters), None where output_mask says that nobody asks."""
    if x.numel() == 0:
        return reference.gated_backward(dy, x, parameters, seed, activation, constants, p, dim, gate_first, output_mask)
    want_dx, want_dparameters = output_mask
    learnable, _ = launch.parameter_counts(parameters)
    count = learnable if want_dparameters else 0
    plan, sizes, constexprs = _plan(x, dim, count > 0)
    half = x.dtype.itemsize == 2
    from_output = ACTIVATIONS[activation].derives_from_output(tuple(constants))  # f(b) is at hand, and this derivative the cheaper one
    dx = torch.empty_like(x) if want_dx else None
    partials = reductions.empty_partials(x, count, plan.chunks, 1) if count else None
    with launch.device_guard(x):
        gated_backward_halves[plan.grid](
            dy, x, dx, partials, parameters, *_dropout(seed, p), *sizes, ACTIVATION=formulas.function(activation, "", half),
            DERIVATIVE=formulas.function(activation, "derivative_from_output" if from_output else "derivative", half),
            FROM_OUTPUT=from_output, CONSTANTS=tuple(constants), LEARNABLE=learnable,
            DPARAMETERS=count, MASKS=ACTIVATIONS[activation].masks, GATE_FIRST=gate_first, **constexprs)
    return dx, reductions.finish(partials, 0)[0].view(parameters.shape) if count else None
