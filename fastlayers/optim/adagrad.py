"""Adagrad and RMSprop, drop-in for those of torch.optim."""
from __future__ import annotations

import torch

from .fused import FusedStep


class Adagrad(FusedStep, torch.optim.Adagrad, row="adagrad"):
    r"""Adagrad, whose step falls with the root of the sum of all squared gradients, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ and the number of the step t::

        g = g + λ p
        s = s + g²
        p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    The same as torch.optim.Adagrad for dense gradients, whose state_dict it loads and whose instances load its own.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 1e-2).
        lr_decay: (default 0).
        weight_decay: λ, an L2 penalty (default 0).
        initial_accumulator_value: what s starts as (default 0).
        eps: keeps the denominator away from 0 (default 1e-10).
        {options}

    {promises}

    Source: Duchi, Hazan & Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 12, 2011.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.Adagrad([p], lr=0.1).step()
    >>> p
    tensor([0.9000, 0.9000, 0.9000], requires_grad=True)
    """


class RMSprop(FusedStep, torch.optim.RMSprop, row="rmsprop"):
    r"""RMSprop, whose step is divided by the root of a running mean of squared gradients, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ and momentum μ::

        g = g + λ p
        v = alpha v + (1 - alpha) g²
        a = alpha a + (1 - alpha) g           and w = max(v - a², 0) if centered, else w = v
        u = g / (sqrt(w) + eps)
        b = μ b + u                           and b stands for u if μ > 0
        p = p - lr u

    The same as torch.optim.RMSprop, whose state_dict it loads and whose instances load its own; but where rounding makes v - a² negative,
    torch's parameter becomes NaN.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 1e-2).
        alpha: how much of v is kept at each step (default 0.99).
        eps: keeps the denominator away from 0 (default 1e-8).
        weight_decay: λ, an L2 penalty (default 0).
        momentum: μ (default 0).
        centered: divide by the deviation instead of the root mean square (default False).
        {options}

    {promises}

    Source: Hinton, Neural Networks for Machine Learning, lecture 6e, 2012; centered: Graves, arXiv:1308.0850.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.RMSprop([p], lr=0.01).step()
    >>> p
    tensor([0.9000, 0.9000, 0.9000], requires_grad=True)
    """
