"""The half types, and which dtype arithmetic is done in."""
from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def accumulate_dtype(x: Tensor) -> torch.dtype:
    """The dtype that x is computed in: float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32
