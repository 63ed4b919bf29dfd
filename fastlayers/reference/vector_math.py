"""MKL's vector functions, called once by one thread before several call them."""
from __future__ import annotations

import torch

_FUNCTIONS = (  # those of ATen/cpu/vml.h that stand between IMPLEMENT_VML_MKL's parentheses
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "sin", "sqrt", "tan", "tanh", "trunc",
)


def resolve_vector_functions() -> None:
    """Call each of MKL's vector functions that torch uses on one element: about 2 ms, once per process.

    MKL chooses a function's kernel at its first call, and a thread that comes along meanwhile may compute its share with the one of
    least accuracy. Without these calls ``python -m fastlayers check --backend reference`` finds the process's first ``torch.tanh`` of
    some thousand elements off by 9e-5, 760 ULP, in one of ten runs. MKL before 2025 does that, which torch's wheels contain
    (https://github.com/pytorch/pytorch/issues/188792); without MKL the calls do nothing but take their time.
    """
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            one = torch.ones(1, dtype=dtype, device="cpu")
            for name in _FUNCTIONS:
                getattr(torch, name)(one)
