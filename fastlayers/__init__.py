"""fastlayers: fused activation, batch norm, dropout and optimizer kernels for PyTorch, on CPUs and GPUs."""
from importlib.metadata import version as _version

from . import functional, nn, ops, optim, specs
from .backends import backend, backends
from .formulas import register_activation, unregister_activation

__version__ = _version("fastlayers")
__all__ = ["backend", "backends", "functional", "nn", "ops", "optim", "register_activation", "specs", "unregister_activation"]
