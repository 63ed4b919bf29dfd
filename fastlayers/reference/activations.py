"""Every activation as PyTorch, written as its formula reads, in the module of its family: the oracle of all tests.

Under a row's name stand a function ``f(x, *arguments)`` and its derivative ``f_derivative(x, *arguments)``, which returns
df/dx and df/d(parameter) for each learnable parameter. Arguments are the learnable parameters, then the constants, in the
order of the row in specs.py; a random row takes uniform numbers after them. Where backward may keep y instead of x,
``f_derivative_from_output(y, *arguments)`` gives df/dx. Where the row says that x follows from y, ``f_inverse(y, *arguments)`` is x;
where many x round to one y it is one of them, and finite. At +-inf functions and derivatives are their limit, where there is one.
Everything is differentiable, so that second derivatives go through here.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import generated
from . import activations_gates, activations_periodic, activations_piecewise, activations_smooth, activations_soft_exponential, formulas

_FAMILIES = (activations_piecewise, activations_smooth, activations_gates, activations_periodic, activations_soft_exponential)


def function(name: str, kind: str = "") -> Callable[..., Any]:
    """The function of row ``name``; kind is "", "derivative", "derivative_from_output" or "inverse"."""
    if name in generated.REGISTERED:
        return formulas.function(name, kind)
    full = f"{name}_{kind}" if kind else name
    for family in _FAMILIES:
        if hasattr(family, full):
            return getattr(family, full)
    raise AttributeError(f"fastlayers/reference/activations_*.py lack {full}")
