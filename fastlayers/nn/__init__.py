"""Modules. A class with a torch.nn name is drop-in: same arguments, order, state_dict and numbers; new arguments are keyword-only."""
import torch

from . import activations
from .activations import *  # noqa: F403 - the classes are made from the rows of specs.py
from .activations import __all__ as _activations
from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from .dropout import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout
from .feature_norm import FeatureNorm
from .gated import GEGLU, GLU, ReGLU, SwiGLU
from .sync_batch_norm import SyncBatchNorm

__all__ = [
    "AlphaDropout", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout",
    "FeatureNorm", "GEGLU", "GLU", "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d", "ReGLU", "SwiGLU", "SyncBatchNorm",
    *_activations,
]


def __getattr__(name: str) -> type[torch.nn.Module]:
    """The class of a registered activation."""
    if name in activations.CLASSES:
        return activations.CLASSES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
