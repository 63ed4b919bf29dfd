"""Dropout modules."""
from __future__ import annotations

import torch
from torch import Tensor

from .. import functional


class Dropout(torch.nn.Dropout):
    """Drop each element with probability p while training, and scale the others so that the mean is exact.

    y = x m, m = 0 with probability t / 65536 and else 1 / (1 - t / 65536), t = round(65536 p). Drop-in for ``torch.nn.Dropout``.
    Nothing but an 8-byte seed is kept for backward; the mask is a function of seed and element index alone, the same on every backend.

    Args:
        p: probability in [0, 1]. Default 0.5.
        inplace: write the result into x. Default False.

    Shape: any. float32, float64, float16, bfloat16.

    Raises:
        ValueError: ``dropout probability has to be between 0 and 1, but got 1.5`` from torch's constructor.

    Source: Srivastava et al., JMLR 15 (2014).

    >>> y = Dropout(0.1)(torch.randn(4, 8))
    """

    def forward(self, input: Tensor) -> Tensor:
        """y = x m while training, else x; x is input."""
        return functional.dropout(input, self.p, self.training, self.inplace)
