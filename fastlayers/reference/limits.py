"""What activations are at infinity: limits, where the formula as written gives NaN."""
from __future__ import annotations

import torch
from torch import Tensor


def times_gate(x: Tensor, gate: Tensor) -> Tensor:
    """x * gate with the limit 0, not NaN, where the gate has closed and x is infinite."""
    return torch.where(gate == 0, torch.zeros_like(x), x * gate)


def slope_times(slope: Tensor, x: Tensor) -> Tensor:
    """slope * x with the limit 0, not NaN, where the slope is 0 and x infinite."""
    return slope * torch.where((slope == 0) & x.isinf(), 0, x)


def finite(x: Tensor) -> Tensor:
    """x with the largest finite number for infinity, where its slope is 0."""
    return torch.where(x.isinf(), torch.sign(x) * torch.finfo(x.dtype).max, x)
