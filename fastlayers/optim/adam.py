"""Adam and AdamW, drop-in for those of torch.optim."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..specs import UPDATE_RULES, UpdateRule
from .fused import FusedStep
from .plan import Group

Betas = tuple[float | Tensor, float | Tensor]


class _AdamRule(FusedStep):
    def rule(self, group: Group) -> UpdateRule:
        return UPDATE_RULES["adamw" if group["decoupled_weight_decay"] else "adam"]


class Adam(_AdamRule, torch.optim.Adam):
    r"""Adam as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ and the number of the step t::

        g = g + λ p
        m = β1 m + (1 - β1) g
        v = β2 v + (1 - β2) g²
        p = p - lr m / (1 - β1^t) / (sqrt(v / (1 - β2^t)) + eps)         with amsgrad the largest v so far stands for v

    The same as torch.optim.Adam, whose state_dict it loads and whose instances load its own. As there, eps is outside the root and
    amsgrad takes the largest v before the bias correction.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 1e-3).
        betas: (β1, β2), numbers or one-element tensors (default (0.9, 0.999)).
        eps: keeps the denominator away from 0 (default 1e-8).
        weight_decay: λ, an L2 penalty (default 0).
        amsgrad: (default False).
        foreach, capturable, fused: accepted for torch.optim's sake, without effect.
        maximize: go up instead of down (default False).
        differentiable: must be False.
        decoupled_weight_decay: do what AdamW does (default False).
        max_grad_norm: clip the norm of all gradients together to this, as torch.nn.utils.clip_grad_norm_ does, but inside the
            kernel and without changing ``p.grad`` (default None: no clipping).

    Raises:
        ValueError: as torch.optim.Adam, and ``Adam: differentiable must be False, got True: ...``.
        RuntimeError: at ``step``, ``Adam: grad must be dense, got a sparse_coo tensor of shape (10, 3)``.

    Half-precision parameters are computed in float32 and rounded once. New states have the parameter's dtype, as in torch; float32
    states that a checkpoint holds for half-precision parameters stay float32.

    Source: Kingma & Ba, Adam: A Method for Stochastic Optimization, arXiv:1412.6980; Reddi et al., ICLR 2018 (amsgrad).

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.Adam([p], lr=0.1).step()
    >>> p
    tensor([0.9000, 0.9000, 0.9000], requires_grad=True)
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0,
        amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None, decoupled_weight_decay: bool = False,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=decoupled_weight_decay, max_grad_norm=max_grad_norm,
        )


class AdamW(_AdamRule, torch.optim.AdamW):
    r"""Adam with decoupled weight decay, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ and the number of the step t::

        p = (1 - lr λ) p
        m = β1 m + (1 - β1) g
        v = β2 v + (1 - β2) g²
        p = p - lr m / (1 - β1^t) / (sqrt(v / (1 - β2^t)) + eps)         with amsgrad the largest v so far stands for v

    The same as torch.optim.AdamW, whose state_dict it loads and whose instances load its own. As there, the decay is multiplied by
    lr, which the paper keeps apart.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 1e-3).
        betas: (β1, β2), numbers or one-element tensors (default (0.9, 0.999)).
        eps: keeps the denominator away from 0 (default 1e-8).
        weight_decay: λ (default 1e-2).
        amsgrad: (default False).
        maximize: go up instead of down (default False).
        foreach, capturable, fused: accepted for torch.optim's sake, without effect.
        differentiable: must be False.
        max_grad_norm: clip the norm of all gradients together to this, as torch.nn.utils.clip_grad_norm_ does, but inside the
            kernel and without changing ``p.grad`` (default None: no clipping).

    Raises:
        ValueError: as torch.optim.AdamW, and ``AdamW: differentiable must be False, got True: ...``.
        RuntimeError: at ``step``, ``AdamW: grad must be dense, got a sparse_coo tensor of shape (10, 3)``.

    Half-precision parameters are computed in float32 and rounded once. New states have the parameter's dtype, as in torch; float32
    states that a checkpoint holds for half-precision parameters stay float32.

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.AdamW([p], lr=0.1).step()
    >>> p
    tensor([0.8990, 0.8990, 0.8990], requires_grad=True)
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
        amsgrad: bool = False, *, maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None, max_grad_norm: float | None = None,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, foreach=foreach, capturable=capturable,
            differentiable=differentiable, fused=fused, max_grad_norm=max_grad_norm,
        )
