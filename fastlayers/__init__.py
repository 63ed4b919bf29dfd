"""fastlayers: fused activation, batch norm, dropout and optimizer kernels for PyTorch, on CPUs and GPUs."""
from importlib.metadata import version as _version

from . import functional, nn, optim, specs
from .backends import backend, backends
from .convert import convert, revert
from .ensemble import mc_dropout
from .folding import fold_batch_norm
from .formulas import register_activation, unregister_activation
from .stopping import EarlyStopping
from .warmup import warmup

__version__ = _version("fastlayers")
__all__ = [
    "EarlyStopping", "backend", "backends", "convert", "fold_batch_norm", "functional", "mc_dropout", "nn", "optim",
    "register_activation", "revert", "specs", "unregister_activation", "warmup",
]
