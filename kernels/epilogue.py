"""The epilogue y = dropout(activation((x - mean) * scale + shift + residual)) + residual_after and its gradients, in Triton.

Functions and conventions are those of fastlayers/reference/epilogue.py. One launch walks the tensor once, by the access patterns of
tiles.py; sums over a channel leave one partial per program, which a second launch adds in a fixed order.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference
from ..specs import ACTIVATIONS
from . import formulas, launch, reductions, tiles
from .dropout import dropout_key, keeps, mask_place, outcome_bits, seed_value, uniform_number
from .memory import or_reference

_DROPOUT = ("threshold", "keep_scale", "keep_shift", "drop_value", "sample_rows")


@triton.jit
def arguments_of(parameters, channel, present, channels, LEARNABLE: tl.constexpr, PER_CHANNEL: tl.constexpr, CONSTANTS: tl.constexpr,
               CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr):
    """What the activation's functions take after x: learnable parameters, then constants."""
    values = ()
    for k in tl.static_range(LEARNABLE):
        if PER_CHANNEL:
            values += (tiles.channel_value(parameters + k * channels, channel, present, 0.0, CHANNELS_LAST),)
        else:
            values += (tl.load(parameters + k),)
    for k in tl.static_range(len(CONSTANTS)):
        values += (tl.full((), CONSTANTS[k], COMPUTE),)
    return values


@triton.jit
def _with_uniform(arguments, slope_seed, slope_key, place):
    """The arguments of a random activation: one more, the tile's uniform numbers."""
    if slope_seed is not None:
        return arguments + (uniform_number(slope_key, place),)
    else:
        return arguments


@triton.jit
def channel_vectors(mean, scale, weight, shift, channel, present, CHANNELS_LAST: tl.constexpr):
    """(mean, scale, shift) of the program's channels; scale is multiplied by weight where both are given."""
    centre = tiles.channel_value(mean, channel, present, 0.0, CHANNELS_LAST)
    slope = tiles.channel_value(scale, channel, present, 1.0, CHANNELS_LAST)
    if weight is not None:
        slope = slope * tiles.channel_value(weight, channel, present, 1.0, CHANNELS_LAST)
    return centre, slope, tiles.channel_value(shift, channel, present, 0.0, CHANNELS_LAST)


@triton.jit
def _pre_activation(
    x, residual, tile, mean, scale, shift, vectors, other: tl.constexpr, EDGES: tl.constexpr, COMPUTE: tl.constexpr
):
    """(z, x - mean) of a tile; the pointers say which parts there are, ``other`` what masked elements are loaded as."""
    centre, slope, offset = vectors
    centred = tiles.load(x, tile, other, EDGES, COMPUTE)
    if mean is not None:
        centred = centred - centre
    z = centred
    if scale is not None and shift is not None:
        z = tl.fma(z, tl.broadcast_to(slope, z.shape), tl.broadcast_to(offset, z.shape))
    elif scale is not None:
        z = z * slope
    elif shift is not None:
        z = z + offset
    if residual is not None:
        z = z + tiles.load(residual, tile, other, EDGES, COMPUTE)
    return z, centred


@triton.jit
def _forward_tile(
    x, y, residual, residual_after, tile, mean, scale, shift, seed, keep_shift, key, place, vectors, arguments,
    ACTIVATION: tl.constexpr, EDGES: tl.constexpr, COMPUTE: tl.constexpr,
):
    z, _ = _pre_activation(x, residual, tile, mean, scale, shift, vectors, None, EDGES, COMPUTE)
    value = ACTIVATION(z, arguments)
    if seed is not None:
        kept = keeps(key, place)
        value = value * tl.where(kept, key[2], 0.0)
        if keep_shift is not None:
            value = value + tl.where(kept, key[3], key[4])
    if residual_after is not None:
        value = value + tiles.load(residual_after, tile, None, EDGES, COMPUTE)
    tiles.store(y, value, tile, EDGES)


@triton.jit(do_not_specialize=[*_DROPOUT, "slots", "chunk_slots", "chunks", "channels", "length", "row_groups", "multiplier", "bits"])
def epilogue_forward_contiguous(
    x, y, residual, residual_after, mean, scale, weight, shift, parameters, seed, slope_seed, threshold, keep_scale, keep_shift,
    drop_value, sample_rows, slots, chunk_slots, chunks, channels, length, row_groups, multiplier, bits,
    ACTIVATION: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr, PER_CHANNEL: tl.constexpr,
    ONE_ROW: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    program = tl.program_id(0)
    channel = 0 if ONE_ROW else program % channels
    chunk = program if ONE_ROW else program // channels
    vectors = channel_vectors(mean, scale, weight, shift, channel, None, False)
    arguments = arguments_of(parameters, channel, None, channels, LEARNABLE, PER_CHANNEL, CONSTANTS, False, COMPUTE)
    key = dropout_key(seed, threshold, keep_scale, keep_shift, drop_value, COMPUTE)
    slope_key = seed_value(slope_seed)
    end = tl.minimum((chunk + 1) * chunk_slots, slots)
    for start in range(chunk * chunk_slots, end, GROUPS):
        tile = tiles.contiguous_tile(start, end, channel, channels, length, row_groups, multiplier, bits, ONE_ROW, ALIGNED, GROUPS)
        place = mask_place(tile, channel, channels, sample_rows, False, 8)
        drawn = _with_uniform(arguments, slope_seed, slope_key, mask_place(tile, channel, channels, None, False, 8))
        _forward_tile(x, y, residual, residual_after, tile, mean, scale, shift, seed, keep_shift, key, place, vectors, drawn,
                      ACTIVATION, not ALIGNED, COMPUTE)


@triton.jit(do_not_specialize=[*_DROPOUT, "rows", "chunk_rows", "chunks", "channels", "blocks"])
def epilogue_forward_channels_last(
    x, y, residual, residual_after, mean, scale, weight, shift, parameters, seed, slope_seed, threshold, keep_scale, keep_shift,
    drop_value, sample_rows, rows, chunk_rows, chunks, channels, blocks,
    ACTIVATION: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr, PER_CHANNEL: tl.constexpr,
    UNIT: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    program = tl.program_id(0)
    chunk = program // blocks
    column, channel, present = tiles.channels_last_columns(program % blocks, channels, UNIT, LANES, COLUMNS, GROUPS)
    vectors = channel_vectors(mean, scale, weight, shift, channel, present, True)
    arguments = arguments_of(parameters, channel, present, channels // UNIT * UNIT, LEARNABLE, PER_CHANNEL, CONSTANTS, True, COMPUTE)
    key = dropout_key(seed, threshold, keep_scale, keep_shift, drop_value, COMPUTE)
    slope_key = seed_value(slope_seed)
    end = tl.minimum((chunk + 1) * chunk_rows, rows)
    for start in range(chunk * chunk_rows, end, GROUPS // COLUMNS):
        tile = tiles.channels_last_tile(start, end, column, channel, present, channels, UNIT, LANES, COLUMNS, GROUPS)
        place = mask_place(tile, channel, channels, sample_rows, True, UNIT)
        drawn = _with_uniform(arguments, slope_seed, slope_key, mask_place(tile, channel, channels, None, True, UNIT))
        _forward_tile(x, y, residual, residual_after, tile, mean, scale, shift, seed, keep_shift, key, place, vectors, drawn,
                      ACTIVATION, False, COMPUTE)


@triton.jit
def _input_gradient(dz, centred, scale, mean_dz, vectors, batch_means):
    """dx from dz: through the scale and, where their means are given, through the batch's mean and variance too."""
    _, slope, _ = vectors
    if mean_dz is not None:
        constant, linear = batch_means
        inner = tl.fma(centred, tl.broadcast_to(linear, dz.shape), tl.broadcast_to(constant, dz.shape))
        return tl.fma(dz, tl.broadcast_to(slope, dz.shape), inner)
    elif scale is not None:
        return dz * slope
    else:
        return dz


@triton.jit
def _batch_means(mean_dz, mean_dz_centred, rstd, vectors, channel, present, CHANNELS_LAST: tl.constexpr):
    """(constant, linear): dx = scale dz + linear (x - mean) + constant, with -scale mean_dz and -scale rstd^2 mean_dz_centred."""
    _, slope, _ = vectors
    inverse = tiles.channel_value(rstd, channel, present, 1.0, CHANNELS_LAST)
    along = inverse * inverse * tiles.channel_value(mean_dz_centred, channel, present, 0.0, CHANNELS_LAST)
    return -slope * tiles.channel_value(mean_dz, channel, present, 0.0, CHANNELS_LAST), -slope * along


@triton.jit
def _add_sums(totals, dz, centred, gradient, slopes, DSHIFT: tl.constexpr, DSCALE: tl.constexpr, DPARAMETERS: tl.constexpr):
    """The accumulators after one more tile: dshift, dscale, dparameters, those that are wanted."""
    sums = ()
    if DSHIFT:
        sums += (totals[0] + dz,)
    if DSCALE:
        sums += (tl.fma(dz, centred, totals[DSHIFT]),)
    for k in tl.static_range(DPARAMETERS):
        sums += (tl.fma(gradient, slopes[k + 1], totals[DSHIFT + DSCALE + k]),)
    return sums


@triton.jit
def _inside(slopes, inside, FIRST: tl.constexpr, DPARAMETERS: tl.constexpr):
    """The slopes that enter sums, 0 outside; FIRST: that of x does."""
    result = (tl.where(inside, slopes[0], 0.0) if FIRST else slopes[0],)
    for k in tl.static_range(DPARAMETERS):
        result += (tl.where(inside, slopes[k + 1], 0.0),)
    return result


@triton.jit
def reaching(gradient, slope, MASKS: tl.constexpr):
    """The gradient of an activation's output as it is multiplied by the slope; MASKS where not even an infinite one passes a slope of 0."""
    return tl.where(slope == 0, 0.0, gradient) if MASKS else gradient


@triton.jit
def _backward_tile(
    dy, x, dx, dresidual, residual, tile, mean, scale, shift, mean_dz, seed, key, place, vectors, batch_means, arguments, totals,
    DERIVATIVE: tl.constexpr, FROM_OUTPUT: tl.constexpr, DSHIFT: tl.constexpr, DSCALE: tl.constexpr, DPARAMETERS: tl.constexpr,
    GUARDED: tl.constexpr, MASKS: tl.constexpr, EDGES: tl.constexpr, COMPUTE: tl.constexpr,
):
    """Write dx and dresidual; return the accumulators with the tile's terms added.

    What lies outside is 0, as x and as dy, and does not count; GUARDED where the activation may have no slope at such an x.
    """
    OTHER: tl.constexpr = 0.0 if DSHIFT + DSCALE + DPARAMETERS > 0 else None  # what lies outside must not count
    if FROM_OUTPUT:
        z = tiles.load(x, tile, OTHER, EDGES, COMPUTE)
        centred = z
    else:
        z, centred = _pre_activation(x, residual, tile, mean, scale, shift, vectors, OTHER, EDGES, COMPUTE)
    gradient = tiles.load(dy, tile, OTHER, EDGES, COMPUTE)
    if seed is not None:
        gradient = gradient * tl.where(keeps(key, place), key[2], 0.0)
    slopes = DERIVATIVE(z, arguments)
    if GUARDED:
        slopes = _inside(slopes, tile[2], DSHIFT + DSCALE > 0, DPARAMETERS)
    dz = reaching(gradient, slopes[0], MASKS) * slopes[0]
    if dresidual is not None:
        tiles.store(dresidual, dz, tile, EDGES)
    if dx is not None:
        tiles.store(dx, _input_gradient(dz, centred, scale, mean_dz, vectors, batch_means), tile, EDGES)
    return _add_sums(totals, dz, centred, gradient, slopes, DSHIFT, DSCALE, DPARAMETERS)


@triton.jit(do_not_specialize=[*_DROPOUT, "slots", "chunk_slots", "chunks", "channels", "length", "row_groups", "multiplier", "bits"])
def epilogue_backward_contiguous(
    dy, x, dx, dresidual, partials, residual, mean, scale, weight, shift, mean_dz, mean_dz_centred, parameters, seed, slope_seed,
    threshold, keep_scale, keep_shift, drop_value, sample_rows, slots, chunk_slots, chunks, channels, length, row_groups, multiplier, bits,
    DERIVATIVE: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr, PER_CHANNEL: tl.constexpr, FROM_OUTPUT: tl.constexpr,
    DSHIFT: tl.constexpr, DSCALE: tl.constexpr, DPARAMETERS: tl.constexpr, GUARDED: tl.constexpr, MASKS: tl.constexpr,
    ONE_ROW: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    COUNT: tl.constexpr = DSHIFT + DSCALE + DPARAMETERS
    program = tl.program_id(0)
    channel = 0 if ONE_ROW else program % channels
    chunk = program if ONE_ROW else program // channels
    vectors = channel_vectors(mean, scale, weight, shift, channel, None, False)
    batch_means = _batch_means(mean_dz, mean_dz_centred, scale, vectors, channel, None, False)
    arguments = arguments_of(parameters, channel, None, channels, LEARNABLE, PER_CHANNEL, CONSTANTS, False, COMPUTE)
    key = dropout_key(seed, threshold, keep_scale, keep_shift, drop_value, COMPUTE)
    slope_key = seed_value(slope_seed)
    totals = reductions.zeros(COUNT, COMPUTE, GROUPS)
    end = tl.minimum((chunk + 1) * chunk_slots, slots)
    for start in range(chunk * chunk_slots, end, GROUPS):
        tile = tiles.contiguous_tile(start, end, channel, channels, length, row_groups, multiplier, bits, ONE_ROW, ALIGNED, GROUPS)
        place = mask_place(tile, channel, channels, sample_rows, False, 8)
        totals = _backward_tile(
            dy, x, dx, dresidual, residual, tile, mean, scale, shift, mean_dz, seed, key, place, vectors, batch_means,
            _with_uniform(arguments, slope_seed, slope_key, mask_place(tile, channel, channels, None, False, 8)),
            totals, DERIVATIVE, FROM_OUTPUT, DSHIFT, DSCALE, DPARAMETERS, GUARDED, MASKS, not ALIGNED, COMPUTE,
        )
    reductions.store_sums(partials, totals, chunk, chunks, channel, channels, COUNT, False, 1, 1, GROUPS)


@triton.jit(do_not_specialize=[*_DROPOUT, "rows", "chunk_rows", "chunks", "channels", "blocks"])
def epilogue_backward_channels_last(
    dy, x, dx, dresidual, partials, residual, mean, scale, weight, shift, mean_dz, mean_dz_centred, parameters, seed, slope_seed,
    threshold, keep_scale, keep_shift, drop_value, sample_rows, rows, chunk_rows, chunks, channels, blocks,
    DERIVATIVE: tl.constexpr, CONSTANTS: tl.constexpr, LEARNABLE: tl.constexpr, PER_CHANNEL: tl.constexpr, FROM_OUTPUT: tl.constexpr,
    DSHIFT: tl.constexpr, DSCALE: tl.constexpr, DPARAMETERS: tl.constexpr, GUARDED: tl.constexpr, MASKS: tl.constexpr,
    UNIT: tl.constexpr, LANES: tl.constexpr, COLUMNS: tl.constexpr, GROUPS: tl.constexpr, COMPUTE: tl.constexpr,
):
    COUNT: tl.constexpr = DSHIFT + DSCALE + DPARAMETERS
    block = tl.program_id(0) % blocks
    chunk = tl.program_id(0) // blocks
    column, channel, present = tiles.channels_last_columns(block, channels, UNIT, LANES, COLUMNS, GROUPS)
    vectors = channel_vectors(mean, scale, weight, shift, channel, present, True)
    batch_means = _batch_means(mean_dz, mean_dz_centred, scale, vectors, channel, present, True)
    arguments = arguments_of(parameters, channel, present, channels // UNIT * UNIT, LEARNABLE, PER_CHANNEL, CONSTANTS, True, COMPUTE)
    key = dropout_key(seed, threshold, keep_scale, keep_shift, drop_value, COMPUTE)
    slope_key = seed_value(slope_seed)
    totals = reductions.zeros(COUNT, COMPUTE, GROUPS)
    end = tl.minimum((chunk + 1) * chunk_rows, rows)
    for start in range(chunk * chunk_rows, end, GROUPS // COLUMNS):
        tile = tiles.channels_last_tile(start, end, column, channel, present, channels, UNIT, LANES, COLUMNS, GROUPS)
        place = mask_place(tile, channel, channels, sample_rows, True, UNIT)
        totals = _backward_tile(
            dy, x, dx, dresidual, residual, tile, mean, scale, shift, mean_dz, seed, key, place, vectors, batch_means,
            _with_uniform(arguments, slope_seed, slope_key, mask_place(tile, channel, channels, None, True, UNIT)),
            totals, DERIVATIVE, FROM_OUTPUT, DSHIFT, DSCALE, DPARAMETERS, GUARDED, MASKS, False, COMPUTE,
        )
    reductions.store_sums(partials, totals, chunk, chunks, block, channels, COUNT, True, LANES, COLUMNS, GROUPS)


def _seeds(seed: Tensor | None, activation: str, p: float, outcome: Sequence[float] | None, sample: int, layout: launch.Layout) -> tuple:
    """What kernels take: the seeds of dropout and of a random activation, None where it does not draw, and what _DROPOUT names."""
    slope_seed = seed if ACTIVATIONS[activation].random else None
    if seed is None or p == 0:
        return None, slope_seed, 0, None, None, None, None
    sample_rows = sample // (layout.channels * layout.length)
    return seed, slope_seed, reference.dropout.threshold(p), *outcome_bits(outcome), sample_rows or None


def launch_forward(
    x: Tensor, mean: Tensor | None, scale: Tensor | None, weight: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    residual_after: Tensor | None = None, sample: int = 0, outcome: Sequence[float] | None = None,
) -> Tensor:
    """epilogue_forward with scale * weight for scale."""
    y = torch.empty_like(x)
    learnable, columns = launch.parameter_counts(parameters)
    layout = launch.layout(x, channel_dim, columns > 1 or scale is not None or shift is not None, sample if seed is not None else 0)
    plan = launch.plan(layout, x.dtype, False)
    kernel = epilogue_forward_channels_last if plan.channels_last else epilogue_forward_contiguous
    with launch.device_guard(x):
        kernel[plan.grid](
            x, y, residual, residual_after, mean, scale, weight, shift, parameters,
            *_seeds(seed, activation, p, outcome, sample, layout), *plan.sizes,
            ACTIVATION=formulas.function(activation, "", x.dtype.itemsize == 2), CONSTANTS=tuple(constants), LEARNABLE=learnable,
            PER_CHANNEL=columns > 1, **plan.constants,
        )
    return y


@or_reference
def epilogue_forward(
    x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    residual_after: Tensor | None = None, sample: int = 0, outcome: Sequence[float] | None = None,
) -> Tensor:
    """y, with the shape, strides and dtype of x."""
    if x.numel() == 0:
        return torch.empty_like(x)
    return launch_forward(
        x, mean, scale, None, shift, residual, parameters, seed, activation, constants, p, channel_dim, residual_after, sample, outcome)


def launch_backward(
    dy: Tensor, x: Tensor, mean: Tensor | None, scale: Tensor | None, weight: Tensor | None, shift: Tensor | None,
    residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float,
    channel_dim: int, from_output: bool, output_mask: Sequence[bool], batch_means: Tensor | None = None, sample: int = 0,
    outcome: Sequence[float] | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    """(dx, dresidual, partials, parameter sums that are shared by all channels): one launch.

    scale * weight stands for scale; partials [COUNT, chunks, C] hold dshift, dscale, dparameters, those that output_mask wants.
    With batch_means, [2, C], the means of dz and of dz (x - mean), dx is batch norm's, and scale is rstd.
    """
    want_dx, want_dresidual, want_dscale, want_dshift, want_dparameters = output_mask
    learnable, columns = launch.parameter_counts(parameters)
    count = want_dshift + want_dscale + (learnable if want_dparameters else 0)
    layout = launch.layout(x, channel_dim, columns > 1 or scale is not None or shift is not None or want_dshift or want_dscale,
                           sample if seed is not None else 0)
    plan = launch.plan(layout, x.dtype, count > 0, count if columns > 1 else 0)
    dx = torch.empty_like(x) if want_dx else None
    dresidual = torch.empty_like(x) if want_dresidual else None
    partials = reductions.empty_partials(x, count, plan.chunks, layout.channels) if count else None
    mean_dz, mean_dz_centred = (None, None) if batch_means is None else batch_means
    kind = "derivative_from_output" if from_output else "derivative"
    kernel = epilogue_backward_channels_last if plan.channels_last else epilogue_backward_contiguous
    with launch.device_guard(x):
        kernel[plan.grid](
            dy, x, dx, dresidual, partials, residual, mean, scale, weight, shift, mean_dz, mean_dz_centred, parameters,
            *_seeds(seed, activation, p, outcome, sample, layout), *plan.sizes,
            DERIVATIVE=formulas.function(activation, kind, x.dtype.itemsize == 2), CONSTANTS=tuple(constants), LEARNABLE=learnable,
            PER_CHANNEL=columns > 1, FROM_OUTPUT=from_output, DSHIFT=int(want_dshift), DSCALE=int(want_dscale),
            DPARAMETERS=learnable if want_dparameters else 0, GUARDED=count > 0 and not ACTIVATIONS[activation].everywhere,
            MASKS=ACTIVATIONS[activation].masks, **plan.constants,
        )
    return dx, dresidual, partials, learnable if want_dparameters and columns == 1 else 0


@or_reference
def epilogue_backward(
    dy: Tensor, x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    from_output: bool, output_mask: Sequence[bool], sample: int = 0, outcome: Sequence[float] | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """(dx, dresidual, dscale, dshift, dparameters), None where output_mask says that nobody asks."""
    if x.numel() == 0:
        return reference.epilogue_backward(
            dy, x, mean, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim, from_output, output_mask,
            sample, outcome)
    dx, dresidual, partials, shared = launch_backward(
        dy, x, mean, scale, None, shift, residual, parameters, seed, activation, constants, p, channel_dim, from_output, output_mask,
        None, sample, outcome)
    if partials is None:
        return dx, dresidual, None, None, None
    _, _, want_dscale, want_dshift, want_dparameters = output_mask
    sums, _ = reductions.finish(partials, shared)
    dshift = sums[0] if want_dshift else None
    dscale = sums[int(want_dshift)] if want_dscale else None
    dparameters = reductions.parameter_sums(sums, int(want_dshift) + int(want_dscale), shared, parameters) if want_dparameters else None
    return dx, dresidual, dscale, dshift, dparameters
