"""Nested tensors of the jagged layout: what works element by element works on their values."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def is_jagged(x: object) -> bool:
    """Whether x is a nested tensor that has its values in one tensor."""
    return isinstance(x, Tensor) and x.layout is torch.jagged


def on_values(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function of x's values, cut up as x is."""
    return torch.nested.nested_tensor_from_jagged(function(x.values()), x.offsets(), x.lengths(), x._ragged_idx)
