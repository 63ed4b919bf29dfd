"""x from y = activation((x - mean) * scale + shift + residual), in Triton: for blocks that keep y in place of x.

Functions and conventions are those of fastlayers/reference/epilogue.py, access patterns those of tiles.py.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import inverses, launch, tiles
from .epilogue import arguments_of, channel_vectors
from .memory import or_reference


@triton.jit
def _inverse_tile(
    y, x, residual, tile, shift, vectors, arguments, INVERSE: tl.constexpr, EDGES: tl.constexpr, COMPUTE: tl.constexpr,
):
    centre, slope, offset = vectors
    z = INVERSE(tiles.load(y, tile, None, EDGES, COMPUTE), arguments)
    if residual is not None:
        z = z - tiles.load(residual, tile, None, EDGES, COMPUTE)
    if shift is not None:
        z = z - offset
    tiles.store(x, tl.fma(z, tl.broadcast_to(1.0 / slope, z.shape), tl.broadcast_to(centre, z.shape)), tile, EDGES)


@triton.jit(do_not_specialize=["slots", "chunk_slots", "chunks", "channels", "length", "row_groups", "multiplier", "bits"])
def epilogue_inverse_contiguous(
    y, x, residual, mean, scale, shift, parameters, slots, chunk_slots, chunks, channels, length, row_groups, multiplier, bits,
    INVERSE: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr, PER_CHANNEL: tl.constexpr,
    ONE_ROW: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    program = tl.program_id(0)
    channel = 0 if ONE_ROW else program % channels
    chunk = program if ONE_ROW else program // channels
    vectors = channel_vectors(mean, scale, None, shift, channel, None, False)
    arguments = arguments_of(parameters, channel, None, channels, LEARNABLE, PER_CHANNEL, CONSTANTS, False, COMPUTE)
    end = tl.minimum((chunk + 1) * chunk_slots, slots)
    for start in range(chunk * chunk_slots, end, GROUPS):
        tile = tiles.contiguous_tile(start, end, channel, channels, length, row_groups, multiplier, bits, ONE_ROW, ALIGNED, GROUPS)
        _inverse_tile(y, x, residual, tile, shift, vectors, arguments, INVERSE, not ALIGNED, COMPUTE)


@triton.jit(do_not_specialize=["rows", "chunk_rows", "chunks", "channels", "blocks"])
def epilogue_inverse_channels_last(
    y, x, residual, mean, scale, shift, parameters, rows, chunk_rows, chunks, channels, blocks,
    INVERSE: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr, PER_CHANNEL: tl.constexpr,
    UNIT: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    program = tl.program_id(0)
    chunk = program // blocks
    column, channel, present = tiles.channels_last_columns(program % blocks, channels, UNIT, LANES, COLUMNS, GROUPS)
    vectors = channel_vectors(mean, scale, None, shift, channel, present, True)
    arguments = arguments_of(parameters, channel, present, channels // UNIT * UNIT, LEARNABLE, PER_CHANNEL, CONSTANTS, True, COMPUTE)
    end = tl.minimum((chunk + 1) * chunk_rows, rows)
    for start in range(chunk * chunk_rows, end, GROUPS // COLUMNS):
        tile = tiles.channels_last_tile(start, end, column, channel, present, channels, UNIT, LANES, COLUMNS, GROUPS)
        _inverse_tile(y, x, residual, tile, shift, vectors, arguments, INVERSE, False, COMPUTE)


@or_reference
def epilogue_inverse(
    y: Tensor, mean: Tensor, scale: Tensor, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, activation: str,
    constants: Sequence[float], channel_dim: int,
) -> Tensor:
    """x from y, without dropout."""
    x = torch.empty_like(y)
    if y.numel() == 0:
        return x
    learnable, columns = launch.parameter_counts(parameters)
    plan = launch.plan(launch.layout(y, channel_dim, True), y.dtype, False)
    kernel = epilogue_inverse_channels_last if plan.channels_last else epilogue_inverse_contiguous
    with launch.device_guard(y):
        kernel[plan.grid](
            y, x, residual, mean, scale, shift, parameters, *plan.sizes, INVERSE=getattr(inverses, f"{activation}_inverse"),
            CONSTANTS=tuple(constants), LEARNABLE=learnable, PER_CHANNEL=columns > 1, **plan.constants,
        )
    return x
