"""The functional API: checks its arguments, draws the seed, and hands over to the autograd functions."""
from .activations import FUNCTIONS as _FUNCTIONS
from .activations import apply
from .batch_norm import batch_norm
from .dropout import dropout, dropout_mask
from .epilogue import bias_activation
from .gated import glu

globals().update(_FUNCTIONS)
__all__ = ["apply", "batch_norm", "bias_activation", "dropout", "dropout_mask", "glu", *_FUNCTIONS]


def __getattr__(name: str) -> object:
    """The function of a registered activation."""
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
