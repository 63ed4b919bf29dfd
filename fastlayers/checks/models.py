"""Checks of whole models, and of the data that they see."""
from __future__ import annotations

from collections.abc import Sequence

import torch

from .tensors import real


def module(operation: str, model: object) -> None:
    """A model is one of torch's modules."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{operation}: model must be a torch.nn.Module, got {type(model).__name__}")


def evaluating(operation: str, training: bool) -> None:
    """A model that is changed for inference is used for inference."""
    if training:
        raise ValueError(f"{operation}: model must be in eval mode, got training=True")


def initialised(operation: str, model: torch.nn.Module) -> None:
    """Every buffer of a model has a size: torch copies parameters that have none, and no such buffers."""
    lazy = [name for name, value in model.named_buffers() if torch.nn.parameter.is_lazy(value)]
    if lazy:
        raise ValueError(f"{operation}: model must have been called once, got lazy {', '.join(lazy)} without a size")


def untraceable(operation: str, error: Exception) -> ValueError:
    """The refusal of a model that torch.fx cannot trace."""
    return ValueError(f"{operation}: model must be traceable by torch.fx, got {type(error).__name__}: {' '.join(str(error).split())}")


def not_quantized(operation: str, found: Sequence[str]) -> None:
    """No layer of the model works on quantized tensors."""
    if found:
        raise ValueError(f"{operation}: model must not be quantized, got {', '.join(found)}")


def layers_of_torch(operation: str, others: Sequence[str]) -> None:
    """Every layer has a counterpart in torch.nn."""
    if others:
        raise ValueError(f"{operation}: model must hold no layer that torch.nn lacks, got {', '.join(others)}")


def any_dropout(operation: str, modules: Sequence[object]) -> None:
    """A model without dropout is no ensemble."""
    if not modules:
        raise ValueError(f"{operation}: model must hold a dropout layer with p above 0, got none")


def loader(operation: str, value: object) -> None:
    """value yields batches; a tensor would yield its samples, each taken for a batch."""
    if isinstance(value, torch.Tensor):
        raise TypeError(f"{operation}: loader must be an iterable of batches, got a Tensor")
    if not hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
        raise TypeError(f"{operation}: loader must be iterable, got {type(value).__name__}")


def yielded(operation: str, batch: object) -> None:
    """What a loader yields is a tensor of real numbers."""
    if not isinstance(batch, torch.Tensor):
        raise TypeError(f"{operation}: loader must yield tensors, got {type(batch).__name__}")
    real(operation, "loader", batch)


def some_samples(operation: str, count: int) -> None:
    """A dataset of nothing has no mean."""
    if count == 0:
        raise ValueError(f"{operation}: loader must hold at least one sample, got none")


def model_to_restore(operation: str, restore_best: bool, model: object) -> None:
    """The weights to keep are the model's."""
    if restore_best and not isinstance(model, torch.nn.Module):
        raise TypeError(f"{operation}: model must be a Module where restore_best is True, got {type(model).__name__}")
