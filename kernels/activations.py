"""Every activation as a pair of Triton functions in the modules of its family, picked up by a row's name of fastlayers/specs.py.

``{name}(x, p)`` is f, ``{name}_derivative(x, p)`` the tuple (df/dx, df/d parameter ...), and where backward may keep y instead of x
``{name}_derivative_from_output(y, p)`` is (df/dx,). x and y are float32 or float64; p is the tuple of learnable parameters, as values
that broadcast against x, then constants, then for a random row a uniform number per element. At +-inf they give the limit; NaN stays NaN.
A name that ends in ``_half`` is what float16 and bfloat16 take in place of the function of that name, where cheaper arithmetic in
float32 leaves the rounding to 16 bits right. Elementary functions are those of math.py.
"""
from __future__ import annotations

import triton

from . import activations_gates, activations_periodic, activations_piecewise, activations_smooth, activations_soft_exponential

_FAMILIES = (activations_piecewise, activations_smooth, activations_gates, activations_periodic, activations_soft_exponential)


def function(name: str, kind: str, half: bool) -> triton.runtime.JITFunction:
    """The function of row ``name`` for half types or not; kind is "", "derivative" or "derivative_from_output"."""
    full = f"{name}_{kind}" if kind else name
    names = (f"{full}_half", full) if half else (full,)
    for candidate in names:
        for family in _FAMILIES:
            if hasattr(family, candidate):
                return getattr(family, candidate)
    raise AttributeError(f"kernels/activations_*.py lack {full}")
