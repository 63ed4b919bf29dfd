"""Which class of fastlayers.nn stands for which of torch.nn, and what it has that torch's lacks."""
from __future__ import annotations

import functools
import inspect

import torch

from . import nn
from .nn.batch_norm import _BatchNorm

OURS = {
    getattr(torch.nn, name): getattr(nn, name) for name in nn.__all__
    if hasattr(torch.nn, name) and issubclass(getattr(nn, name), (getattr(torch.nn, name), _BatchNorm))  # SyncBatchNorm is our own
}
"""The drop-in for each class of torch.nn that has one."""

TORCHS = {ours: theirs for theirs, ours in OURS.items()}


@functools.cache
def options(kind: type[torch.nn.Module]) -> dict[str, object]:
    """What a drop-in has besides torch's attributes, as its constructor leaves it: its keywords, and whether it is frozen."""
    keywords = [one for one in inspect.signature(kind).parameters.values() if one.kind is one.KEYWORD_ONLY]
    own = {one.name: one.default for one in keywords if one.name != "bias"}  # which torch has from 2.13 on
    return own | ({"frozen": False} if issubclass(kind, _BatchNorm) else {})
