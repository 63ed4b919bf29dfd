"""The kernel interface as torch.library custom ops, so that torch.compile and torch.export see every kernel as one node.

Each op has the signature of the reference function of its name (fastlayers/reference/), a body that lets backends.py choose,
and a fake kernel that says what comes out. Ops cannot return None: where a result is not asked for they return an empty tensor,
and the functions below of the same name, which the autograd functions call while compiling, turn it back into None. Nor can they return
parts of one tensor: kernels that do, for what is summed in one launch, have them copied.
"""
from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import select
from .context import recomputing
from .reference.dtypes import accumulate_dtype
from .reference.gated import empty_halved
from .strides import with_stride


@torch.library.custom_op("fastlayers::epilogue_forward", mutates_args=())
def _epilogue_forward(
    x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None,
    seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int, residual_after: Tensor | None = None,
    sample: int = 0, outcome: Sequence[float] | None = None,
) -> Tensor:
    return select(x, activation).epilogue_forward(
        x, mean, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim, residual_after, sample, outcome)


@_epilogue_forward.register_fake
def _epilogue_forward_fake(
    x, mean, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim, residual_after=None, sample=0, outcome=None
):
    return torch.empty_like(x)


@torch.library.custom_op("fastlayers::epilogue_backward", mutates_args=())
def _epilogue_backward(
    dy: Tensor, x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    from_output: bool, output_mask: Sequence[bool], sample: int = 0, outcome: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _fill(x, select(x, activation).epilogue_backward(
        dy, x, mean, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim, from_output, output_mask, sample,
        outcome))


@_epilogue_backward.register_fake
def _epilogue_backward_fake(
    dy, x, mean, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim, from_output, output_mask, sample=0,
    outcome=None
):
    return _gradients_fake(x, parameters, channel_dim, output_mask)


@torch.library.custom_op("fastlayers::dropout_mask", mutates_args=())
def _dropout_mask(first: int, count: int, seed: Tensor, p: float) -> Tensor:
    return select(seed).dropout_mask(first, count, seed, p)


@_dropout_mask.register_fake
def _dropout_mask_fake(first, count, seed, p):
    return seed.new_empty(count, dtype=torch.bool)


@torch.library.custom_op("fastlayers::gated_forward", mutates_args=())
def _gated_forward(
    x: Tensor, parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, dim: int,
    gate_first: bool,
) -> Tensor:
    return select(x, activation).gated_forward(x, parameters, seed, activation, constants, p, dim, gate_first)


@_gated_forward.register_fake
def _gated_forward_fake(x, parameters, seed, activation, constants, p, dim, gate_first):
    return empty_halved(x, dim)


@torch.library.custom_op("fastlayers::gated_backward", mutates_args=())
def _gated_backward(
    dy: Tensor, x: Tensor, parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float,
    dim: int, gate_first: bool, output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    return _fill(x, select(x, activation).gated_backward(dy, x, parameters, seed, activation, constants, p, dim, gate_first, output_mask))


@_gated_backward.register_fake
def _gated_backward_fake(dy, x, parameters, seed, activation, constants, p, dim, gate_first, output_mask):
    want_dx, want_dparameters = output_mask
    return (torch.empty_like(x) if want_dx else x.new_empty(0),
            torch.empty_like(parameters) if want_dparameters else x.new_empty(0))


@torch.library.custom_op("fastlayers::epilogue_inverse", mutates_args=())
def _epilogue_inverse(
    y: Tensor, mean: Tensor, scale: Tensor, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, activation: str,
    constants: Sequence[float], channel_dim: int,
) -> Tensor:
    return select(y, activation).epilogue_inverse(y, mean, scale, shift, residual, parameters, activation, constants, channel_dim)


@_epilogue_inverse.register_fake
def _epilogue_inverse_fake(y, mean, scale, shift, residual, parameters, activation, constants, channel_dim):
    return torch.empty_like(y)


@torch.library.custom_op("fastlayers::batch_norm_statistics", mutates_args=())
def _batch_norm_statistics(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    return select(x).batch_norm_statistics(x, channel_dim)


@_batch_norm_statistics.register_fake
def _batch_norm_statistics_fake(x, channel_dim):
    return _channels(x, channel_dim), _channels(x, channel_dim)


@torch.library.custom_op(
    "fastlayers::batch_norm_forward", mutates_args=("running_mean", "running_var", "num_batches_tracked"))
def _batch_norm_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    num_batches_tracked: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor | None, activation: str,
    constants: Sequence[float], p: float, training: bool, momentum: float | None, eps: float, channel_dim: int,
) -> tuple[Tensor, Tensor, Tensor]:
    if training and recomputing():  # compiled code that activation checkpointing calls once more
        running_mean = running_var = num_batches_tracked = None
    return select(x, activation).batch_norm_forward(
        x, weight, bias, running_mean, running_var, num_batches_tracked, residual, parameters, seed, activation, constants, p, training,
        momentum, eps, channel_dim)


@_batch_norm_forward.register_fake
def _batch_norm_forward_fake(
    x, weight, bias, running_mean, running_var, num_batches_tracked, residual, parameters, seed, activation, constants, p, training,
    momentum, eps, channel_dim
):
    return torch.empty_like(x), _channels(x, channel_dim), _channels(x, channel_dim)


@torch.library.custom_op("fastlayers::batch_norm_backward", mutates_args=())
def _batch_norm_backward(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, training: bool,
    channel_dim: int, output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _fill(x, select(x, activation).batch_norm_backward(
        dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, training, channel_dim, output_mask))


@_batch_norm_backward.register_fake
def _batch_norm_backward_fake(
    dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, training, channel_dim, output_mask
):
    return _gradients_fake(x, parameters, channel_dim, output_mask)


@torch.library.custom_op("fastlayers::batch_norm_backward_input", mutates_args=())
def _batch_norm_backward_input(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None,
    parameters: Tensor | None, seed: Tensor | None, activation: str, constants: Sequence[float], p: float, channel_dim: int,
    mean_dz: Tensor, mean_dz_centred: Tensor,
) -> Tensor:
    return select(x, activation).batch_norm_backward_input(
        dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, channel_dim, mean_dz, mean_dz_centred)


@_batch_norm_backward_input.register_fake
def _batch_norm_backward_input_fake(
    dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p, channel_dim, mean_dz, mean_dz_centred
):
    return torch.empty_like(x)


@torch.library.custom_op("fastlayers::optimizer_step", mutates_args=("params", "states", "scalars", "masters", "averages"))
def _optimizer_step(
    rule: str, params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Tensor], scalars: Sequence[Tensor],
    masters: Sequence[Tensor], averages: Sequence[Tensor], hyperparameters: Sequence[float], flags: Sequence[bool],
    tensors: Sequence[Tensor | None], grad_scale: Tensor | None, found_inf: Tensor | None, norm: Tensor | None, seed: Tensor | None,
    max_grad_norm: float, ema_decay: float,
) -> None:
    if params:
        select(params[0]).optimizer_step(
            rule, params, grads, states, scalars, masters, averages, hyperparameters, flags, tensors, grad_scale, found_inf, norm, seed,
            max_grad_norm, ema_decay)


@_optimizer_step.register_fake
def _optimizer_step_fake(
    rule, params, grads, states, scalars, masters, averages, hyperparameters, flags, tensors, grad_scale, found_inf, norm, seed,
    max_grad_norm, ema_decay
):
    return None


@torch.library.custom_op("fastlayers::gradient_norm", mutates_args=())
def _gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    return select(grads[0]).gradient_norm(grads)


@_gradient_norm.register_fake
def _gradient_norm_fake(grads):
    return grads[0].new_empty(2, dtype=torch.float64)


epilogue_forward = torch.ops.fastlayers.epilogue_forward
dropout_mask = torch.ops.fastlayers.dropout_mask
gated_forward = torch.ops.fastlayers.gated_forward
epilogue_inverse = torch.ops.fastlayers.epilogue_inverse
batch_norm_statistics = torch.ops.fastlayers.batch_norm_statistics
batch_norm_forward = torch.ops.fastlayers.batch_norm_forward
batch_norm_backward_input = torch.ops.fastlayers.batch_norm_backward_input
optimizer_step = torch.ops.fastlayers.optimizer_step
gradient_norm = torch.ops.fastlayers.gradient_norm
_OUTPUT_MASK = [*inspect.signature(_epilogue_backward_fake).parameters].index("output_mask")


def epilogue_backward(*arguments: object) -> tuple[Tensor | None, ...]:
    """The op, with None for what its argument output_mask does not ask for."""
    return _drop(torch.ops.fastlayers.epilogue_backward(*arguments), arguments[_OUTPUT_MASK])


def gated_backward(*arguments: object) -> tuple[Tensor | None, ...]:
    """The op, with None for what its last argument, output_mask, does not ask for."""
    return _drop(torch.ops.fastlayers.gated_backward(*arguments), arguments[-1])


def batch_norm_backward(*arguments: object) -> tuple[Tensor | None, ...]:
    """The op, with None for what its last argument, output_mask, does not ask for."""
    return _drop(torch.ops.fastlayers.batch_norm_backward(*arguments), arguments[-1])


def _fill(x: Tensor, gradients: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """What an op may return: tensors that begin their own memory, where kernels write several sums into one."""
    filled, memories = [], set()
    for gradient in gradients:
        own = x.new_empty(0) if gradient is None else gradient
        memory = own.untyped_storage()._cdata
        filled.append(own.clone() if memory in memories or own.storage_offset() else own)
        memories.add(memory)
    return tuple(filled)


def _drop(gradients: Sequence[Tensor], output_mask: Sequence[bool]) -> tuple[Tensor | None, ...]:
    return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, output_mask, strict=True))


def _channels(x: Tensor, channel_dim: int) -> Tensor:
    return x.new_empty(x.size(channel_dim), dtype=accumulate_dtype(x))


def _gradients_fake(x: Tensor, parameters: Tensor | None, channel_dim: int, output_mask: Sequence[bool]) -> tuple[Tensor, ...]:
    """What a backward kernel returns: dx, dresidual, two per-channel sums, gradients of the learnable parameters."""
    want_dx, want_dresidual, want_scale, want_shift, want_parameters = output_mask
    return (
        torch.empty_like(x) if want_dx else x.new_empty(0),
        torch.empty_like(x) if want_dresidual else x.new_empty(0),
        _channels(x, channel_dim) if want_scale else x.new_empty(0),
        _channels(x, channel_dim) if want_shift else x.new_empty(0),
        torch.empty_like(parameters) if want_parameters else x.new_empty(0),
    )


# What follows is for programs of torch.export and graphs of make_fx, which hold the ops above without the autograd functions that called
# them: pipeline stages and quantization-aware training differentiate those. No op has a derivative of second order.


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    """Tensors for backward apart from the other arguments; saved as they are, for no argument of these ops is changed but statistics."""
    ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))
    ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.stride = output.stride()


def _keep_batch_norm(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _, _, _, residual, parameters, seed, *ctx.others = inputs
    y, mean, rstd = output
    ctx.stride = y.stride()
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, mean, rstd, weight, bias, residual, parameters, seed)


def _differentiate_epilogue(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, mean, scale, shift, residual, parameters, seed = ctx.saved_tensors[:7]
    activation, constants, p, channel_dim, _, sample, outcome = ctx.others[7:]
    wants_x, wants_mean, wants_scale, wants_shift, wants_residual, wants_parameters = ctx.needs_input_grad[:6]
    apart = scale is not None  # else dx is dresidual
    mask = (wants_x or (wants_residual and not apart), wants_residual and apart, wants_scale, wants_shift or wants_mean, wants_parameters)
    dx, dresidual, dscale, dshift, dparameters = epilogue_backward(
        with_stride(dy, ctx.stride), x, mean, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim, False, mask,
        sample, outcome)
    if not apart:
        dresidual = dx
    dmean = None if not wants_mean else -dshift if scale is None else -dshift * scale
    gradients = (dx, dmean, dscale, dshift, dresidual, dparameters)
    asked = (gradient if wanted else None for gradient, wanted in zip(gradients, ctx.needs_input_grad, strict=False))
    return (*asked, None, None, None, None, None, dy if any(ctx.needs_input_grad[11:12]) else None, None, None)


def _differentiate_gated(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, parameters, seed = ctx.saved_tensors[:3]
    gradients = gated_backward(with_stride(dy, ctx.stride), x, parameters, seed, *ctx.others[3:], ctx.needs_input_grad[:2])
    return (*gradients, None, None, None, None, None, None)


def _differentiate_batch_norm(ctx, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    activation, constants, p, training, _, _, channel_dim = ctx.others
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    wants_residual, wants_parameters = ctx.needs_input_grad[6:8]
    dx, dresidual, dweight, dbias, dparameters = batch_norm_backward(
        with_stride(dy, ctx.stride), *ctx.saved_tensors, activation, constants, p, training, channel_dim,
        (wants_x, wants_residual, wants_weight, wants_bias, wants_parameters))
    return (dx, dweight, dbias, None, None, None, dresidual, dparameters, *[None] * 8)


_epilogue_forward.register_autograd(_differentiate_epilogue, setup_context=_keep)
_gated_forward.register_autograd(_differentiate_gated, setup_context=_keep)
# register_autograd() refuses ops that change an argument; what this one changes are statistics, which have no gradient.
_batch_norm_forward._backward_fn, _batch_norm_forward._setup_context_fn = _differentiate_batch_norm, _keep_batch_norm
