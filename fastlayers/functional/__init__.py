"""The functional API: checks its arguments, draws the seed, and hands over to the autograd functions."""
from .activations import FUNCTIONS as _FUNCTIONS
from .activations import apply
from .batch_norm import batch_norm, batch_norm_and_statistics
from .dropout import dropout, dropout_mask
from .epilogue import bias_activation

globals().update(_FUNCTIONS)
__all__ = ["apply", "batch_norm", "batch_norm_and_statistics", "bias_activation", "dropout", "dropout_mask", *_FUNCTIONS]
