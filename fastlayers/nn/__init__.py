"""Modules. A class with a torch.nn name is drop-in: same arguments, order, state_dict and numbers; new arguments are keyword-only."""
from .activations import *  # noqa: F403 - the classes are made from the rows of specs.py
from .activations import __all__ as _activations
from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from .dropout import Dropout
from .feature_norm import FeatureNorm
from .sync_batch_norm import SyncBatchNorm

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout", "FeatureNorm", "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d",
    "SyncBatchNorm", *_activations,
]
