"""Batch norm folded into the layer before it, for inference."""
from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from operator import attrgetter
from typing import TypeVar

import torch
from torch import Tensor, fx

from . import checks, functional
from .nn.batch_norm import _BatchNorm
from .overrides import traced

Model = TypeVar("Model", bound=torch.nn.Module)
_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
_DIMENSIONS = {
    torch.nn.Linear: 2, torch.nn.Conv1d: 3, torch.nn.Conv2d: 4, torch.nn.Conv3d: 5,
    torch.nn.ConvTranspose1d: 3, torch.nn.ConvTranspose2d: 4, torch.nn.ConvTranspose3d: 5,
}
"""What can be folded into, and of how many dimensions its output is where batch norm's channels are its own."""

_FORWARDS = (torch.nn.modules.batchnorm._BatchNorm.forward, torch.nn.SyncBatchNorm.forward, _BatchNorm.forward)
"""What a batch norm computes, subclasses among them unless they compute something else."""


class FoldedBatchNorm(torch.nn.Module):
    """What is left of a batch norm that the layer before it computes: y = activation(x + residual), one kernel.

    Args:
        activation: the block's, or None.
        dimensions: of x; a Linear on (N, L, C) has its channels elsewhere than batch norm looks for them.
    """

    def __init__(self, activation: torch.nn.Module | None, dimensions: int) -> None:
        super().__init__()
        self.activation = activation
        self.dimensions = dimensions

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """y = activation(input + residual)."""
        if isinstance(input, fx.Proxy):
            return traced(self, input, residual)
        if input.dim() != self.dimensions:
            checks.dimensions("FoldedBatchNorm", input, (self.dimensions,))
        if self.activation is None and residual is None:
            return input
        return functional.bias_activation(input, None, self.activation or "identity", residual=residual)


def fold_batch_norm(model: Model) -> Model:
    """Merge every batch norm of a model in eval mode into the Linear, Conv or ConvTranspose whose output it alone takes.

    With s = weight / sqrt(running_var + eps): the layer's weight times s, (the layer's bias - running_mean) s + bias. A block's
    activation and residual stay, as one kernel, under the batch norm's name.

    Args:
        model: in eval mode; batch norms of torch.nn or fastlayers.nn; Linear, Conv1d to 3d and ConvTranspose1d to 3d, with groups.
            torch.fx must be able to trace it: how data flows decides what can be folded.

    Returns:
        A copy of the model with the same classes and names; what cannot be folded stays: a batch norm in training or without running
        statistics, with a forward of its own, after a layer that is used twice or has hooks, as weight_norm's has, or whose output or
        weight goes elsewhere too.

    Raises:
        ValueError: ``fold_batch_norm: model must be in eval mode, got training=True``, ``model must be traceable by torch.fx, ...``, or
            ``model must have been called once, got lazy 1.running_mean, 1.running_var without a size``.

    Accuracy: float64 arithmetic, each new weight and bias rounded once to its dtype.

    Source: Jacob et al., arXiv:1712.05877, section 3.2.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
    >>> fold_batch_norm(model)[1]
    FoldedBatchNorm()
    """
    checks.module("fold_batch_norm", model)
    checks.evaluating("fold_batch_norm", model.training)
    checks.initialised("fold_batch_norm", model)
    model = _copy(model)
    for layer_name, norm_name in _pairs(model):
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        _fold(layer, norm)
        left = FoldedBatchNorm(getattr(norm, "activation", None), _DIMENSIONS[type(layer)]).eval()
        for other, module in list(model.named_modules(remove_duplicate=False)):  # it may have more names than the one in the graph
            if module is norm:
                parent, _, name = other.rpartition(".")
                setattr(model.get_submodule(parent), name, left)
    return model


def _copy(model: Model) -> Model:
    """A deep copy, which torch refuses where a hook, as weight_norm's and pruning's, has made a tensor that it makes anew at each call."""
    made = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in made})


class _Tracer(fx.Tracer):
    """Looks into everything but torch's layers, fastlayers' and batch norms of any class, whose checks of x torch.fx cannot trace."""

    def is_leaf_module(self, module: torch.nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def _pairs(model: torch.nn.Module) -> list[tuple[str, str]]:
    """The names of (layer, batch norm) that can be folded, whichever optional arguments the model is called with."""
    optional = {name: argument.default for name, argument in inspect.signature(model.forward).parameters.items()
                if argument.default is not argument.empty}
    given = [{}, *({name: value} for name, value in optional.items())] + ([optional] if len(optional) > 1 else [])
    found = [list(_pairs_in(model, _traced(model, concrete))) for concrete in given]
    return [pair for pair in found[0] if all(pair in other for other in found)]


def _traced(model: torch.nn.Module, concrete: dict[str, object]) -> fx.Graph:
    """The model's graph with these arguments as they are, the others as whatever is given: a proxy is never None."""
    try:
        return _Tracer().trace(model, concrete or None)
    except Exception as error:  # whatever the model's own code raises when it meets a proxy in place of a tensor
        raise checks.untraceable("fold_batch_norm", error) from error


def _pairs_in(model: torch.nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = [id(modules[node.target]) for node in calls]
    read = {id(attrgetter(node.target)(model)) for node in graph.nodes if node.op == "get_attr"}
    for node in calls:
        before = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        if [*node.args, *node.kwargs.values()].count(before) != 1:  # it is the residual as well
            continue
        layer, norm = modules[before.target], modules[node.target]
        if any(id(value) in read for module in (layer, norm) for value in (*module.parameters(), *module.buffers())):
            continue
        if uses.count(id(layer)) == 1 and uses.count(id(norm)) == 1 and _can_fold(layer, norm):
            yield before.target, node.target


def _can_fold(layer: torch.nn.Module, norm: torch.nn.Module) -> bool:
    if type(layer) not in _DIMENSIONS or not isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
        return False
    evaluating = not norm.training or getattr(norm, "frozen", False)
    hooks = any((layer._forward_hooks, layer._forward_pre_hooks, norm._forward_hooks, norm._forward_pre_hooks))
    known = type(norm).forward in _FORWARDS and not any("forward" in vars(module) for module in (layer, norm))
    outputs = layer.out_features if isinstance(layer, torch.nn.Linear) else layer.out_channels
    statistics = norm.running_mean is not None and norm.running_var is not None and norm.running_mean.numel() == outputs
    return evaluating and statistics and not hooks and known


@torch.no_grad()
def _fold(layer: torch.nn.Module, norm: torch.nn.modules.batchnorm._BatchNorm) -> None:
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean.double()
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias.double()
    weight = layer.weight.double()
    if isinstance(layer, _TRANSPOSED):  # (in, out / groups, ...): a group of inputs makes a group of outputs
        grouped = weight.view(layer.groups, -1, *weight.shape[1:])
        folded = grouped * scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        weight = folded.view_as(weight)
    else:
        weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    dtype, gradient = layer.weight.dtype, layer.weight.requires_grad
    layer.bias = torch.nn.Parameter(bias.to(dtype), gradient)
    layer.weight = torch.nn.Parameter(weight.to(dtype), gradient)
