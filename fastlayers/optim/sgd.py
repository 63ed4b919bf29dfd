"""SGD, drop-in for torch.optim.SGD, and Lion."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from . import checks
from .fused import FusedStep


class SGD(FusedStep, torch.optim.SGD, row="sgd"):
    r"""Stochastic gradient descent, with momentum if wanted, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ, momentum μ and dampening τ::

        g = g + λ p
        b = g at the first step, else μ b + (1 - τ) g
        p = p - lr (g + μ b if nesterov else b)

    The same as torch.optim.SGD, whose state_dict it loads and whose instances load its own. As there, and unlike Sutskever et al.,
    lr multiplies the momentum buffer and is not part of it.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 1e-3).
        momentum: μ (default 0).
        dampening: τ (default 0).
        weight_decay: λ, an L2 penalty (default 0).
        nesterov: look ahead along the momentum (default False).
        {options}

    {promises}

    Source: Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.SGD([p], lr=0.1).step()
    >>> p
    tensor([0.9500, 0.9500, 0.9500], requires_grad=True)
    """


class _LionArguments(torch.optim.Optimizer):
    """What torch.optim.Lion would be if there were one: arguments and defaults."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-4, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0, *, foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None,
    ) -> None:
        if isinstance(lr, Tensor):
            checks.one_element("Lion", "lr", lr)
        super().__init__(params, {
            "lr": lr, "betas": betas, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize, "capturable": capturable,
            "differentiable": differentiable, "fused": fused})


class Lion(FusedStep, _LionArguments, row="lion"):
    r"""Lion, which steps by the sign of a momentum, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``) and weight decay λ::

        p = (1 - lr λ) p
        p = p - lr sign(β1 m + (1 - β1) g)
        m = β2 m + (1 - β2) g

    As in the paper; one state instead of Adam's two. Every element moves by lr, so lr is usually a third to a tenth of AdamW's and λ
    three to ten times as large. Where the sum is NaN, so is the parameter.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 1e-4).
        betas: (β1, β2), numbers or one-element tensors (default (0.9, 0.99)).
        weight_decay: λ, decoupled (default 0).
        {options}

    {promises}

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.tensor([0.5, 0.0, -2.0])
    >>> fastlayers.optim.Lion([p], lr=0.1).step()
    >>> p
    tensor([0.9000, 1.0000, 1.1000], requires_grad=True)
    """
