"""Adam and its kin, drop-in for those of torch.optim."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..specs import UPDATE_RULES, UpdateRule
from .fused import FusedStep


class Adam(FusedStep, torch.optim.Adam, row="adam"):
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
        decoupled_weight_decay: do what AdamW does (default False).
        {options}

    {promises}

    Source: Kingma & Ba, Adam: A Method for Stochastic Optimization, arXiv:1412.6980; Reddi et al., ICLR 2018 (amsgrad).

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.Adam([p], lr=0.1).step()
    >>> p
    tensor([0.9000, 0.9000, 0.9000], requires_grad=True)
    """

    def rule(self, group: Mapping[str, Any]) -> UpdateRule:
        """The row of specs.py that this group is updated by."""
        return UPDATE_RULES["adamw"] if group["decoupled_weight_decay"] else self.row


class AdamW(FusedStep, torch.optim.AdamW, row="adamw"):
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
        {options}

    {promises}

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.AdamW([p], lr=0.1).step()
    >>> p
    tensor([0.8990, 0.8990, 0.8990], requires_grad=True)
    """

    def rule(self, group: Mapping[str, Any]) -> UpdateRule:
        """The row of specs.py that this group is updated by."""
        return self.row if group["decoupled_weight_decay"] else UPDATE_RULES["adam"]


class NAdam(FusedStep, torch.optim.NAdam, row="nadam"):
    r"""Adam with Nesterov's momentum, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ, momentum decay ψ and the number of the
    step t::

        g = g + λ p, or p = (1 - lr λ) p if decoupled
        μ(t) = β1 (1 - 0.96^(t ψ) / 2),  M = μ(1) ... μ(t)
        m = β1 m + (1 - β1) g
        v = β2 v + (1 - β2) g²
        p = p - lr ((1 - μ(t)) g / (1 - M) + μ(t+1) m / (1 - M μ(t+1))) / (sqrt(v / (1 - β2^t)) + eps)

    The same as torch.optim.NAdam, whose state_dict it loads and whose instances load its own.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 2e-3).
        betas: (β1, β2), numbers or one-element tensors (default (0.9, 0.999)).
        eps: keeps the denominator away from 0 (default 1e-8).
        weight_decay: λ (default 0).
        momentum_decay: ψ (default 4e-3).
        decoupled_weight_decay: weight decay as in AdamW (default False).
        {options}

    {promises}

    Source: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.NAdam([p], lr=0.1).step()
    >>> p
    tensor([0.8944, 0.8944, 0.8944], requires_grad=True)
    """


class RAdam(FusedStep, torch.optim.RAdam, row="radam"):
    r"""Adam that takes plain momentum steps until the second moment is known well enough, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ and the number of the step t::

        g = g + λ p, or p = (1 - lr λ) p if decoupled
        m = β1 m + (1 - β1) g
        v = β2 v + (1 - β2) g²
        R = 2 / (1 - β2) - 1,  r = R - 2 t β2^t / (1 - β2^t)
        u = sqrt((r - 4) (r - 2) R / ((R - 4) (R - 2) r)) sqrt(1 - β2^t) / (sqrt(v) + eps) if r > 5, else 1
        p = p - lr m / (1 - β1^t) u

    The same as torch.optim.RAdam, whose state_dict it loads and whose instances load its own. As there, steps become adaptive above
    r = 5, where the paper has 4, and eps is added before the bias correction.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 1e-3).
        betas: (β1, β2), numbers or one-element tensors (default (0.9, 0.999)).
        eps: keeps the denominator away from 0 (default 1e-8).
        weight_decay: λ (default 0).
        decoupled_weight_decay: weight decay as in AdamW (default False).
        {options}

    {promises}

    Source: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, arXiv:1908.03265.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.RAdam([p], lr=0.1).step()
    >>> p
    tensor([0.9500, 0.9500, 0.9500], requires_grad=True)
    """


class Adamax(FusedStep, torch.optim.Adamax, row="adamax"):
    r"""Adam with the largest gradient so far, which fades, in place of the root mean square, as one fused kernel.

    With gradient g (negated if ``maximize``, clipped if ``max_grad_norm``), weight decay λ and the number of the step t::

        g = g + λ p
        m = β1 m + (1 - β1) g
        u = max(β2 u, |g| + eps)
        p = p - lr m / (1 - β1^t) / u

    The same as torch.optim.Adamax, whose state_dict it loads and whose instances load its own. eps is not in the paper.

    Args:
        params: parameters, (name, parameter) pairs, or dictionaries of parameter groups; float32, bfloat16, float16 or float64.
        lr: learning rate, a number or a one-element tensor (default 2e-3).
        betas: (β1, β2), numbers or one-element tensors (default (0.9, 0.999)).
        eps: keeps u away from 0 (default 1e-8).
        weight_decay: λ, an L2 penalty (default 0).
        {options}

    {promises}

    Source: Kingma & Ba, Adam: A Method for Stochastic Optimization, arXiv:1412.6980, section 7.

    >>> import fastlayers
    >>> p = torch.ones(3, requires_grad=True)
    >>> p.grad = torch.full((3,), 0.5)
    >>> fastlayers.optim.Adamax([p], lr=0.1).step()
    >>> p
    tensor([0.9000, 0.9000, 0.9000], requires_grad=True)
    """
