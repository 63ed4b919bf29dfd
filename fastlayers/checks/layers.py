"""Checks of batch norm: its arguments, and what a layer can be asked for."""
from __future__ import annotations

import math

from torch import Tensor

from ..context import transformed
from .activations import channel_parameters
from .tensors import channel_vectors, dtype_name, like_x, own_memory, tensor
from .values import number, one_of


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    residual: Tensor | None, parameters: Tensor | None, num_batches_tracked: Tensor | None, training: bool, momentum: float | None,
    eps: float, channel_dim: int, alone: bool = True,
) -> None:
    """Everything batch norm asks of the arguments besides x, before it changes anything."""
    operation = "batch_norm"
    running_statistics(operation, running_mean, running_var, training)
    channel_vectors(operation, x, channel_dim, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if running_mean is not None and (running_mean.requires_grad or running_var.requires_grad) and not transformed():
        raise RuntimeError(f"{operation}: running_mean and running_var must not require a gradient, got requires_grad=True")
    if training and running_mean is not None and not (running_mean.is_contiguous() and running_var.is_contiguous()) and not transformed():
        own_memory(operation, running_mean=running_mean, running_var=running_var)
    if residual is not None:
        like_x(operation, "residual", residual, x)
    if parameters is not None:
        channel_parameters(operation, "activation", parameters, x, x.size(channel_dim))
    if momentum is None and training and running_mean is not None and num_batches_tracked is None:
        raise RuntimeError(f"{operation}: num_batches_tracked must be given when momentum is None, got None")
    if num_batches_tracked is not None:
        tensor(operation, "num_batches_tracked", num_batches_tracked)
        if num_batches_tracked.is_complex() or num_batches_tracked.numel() != 1:
            raise RuntimeError(f"{operation}: num_batches_tracked must be a real number in a 0-d tensor, got "
                               f"{dtype_name(num_batches_tracked.dtype)} of shape {tuple(num_batches_tracked.shape)}")
    if type(momentum) is not float and momentum is not None:
        number(operation, "momentum", momentum)
    if type(eps) is not float:
        number(operation, "eps", eps)
    if not (eps > 0 or (eps == 0 and not training)):
        raise ValueError(f"{operation}: eps must be {'positive when training' if training else 'non-negative'}, got {eps}")
    if training and alone:  # other ranks may have values
        more_than_one_value(operation, x, channel_dim)


def running_statistics(operation: str, mean: Tensor | None, var: Tensor | None, training: bool) -> None:
    """Both or none; evaluation needs them. Of one alone a ValueError in training and a RuntimeError in evaluation, as in torch."""
    if (mean is None) != (var is None):
        given, missing = ("running_mean", "running_var") if var is None else ("running_var", "running_mean")
        raise (ValueError if training else RuntimeError)(f"{operation}: {missing} must be given together with {given}, got None")
    if mean is None and not training:
        raise RuntimeError(f"{operation}: running_mean and running_var must be given when training=False, got None")


def more_than_one_value(operation: str, x: Tensor, channel_dim: int) -> None:
    """In training a channel needs two values for a variance."""
    if x.numel() == x.size(channel_dim) and math.prod(x.shape[:channel_dim] + x.shape[channel_dim + 1:]) == 1:  # not 0 channels
        raise ValueError(f"{operation}: x must have more than 1 value per channel when training, got shape {tuple(x.shape)}")


def tracked(operation: str, mean: Tensor | None, track_running_stats: bool) -> None:
    """A layer that is to be frozen has statistics to be frozen with."""
    if mean is None:
        raise RuntimeError(f"{operation}: freeze() must find running statistics, got track_running_stats={track_running_stats}")


def memory(operation: str, value: str) -> None:
    """What backward keeps."""
    if value != "default" and value != "inplace":
        one_of(operation, "memory", value, ("default", "inplace"))


def once_differentiable(operation: str, once: bool) -> None:
    """What was restored from y has no second derivative."""
    if not once:
        raise RuntimeError(f"{operation}: memory must be 'default' for a gradient that is itself differentiated, got 'inplace'")


def once_synchronised(operation: str, once: bool) -> None:
    """Statistics of other ranks are numbers here, not functions of their x."""
    if not once:
        raise RuntimeError(f"{operation}: gradients must be taken once when ranks share a batch, got create_graph=True")


def one_process(operation: str, alone: bool) -> None:
    """Transforms cannot follow what travels between ranks."""
    if not alone:
        raise RuntimeError(f"{operation}: group must be None under a transform of torch.func or forward_ad, got a process group")
