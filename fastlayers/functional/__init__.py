"""The functional API: checks its arguments, draws the seed, and hands over to the autograd functions."""
from collections.abc import Callable

import torch

from .activations import FUNCTIONS as _FUNCTIONS
from .batch_norm import batch_norm, batch_norm_and_statistics
from .dropout import alpha_dropout, dropout, dropout1d, dropout2d, dropout3d, dropout_mask, feature_alpha_dropout
from .epilogue import bias_activation
from .gated import glu

globals().update(_FUNCTIONS)
__all__ = [
    "alpha_dropout", "batch_norm", "batch_norm_and_statistics", "bias_activation", "dropout", "dropout1d", "dropout2d", "dropout3d",
    "dropout_mask", "feature_alpha_dropout", "glu", *_FUNCTIONS,
]


def __getattr__(name: str) -> Callable[..., torch.Tensor]:
    """The function of a registered activation."""
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
