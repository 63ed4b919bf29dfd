"""fastlayers: fused activation, batch norm, dropout and optimizer kernels for PyTorch, on CPUs and GPUs."""
from importlib.metadata import version as _version

from . import functional, nn, ops, optim, specs
from .backends import backend, backends
from .folding import fold_batch_norm

__version__ = _version("fastlayers")
__all__ = ["backend", "backends", "fold_batch_norm", "functional", "nn", "ops", "optim", "specs"]
