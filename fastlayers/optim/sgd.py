"""SGD, drop-in for torch.optim.SGD."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..specs import UPDATE_RULES, UpdateRule
from .fused import FusedStep
from .plan import Group


class SGD(FusedStep, torch.optim.SGD):
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
        maximize: go up instead of down (default False).
        foreach, fused: accepted for torch.optim's sake, without effect.
        differentiable: must be False.
        max_grad_norm: clip the norm of all gradients together to this, as torch.nn.utils.clip_grad_norm_ does, but inside the
            kernel and without changing ``p.grad`` (default None: no clipping).

    Raises:
        ValueError: as torch.optim.SGD, and ``SGD: differentiable must be False, got True: ...``.
        RuntimeError: at ``step``, ``SGD: grad must be dense, got a sparse_coo tensor of shape (10, 3)``.

    Half-precision parameters are computed in float32 and rounded once.

    Source: Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.SGD([p], lr=0.1).step()
    >>> p
    tensor([0.9500, 0.9500, 0.9500], requires_grad=True)
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, momentum: float = 0, dampening: float = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None,
        differentiable: bool = False, fused: bool | None = None, max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(
            params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize, foreach=foreach,
            differentiable=differentiable, fused=fused, max_grad_norm=max_grad_norm,
        )

    def rule(self, group: Group) -> UpdateRule:
        return UPDATE_RULES["sgd"]
