"""Optimizer updates as PyTorch: ``optimizer_step`` and ``gradient_norm``, and one function per update rule.

This file is the kernel interface of optimizers: every backend has these two functions, with these arguments in this order.

rule             the name of a row of specs.UPDATE_RULES
params, grads    lists of n dense tensors on one device, of one dtype: float16, bfloat16, float32 or float64; a gradient has its
                 parameter's shape and strides
states           flat list, state-major: state k of parameter i stands at k * n + i. Only the states that exist: row.states without
                 the optional ones that these hyperparameters and flags leave out. Shape and strides of the parameter; all of the
                 parameters' dtype, or all float32
steps            n one-element float32 tensors on the parameters' device, the number of updates made so far, each advanced by one;
                 [] for a row that does not count steps
hyperparameters  [lr, weight_decay, *row.hyperparameters], floats
flags            [maximize, *row.flags], bools
lr               one-element tensor that stands for hyperparameters[0], or None
grad_scale       one-element tensor that gradients are divided by, or None
found_inf        one-element tensor; where it is not zero nothing changes, steps included; or None
norm             what gradient_norm returned for the gradients as they are, on the parameters' device, or None. With it, gradients
                 are multiplied by min(1, max_grad_norm / (total_norm + 1e-6)), where total_norm is the norm after the division
                 by grad_scale: what torch.nn.utils.clip_grad_norm_ does, without its sweep

Everything is written in place; arithmetic is float32 (float64 for float64), each value is rounded once.

An update rule is a function ``(p, g, states, t, lr, weight_decay, *hyperparameters, *flags) -> (p, states)`` on tensors in the
dtype of the arithmetic, where t = steps + 1 and g already has its sign, scale and clipping.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

States = tuple[Tensor, ...]


def optimizer_step(
    rule: str, params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[Tensor], steps: Sequence[Tensor],
    hyperparameters: Sequence[float], flags: Sequence[bool], lr: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None,
    norm: Tensor | None, max_grad_norm: float,
) -> None:
    """Update params, states and steps in place. Reads lr, grad_scale, found_inf, norm and steps on the host."""
    if found_inf is not None and found_inf.item() != 0:
        return
    update, count = update_rule(rule), len(params)
    rate = hyperparameters[0] if lr is None else lr.item()
    factor = _gradient_factor(flags[0], grad_scale, norm, max_grad_norm)
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        compute = torch.float64 if param.dtype == torch.float64 else torch.float32
        own = states[i::count]
        t = steps[i].item() + 1 if steps else 1.0
        p, new = update(
            param.to(compute), grad.to(compute) * factor, tuple(s.to(compute) for s in own), t, rate, *hyperparameters[1:], *flags[1:]
        )
        param.copy_(p)
        for state, value in zip(own, new, strict=True):
            state.copy_(value)
        if steps:
            steps[i].add_(1)


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


def _gradient_factor(maximize: bool, grad_scale: Tensor | None, norm: Tensor | None, max_grad_norm: float) -> float:
    """What every gradient is multiplied by: sign, 1 / grad_scale and clipping."""
    scale = 1.0 if grad_scale is None else 1.0 / grad_scale.item()
    clip = 1.0
    if norm is not None:
        ratio = max_grad_norm / (math.sqrt(norm[0].item()) * scale + 1e-6)
        clip = 1.0 if ratio > 1.0 else ratio  # in this order a NaN norm gives NaN, as torch's clamp does
    return -scale * clip if maximize else scale * clip


def sgd(
    p: Tensor, g: Tensor, states: States, t: float, lr: float, weight_decay: float, momentum: float, dampening: float,
    nesterov: bool, first: bool,
) -> tuple[Tensor, States]:
    """Stochastic gradient descent with momentum; ``first``: the buffer holds nothing yet and becomes g."""
    if weight_decay != 0:
        g = g + weight_decay * p
    if not states:
        return p - lr * g, ()
    buffer = g if first else momentum * states[0] + (1 - dampening) * g
    return p - lr * (g + momentum * buffer if nesterov else buffer), (buffer,)


def adam(
    p: Tensor, g: Tensor, states: States, t: float, lr: float, weight_decay: float, beta1: float, beta2: float, eps: float,
    amsgrad: bool,
) -> tuple[Tensor, States]:
    """Adam; weight decay is an L2 penalty, part of the gradient."""
    if weight_decay != 0:
        g = g + weight_decay * p
    m = states[0] + (1 - beta1) * (g - states[0])
    v = beta2 * states[1] + (1 - beta2) * g * g
    largest = (torch.maximum(states[2], v),) if amsgrad else ()
    denominator = (largest[0] if amsgrad else v).sqrt() / math.sqrt(1 - beta2**t) + eps
    return p - lr / (1 - beta1**t) * (m / denominator), (m, v, *largest)


def adamw(
    p: Tensor, g: Tensor, states: States, t: float, lr: float, weight_decay: float, beta1: float, beta2: float, eps: float,
    amsgrad: bool,
) -> tuple[Tensor, States]:
    """Adam with decoupled weight decay: the parameter shrinks first, the gradient stays as it is."""
    return adam(p * (1 - lr * weight_decay), g, states, t, lr, 0.0, beta1, beta2, eps, amsgrad)

