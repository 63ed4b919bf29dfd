"""Optimizer updates as PyTorch: ``optimizer_step`` and ``gradient_norm``, and one function per update rule.

This file is the kernel interface of optimizers: every backend has these two functions, with these arguments in this order.

rule             the name of a row of specs.UPDATE_RULES
params, grads    lists of n dense tensors on one device, of one dtype: float16, bfloat16, float32 or float64; a gradient has its
                 parameter's shape and strides
states           flat list, state-major: state k of parameter i stands at k * n + i. Only the states that exist: row.states without
                 the optional ones that these hyperparameters and flags leave out. Shape and strides of the parameter; all of one
                 dtype: the parameters', or float32 or bfloat16 for any but float64 ones
scalars          flat list like states: row.scalars of each parameter, one-element float32 tensors on the parameters' device
masters          n float32 tensors like the half-precision parameters, or []: what the arithmetic takes for p. Where one does not round
                 to its parameter, the parameter was changed meanwhile, and stands for it
averages         n tensors like the parameters, float32 for half types, or []: average += (1 - ema_decay) (parameter - average)
hyperparameters  [lr, weight_decay, *row.hyperparameters], floats
flags            [maximize, *row.flags], bools
tensors          for each hyperparameter a one-element tensor that stands for it, or None; or []
grad_scale       one-element tensor that gradients are divided by, or None
found_inf        one-element tensor; where it is not zero nothing changes, scalars included; or None
norm             what gradient_norm returned for the gradients as they are, on the parameters' device, or None. With it, gradients
                 are multiplied by min(1, max_grad_norm / (total_norm + 1e-6)), where total_norm is the norm after the division
                 by grad_scale: what torch.nn.utils.clip_grad_norm_ does, without its sweep
seed             0-d int64 tensor on the parameters' device, or None. With it, what is stored as bfloat16 is rounded up with the
                 probability of the part that is lost: parameters without a master, and states. The numbers are Philox's (see
                 dropout.py), stream 2; a tensor's elements are counted in memory order, from a multiple of 8 after those of the
                 tensors before it

Everything is written in place; arithmetic is float32 (float64 for float64), each value is rounded once.

An update rule is a function ``(p, g, states, scalars, lr, weight_decay, *hyperparameters, *flags) -> (p, states)`` on tensors in the
dtype of the arithmetic, where g already has its sign, scale and clipping and scalars are what they become with this update: t, the
number of the update, and whatever ``{rule}_scalars`` makes of the others.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .dropout import random_numbers
from .dtypes import accumulate_dtype

States = tuple[Tensor, ...]
ROUNDING_STREAM = 2
"""Counter word 2 of stochastic rounding."""


def optimizer_step(
    rule: str, params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Tensor], scalars: Sequence[Tensor],
    masters: Sequence[Tensor], averages: Sequence[Tensor], hyperparameters: Sequence[float], flags: Sequence[bool],
    tensors: Sequence[Tensor | None], grad_scale: Tensor | None, found_inf: Tensor | None, norm: Tensor | None, seed: Tensor | None,
    max_grad_norm: float, ema_decay: float,
) -> None:
    """Update params, states, scalars, masters and averages in place. Reads the one-element tensors on the host."""
    if found_inf is not None and found_inf.item() != 0:
        return
    update, count, first_number = update_rule(rule), len(params), 0
    values = list(hyperparameters)
    for k, tensor in enumerate(tensors):
        values[k] = values[k] if tensor is None else tensor.item()
    factor = _gradient_factor(flags[0], grad_scale, norm, max_grad_norm)
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        compute = accumulate_dtype(param)
        numbers = None if seed is None else _numbers_like(param, seed, first_number)
        first_number += (param.numel() + 7) // 8 * 8
        own, own_scalars = states[i::count], advance(rule, scalars[i::count], values)
        p, new = update(
            _current(param, masters[i] if masters else param), grad.to(compute) * factor, tuple(s.to(compute) for s in own),
            tuple(scalar.item() for scalar in own_scalars), *values, *flags[1:])
        if masters:
            masters[i].copy_(p)
        _store(param, p, None if masters else numbers)
        for state, value in zip(own, new, strict=True):
            _store(state, value, numbers)
        for scalar, value in zip(scalars[i::count], own_scalars, strict=True):
            scalar.copy_(value)
        if averages:
            averages[i].add_(param.to(averages[i].dtype) - averages[i], alpha=1 - ema_decay)


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """float64 [2]: the sum of the squares of all elements, and 1 if any element is infinite or NaN, else 0.

    Squares are summed in float64: gradients of 1e30 give a finite norm, and 25 million elements lose nothing.
    """
    if not grads:
        return torch.zeros(2, dtype=torch.float64)
    squares = torch.stack([grad.double().square().sum() for grad in grads]).sum()
    finite = torch.stack([grad.isfinite().all() for grad in grads]).all()
    return torch.stack([squares, finite.logical_not().double()])


def update_rule(name: str) -> Callable[..., tuple[Tensor, States]]:
    """The function of row ``name``."""
    return globals()[name]


def advance(rule: str, scalars: Sequence[Tensor], hyperparameters: Sequence[float]) -> Sequence[Tensor]:
    """What scalars become with one update: step + 1, and what ``{rule}_scalars`` makes of the others."""
    if not scalars:
        return ()
    step = scalars[0] + 1
    return (step, *globals()[f"{rule}_scalars"](step, scalars[1:], *hyperparameters)) if len(scalars) > 1 else (step,)


def stochastically_rounded(x: Tensor, numbers: Tensor) -> Tensor:
    """x, float32, as bfloat16: cut to 16 bits after ``numbers``, from 0 to 65535, were added to the bits; NaN stays NaN."""
    cut = ((x.view(torch.int32) + numbers.to(torch.int32)) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(x.isnan(), x.bfloat16(), cut)


def _numbers_like(x: Tensor, seed: Tensor, first: int) -> Tensor:
    """x's 16-bit numbers, laid out like it."""
    return random_numbers(first, x.numel(), seed, ROUNDING_STREAM).as_strided(x.size(), x.stride())


def _current(param: Tensor, master: Tensor) -> Tensor:
    """p for the arithmetic: the master, where the parameter is still what it was rounded to."""
    compute = accumulate_dtype(param)
    return torch.where(master.to(param.dtype) == param, master.to(compute), param.to(compute))


def _store(target: Tensor, value: Tensor, numbers: Tensor | None) -> None:
    target.copy_(value if numbers is None or target.dtype != torch.bfloat16 else stochastically_rounded(value, numbers))


def _gradient_factor(maximize: bool, grad_scale: Tensor | None, norm: Tensor | None, max_grad_norm: float) -> float:
    """What every gradient is multiplied by: sign, 1 / grad_scale and clipping."""
    scale = 1.0 if grad_scale is None else 1.0 / grad_scale.item()
    clip = 1.0
    if norm is not None:
        ratio = max_grad_norm / (math.sqrt(norm[0].item()) * scale + 1e-6)
        clip = 1.0 if ratio > 1.0 else ratio  # in this order a NaN norm gives NaN, as torch's clamp does
    return -scale * clip if maximize else scale * clip


def sgd(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, momentum: float, dampening: float,
    nesterov: bool, first: bool,
) -> tuple[Tensor, States]:
    """Stochastic gradient descent with momentum; ``first``: the buffer holds nothing yet and becomes g."""
    g = _penalised(p, g, weight_decay)
    if not states:
        return p - lr * g, ()
    buffer = g if first else momentum * states[0] + (1 - dampening) * g
    return p - lr * (g + momentum * buffer if nesterov else buffer), (buffer,)


def adagrad(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, lr_decay: float, eps: float,
) -> tuple[Tensor, States]:
    """Adagrad: the root of the sum of all squares so far."""
    g = _penalised(p, g, weight_decay)
    total = states[0] + g * g
    return p - lr / (1 + (scalars[0] - 1) * lr_decay) * (g / (total.sqrt() + eps)), (total,)


def rmsprop(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, alpha: float, eps: float,
    momentum: float, centered: bool,
) -> tuple[Tensor, States]:
    """RMSprop; centered: the variance stands for the mean square. Rounding could make it negative, where torch's root is NaN."""
    g = _penalised(p, g, weight_decay)
    v = alpha * states[0] + (1 - alpha) * g * g
    mean = (states[-1] + (1 - alpha) * (g - states[-1]),) if centered else ()
    step = g / ((v - mean[0] * mean[0]).clamp_min(0).sqrt() + eps if centered else v.sqrt() + eps)
    buffer = (momentum * states[1] + step,) if len(states) == 2 + centered else ()
    return p - lr * (buffer[0] if buffer else step), (v, *buffer, *mean)


def adam(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, beta1: float, beta2: float,
    eps: float, amsgrad: bool,
) -> tuple[Tensor, States]:
    """Adam; weight decay is an L2 penalty, part of the gradient."""
    m, v = _moments(_penalised(p, g, weight_decay), states, beta1, beta2)
    largest = (torch.maximum(states[2], v),) if amsgrad else ()
    denominator = (largest[0] if amsgrad else v).sqrt() / math.sqrt(1 - beta2**scalars[0]) + eps
    return p - lr / (1 - beta1**scalars[0]) * (m / denominator), (m, v, *largest)


def adamw(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, beta1: float, beta2: float,
    eps: float, amsgrad: bool,
) -> tuple[Tensor, States]:
    """Adam with decoupled weight decay: the parameter shrinks first, the gradient stays as it is."""
    return adam(p * (1 - lr * weight_decay), g, states, scalars, lr, 0.0, beta1, beta2, eps, amsgrad)


def nadam_scalars(
    step: Tensor, others: Sequence[Tensor], lr: float, weight_decay: float, beta1: float, beta2: float, eps: float, momentum_decay: float,
) -> tuple[Tensor]:
    """The product of the momenta mu(1) ... mu(t), in float32 as torch has it."""
    return (others[0].float() * _nadam_momentum(beta1, momentum_decay, step.item()),)


def nadam(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, beta1: float, beta2: float,
    eps: float, momentum_decay: float, decoupled_weight_decay: bool,
) -> tuple[Tensor, States]:
    """Adam with Nesterov's momentum, which grows from step to step."""
    t, product = scalars
    p, g = _decayed(p, g, lr, weight_decay, decoupled_weight_decay)
    m, v = _moments(g, states, beta1, beta2)
    momentum, next_momentum = (_nadam_momentum(beta1, momentum_decay, step) for step in (t, t + 1))
    ahead = (1 - momentum) / (1 - product) * g + next_momentum / (1 - product * next_momentum) * m
    return p - lr * (ahead / (v.sqrt() / math.sqrt(1 - beta2**t) + eps)), (m, v)


def radam(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, beta1: float, beta2: float,
    eps: float, decoupled_weight_decay: bool,
) -> tuple[Tensor, States]:
    """Adam whose adaptive step is rectified, and left out while its variance is too large to be known."""
    t = scalars[0]
    p, g = _decayed(p, g, lr, weight_decay, decoupled_weight_decay)
    m, v = _moments(g, states, beta1, beta2)
    longest, correction = 2 / (1 - beta2) - 1, 1 - beta2**t
    length = longest - 2 * t * beta2**t / correction
    step = lr / (1 - beta1**t) * m
    if length > 5:
        rectification = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        step = step * (math.sqrt(rectification * correction) / (v.sqrt() + eps))
    return p - step, (m, v)


def adamax(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, beta1: float, beta2: float,
    eps: float,
) -> tuple[Tensor, States]:
    """Adam with the largest gradient, which fades, for the root of the mean square."""
    g = _penalised(p, g, weight_decay)
    m = states[0] + (1 - beta1) * (g - states[0])
    largest = torch.maximum(beta2 * states[1], g.abs() + eps)
    return p - lr / (1 - beta1**scalars[0]) * (m / largest), (m, largest)


def lion(
    p: Tensor, g: Tensor, states: States, scalars: Sequence[float], lr: float, weight_decay: float, beta1: float, beta2: float,
) -> tuple[Tensor, States]:
    """The sign of a momentum; NaN stays NaN."""
    p = p * (1 - lr * weight_decay)
    direction = states[0] + (1 - beta1) * (g - states[0])
    return p - lr * torch.where(direction.isnan(), direction, direction.sign()), (states[0] + (1 - beta2) * (g - states[0]),)


def _penalised(p: Tensor, g: Tensor, weight_decay: float) -> Tensor:
    """g with the gradient of the L2 penalty; 0 times an infinite p would be NaN."""
    return g + weight_decay * p if weight_decay != 0 else g


def _decayed(p: Tensor, g: Tensor, lr: float, weight_decay: float, decoupled: bool) -> tuple[Tensor, Tensor]:
    """(p, g) after weight decay of either kind."""
    return (p * (1 - lr * weight_decay), g) if decoupled else (p, _penalised(p, g, weight_decay))


def _moments(g: Tensor, states: States, beta1: float, beta2: float) -> tuple[Tensor, Tensor]:
    """Adam's running means of g and g^2."""
    return states[0] + (1 - beta1) * (g - states[0]), beta2 * states[1] + (1 - beta2) * g * g


def _nadam_momentum(beta1: float, momentum_decay: float, step: float) -> float:
    return beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
