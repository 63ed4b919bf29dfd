"""Argument checks: the only place that words an error, always ``operation: argument must RULE, got VALUE``.

Those of optimizers alone are in optim/checks.py, those of formulas in formulas/checks.py.

Kinds follow torch: ValueError for a value, TypeError for a Python type, RuntimeError for dtype, device and shape of a tensor.
Everything is checked before any state (running statistics, parameters, steps) is changed.
"""
from __future__ import annotations

import inspect
import itertools
import math
import operator
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from .context import transformed
from .reference.dtypes import HALF
from .specs import Activation

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_STRIDED = torch.strided


class OutOfRange(ValueError, RuntimeError):
    """A ValueError, as of any value out of its range, that is a RuntimeError too: torch leaves it to kernels, which raise that."""


def one_of(operation: str, argument: str, value: object, allowed: Sequence[object]) -> None:
    """value is one of those allowed."""
    if value not in allowed:
        raise OutOfRange(f"{operation}: {argument} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def tensor(operation: str, argument: str, value: object) -> None:
    """value is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{operation}: {argument} must be a Tensor, got {type(value).__name__}")


def instance(operation: str, argument: str, value: object, kind: type) -> None:
    """value is an instance of this class."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{operation}: {argument} must be {article} {kind.__name__}, got {type(value).__name__}")


def floating(operation: str, x: Tensor) -> None:
    """x is strided and has one of the four dtypes that kernels take."""
    if type(x) is not Tensor:
        tensor(operation, "x", x)
    if x.dtype not in FLOATING:
        raise RuntimeError(f"{operation}: x must be float32, bfloat16, float16 or float64, got {_name(x.dtype)}")
    if x.layout is not _STRIDED:
        raise RuntimeError(f"{operation}: x must be dense, got a {_name(x.layout).lstrip('_')} tensor of shape {tuple(x.shape)}")
    if x.is_nested:
        raise RuntimeError(f"{operation}: x must be dense or jagged, got a nested tensor of layout torch.strided")


def probability(operation: str, argument: str, p: object) -> None:
    """p is a number in [0, 1]; NaN is not."""
    if not isinstance(p, (int, float)) and not isinstance(p, Real):  # in this order: Real, for numpy's numbers, is ten times slower
        raise TypeError(f"{operation}: {argument} must be a number, got {type(p).__name__}")
    if not 0 <= p <= 1:
        kind = ValueError if p == p else OutOfRange
        raise kind(f"{operation}: {argument} must be between 0 and 1, got {p}")


def seed(operation: str, value: object, x: Tensor) -> None:
    """A seed is an int that 64 bits hold, or a 0-d int64 tensor where x is."""
    if not isinstance(value, Tensor):
        if not isinstance(value, Integral):
            raise TypeError(f"{operation}: seed must be a 0-d int64 tensor or an int, got {type(value).__name__}")
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{operation}: seed must be between -2^63 and 2^63 - 1, got {value}")
        return
    if value.dtype != torch.int64 or value.dim() != 0:
        raise RuntimeError(
            f"{operation}: seed must be a 0-d int64 tensor or an int, got {_name(value.dtype)} of shape {tuple(value.shape)}")
    _on_device(operation, "seed", value, x)


def generator(operation: str, value: object, x: Tensor) -> None:
    """A torch.Generator of x's device."""
    if not isinstance(value, torch.Generator):
        raise TypeError(f"{operation}: generator must be a torch.Generator, got {type(value).__name__}")
    if value.device.type != x.device.type:
        raise RuntimeError(f"{operation}: generator must be on {x.device} like x, got one on {value.device}")


def one_source(operation: str, generator: object) -> None:
    """Nothing is drawn where a seed is given."""
    if generator is not None:
        raise ValueError(f"{operation}: generator must be None where seed is given, got both")


def channels_to_drop(operation: str, x: Tensor, wanted: Sequence[int], strict: bool) -> None:
    """The number of dimensions of channel dropout's x; unless strict, another one than wanted is only warned of, as in torch."""
    tensor(operation, "x", x)
    if x.dim() in wanted:
        return
    rule = f"{operation}: x must be {' or '.join(f'{n}-D' for n in wanted)}, got {x.dim()}-D of shape {tuple(x.shape)}"
    if strict:
        raise RuntimeError(rule)
    if not torch.compiler.is_compiling():  # which would break the graph
        warnings.warn(f"{rule}; as torch's, it will be refused in the future", stacklevel=_outside())


def _outside() -> int:
    """The stacklevel, for a check that warns, of the caller outside this package and torch.nn."""
    level = 3
    frame = sys._getframe(level)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("fastlayers.", "torch.nn.")):
        frame, level = frame.f_back, level + 1
    return level


def has_channels(operation: str, x: Tensor) -> None:
    """Samples and channels, dimensions 0 and 1."""
    if x.dim() < 2:
        raise RuntimeError(f"{operation}: x must be at least 2-D, got {x.dim()}-D of shape {tuple(x.shape)}")


def channel_dimension(operation: str, x: Tensor, channel_dim: int) -> int:
    """x has a dimension channel_dim; counted from the front, as kernels take it."""
    if type(channel_dim) is not int:
        channel_dim = index(operation, "channel_dim", channel_dim)
    if not -x.dim() <= channel_dim < x.dim():
        raise ValueError(f"{operation}: x must have a channel dimension {channel_dim}, got shape {tuple(x.shape)}")
    return channel_dim if channel_dim >= 0 else channel_dim + x.dim()


def channel_vectors(operation: str, x: Tensor, channel_dim: int, **vectors: Tensor | None) -> None:
    """Each vector is None or holds one number per channel of x, where x is, in x's dtype or the dtype it is computed in."""
    shape, dtype, device = (x.size(channel_dim),), x.dtype, x.device
    wide = torch.float32 if dtype is not torch.float64 else dtype
    try:
        for vector in vectors.values():  # this runs at every step: the reasons are looked for only when something is wrong
            if vector is not None and (
                    vector.shape != shape or (vector.dtype is not dtype and vector.dtype is not wide) or vector.device != device):
                break
        else:
            return
    except AttributeError:  # not a tensor
        pass
    for argument, vector in vectors.items():
        if vector is None:
            continue
        tensor(operation, argument, vector)
        if vector.shape != shape:
            raise RuntimeError(f"{operation}: {argument} must have shape {shape} for x of shape {tuple(x.shape)} with channels in "
                               f"dimension {channel_dim}, got {tuple(vector.shape)}")
        _dtype_for(operation, argument, vector, x)
        _on_device(operation, argument, vector, x)


def parameters(operation: str, argument: str, value: Tensor, x: Tensor, channels: int) -> None:
    """The learnable parameters of an activation, [K, P] or [P]: one value each, or one per channel."""
    size = value.size(-1)
    if size != 1 and size != channels:  # not "in": Dynamo finds no symbolic size in a tuple
        rule = f"1 or {channels} values, one per channel" if channels != 1 else f"1 value for x of shape {tuple(x.shape)}"
        raise RuntimeError(f"{operation}: {argument} must hold {rule}, got {size}")
    if value.dtype is not x.dtype:
        _dtype_for(operation, argument, value, x)
    if value.device != x.device:
        _on_device(operation, argument, value, x)


def residual(operation: str, value: Tensor | None, x: Tensor) -> None:
    """residual is None or just like x."""
    if value is not None:
        like_x(operation, "residual", value, x)


def like_x(operation: str, argument: str, value: Tensor, x: Tensor) -> None:
    """value has x's shape, dtype and device."""
    tensor(operation, argument, value)
    if value.shape != x.shape:
        raise RuntimeError(f"{operation}: {argument} must have the shape of x, {tuple(x.shape)}, got {tuple(value.shape)}")
    if value.dtype != x.dtype:
        raise RuntimeError(f"{operation}: {argument} must have the dtype of x, {_name(x.dtype)}, got {_name(value.dtype)}")
    _on_device(operation, argument, value, x)


def dimensions(operation: str, x: Tensor, allowed: Sequence[int]) -> None:
    """x has one of the allowed numbers of dimensions."""
    if x.dim() not in allowed:
        raise ValueError(f"{operation}: x must be {' or '.join(f'{n}-D' for n in allowed)}, got {x.dim()}-D of shape {tuple(x.shape)}")


def at_least_two_dimensions(operation: str, x: Tensor) -> None:
    """x has samples and channels."""
    if x.dim() < 2:
        raise ValueError(f"{operation}: x must have 2 dimensions or more, got shape {tuple(x.shape)}")


def more_than_one_value(operation: str, x: Tensor, channel_dim: int) -> None:
    """In training a channel needs two values for a variance."""
    if x.numel() == x.size(channel_dim) and math.prod(x.shape[:channel_dim] + x.shape[channel_dim + 1:]) == 1:  # not 0 channels
        raise ValueError(f"{operation}: x must have more than 1 value per channel when training, got shape {tuple(x.shape)}")


def running_statistics(operation: str, mean: Tensor | None, var: Tensor | None, training: bool) -> None:
    """Both or none; evaluation needs them. Of one alone a ValueError in training and a RuntimeError in evaluation, as in torch."""
    if (mean is None) != (var is None):
        given, missing = ("running_mean", "running_var") if var is None else ("running_var", "running_mean")
        raise (ValueError if training else RuntimeError)(f"{operation}: {missing} must be given together with {given}, got None")
    if mean is None and not training:
        raise RuntimeError(f"{operation}: running_mean and running_var must be given when training=False, got None")


def own_memory(operation: str, **vectors: Tensor) -> None:
    """A vector that is written to has a place in memory for each of its elements, which one made by expand() has not."""
    for argument, vector in vectors.items():
        if vector.stride() == (0,) and vector.numel() > 1:
            raise RuntimeError(f"{operation}: {argument} must have memory for each channel, got {vector.numel()} views of one element")


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


def real(operation: str, argument: str, value: Tensor) -> None:
    """value is a tensor of real numbers, whole ones or bools among them."""
    tensor(operation, argument, value)
    if value.is_complex():
        raise RuntimeError(f"{operation}: {argument} must hold real numbers, got {_name(value.dtype)}")


def some_samples(operation: str, count: int) -> None:
    """A dataset of nothing has no mean."""
    if count == 0:
        raise ValueError(f"{operation}: loader must hold at least one sample, got none")


def number(operation: str, argument: str, value: object) -> None:
    """value is a number, or a tensor that holds one."""
    if isinstance(value, (int, float)):  # Dynamo answers this of a number that it keeps symbolic
        return
    if not hasattr(value, "__float__") or (isinstance(value, Tensor) and value.numel() != 1):
        raise TypeError(f"{operation}: {argument} must be a number, got {type(value).__name__}")


def at_least(operation: str, argument: str, value: float, low: float) -> None:
    """value is a number from low on."""
    number(operation, argument, value)
    if not value >= low:
        raise ValueError(f"{operation}: {argument} must be at least {low}, got {value}")


def constructor_arguments(
    operation: str, positional: Sequence[str], by_keyword: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object],
) -> None:
    """Each argument is one of those, and only the former are given by position."""
    if len(args) > len(positional) or not set(kwargs) <= {*positional[len(args):], *by_keyword}:
        known = [", ".join(positional), f"{', '.join(by_keyword)} by keyword" if by_keyword else ""]
        raise TypeError(f"{operation}: arguments must be {' and '.join(filter(None, known)) or 'none'}, got {args} and {kwargs}")


def constants(operation: str, row: Activation, values: Sequence[float]) -> None:
    """The constants of an activation are in the ranges of its row."""
    for constant, value in zip(row.constants, values, strict=True):
        number(operation, constant.name, value)
        if not constant.takes(value):
            raise OutOfRange(f"{operation}: {constant.name} must be {constant.rule()}, got {value}")
    if row.ordered and any(a > b for a, b in itertools.pairwise(values)):
        names = " <= ".join(constant.name for constant in row.constants)
        raise OutOfRange(f"{operation}: constants must be in the order {names}, got {' and '.join(map(str, values))}")


def whole_number(operation: str, argument: str, value: object, low: int, high: int | None = None) -> None:
    """value is an integer from low to high."""
    if not isinstance(value, Integral):
        raise TypeError(f"{operation}: {argument} must be a whole number, got {type(value).__name__}")
    if value < low or (high is not None and value > high):
        rule = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{operation}: {argument} must be {rule}, got {value}")


def index(operation: str, argument: str, value: object) -> int:
    """value as an int, which NumPy's numbers and tensors may stand for."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{operation}: {argument} must be a whole number, got {type(value).__name__}") from None


def sizes(operation: str, argument: str, value: Iterable[object]) -> tuple[int, ...]:
    """value as the shape of a tensor: whole numbers from 0 on."""
    try:
        shape = tuple(map(operator.index, value))
    except TypeError:
        raise TypeError(f"{operation}: {argument} must be a sequence of whole numbers, got {value!r}") from None
    if any(size < 0 for size in shape):
        raise ValueError(f"{operation}: {argument} must hold numbers at least 0, got {shape}")
    return shape


def learnable(operation: str, row: Activation, values: Sequence[Tensor]) -> None:
    """The learnable parameters of an activation, as many as its row has: [P] or 0-d each, or [S] or [S, P] where it has several of each."""
    for argument, value in zip(row.learnables, values, strict=True):
        tensor(operation, argument.name, value)
    shapes = [tuple(value.shape) for value in values]
    widths = [shape[1] if len(shape) == 2 else 1 for shape in shapes] if row.repeats else [value.numel() for value in values]
    if len({*widths} - {1}) > 1 or (not row.repeats and any(len(shape) > 1 for shape in shapes)):
        names = " and ".join(learnable.name for learnable in row.learnables)
        raise RuntimeError(f"{operation}: {names} must hold 1 value or one per channel each, got shapes {' and '.join(map(str, shapes))}")
    if row.repeats:
        good = all(len(shape) in (1, 2) and shape[0] == shapes[0][0] for shape in shapes) and 1 <= shapes[0][0] <= row.repeats.most
        if not good:
            names = " and ".join(learnable.name for learnable in row.learnables)
            raise RuntimeError(f"{operation}: {names} must have the same number of rows, 1 to {row.repeats.most}, got shapes "
                               f"{' and '.join(map(str, shapes))}")


def inherited_forward(operation: str, module: torch.nn.Module, base: type[torch.nn.Module]) -> None:
    """An activation computes what its class, or the class it inherits from, does."""
    kind = type(module)
    if kind.forward is not base.forward or "forward" in vars(module):
        raise ValueError(f"{operation}: activation must have the forward of {base.__name__}, got {kind.__name__} with one of its own")


def halves(operation: str, x: Tensor, dim: int) -> int:
    """x can be cut in two along dimension dim; counted from the front, as kernels take it."""
    if x.dim() == 0:
        raise RuntimeError(f"{operation}: x must have a dimension to be cut in two, got a 0-d tensor")
    if type(dim) is not int:
        dim = index(operation, "dim", dim)
    if not -x.dim() <= dim < x.dim():
        raise IndexError(f"{operation}: dim must be between {-x.dim()} and {x.dim() - 1} for x of shape {tuple(x.shape)}, got {dim}")
    if x.size(dim) % 2:
        raise RuntimeError(f"{operation}: x must have an even size along dim {dim}, got shape {tuple(x.shape)}")
    return dim if dim >= 0 else dim + x.dim()


def gate(operation: str, row: Activation, value: Tensor | None, x: Tensor | None) -> None:
    """An activation that can be a gate: it draws no random numbers, and its learnable parameters are one value each."""
    if row.random:
        raise ValueError(f"{operation}: activation must not draw random numbers, got {row.name} in training")
    if value is None:
        return
    one_value(operation, row, value, "a gate")
    _dtype_for(operation, row.learnables[0].name, value, x)
    _on_device(operation, row.learnables[0].name, value, x)


def one_value(operation: str, row: Activation, value: Tensor | None, what: str) -> None:
    """Learnable parameters of an activation are one value each, where there are no channels."""
    if value is not None and value.size(-1) != 1:
        raise RuntimeError(f"{operation}: {row.learnables[0].name} must hold 1 value, {what} has no channels, got {value.size(-1)}")


def _dtype_for(operation: str, argument: str, value: Tensor, x: Tensor) -> None:
    if value.dtype == x.dtype:
        return
    if not (value.dtype == torch.float32 and x.dtype in HALF):
        wanted = _name(x.dtype) if x.dtype in (torch.float32, torch.float64) else f"{_name(x.dtype)} or float32"
        raise RuntimeError(f"{operation}: {argument} must be {wanted} for x of {_name(x.dtype)}, got {_name(value.dtype)}")


def _on_device(operation: str, argument: str, value: Tensor, x: Tensor) -> None:
    if value.device != x.device:
        raise RuntimeError(f"{operation}: {argument} must be on {x.device} like x, got {value.device}")


def _name(dtype: torch.dtype | torch.layout) -> str:
    return str(dtype).removeprefix("torch.")


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    residual_: Tensor | None, parameters_: Tensor | None, num_batches_tracked: Tensor | None, training: bool, momentum: float | None,
    eps: float, channel_dim: int, alone: bool = True,
) -> None:
    """Everything batch norm asks of the arguments beside x, before it changes anything."""
    operation = "batch_norm"
    running_statistics(operation, running_mean, running_var, training)
    channel_vectors(operation, x, channel_dim, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if running_mean is not None and (running_mean.requires_grad or running_var.requires_grad) and not transformed():
        raise RuntimeError(f"{operation}: running_mean and running_var must not require a gradient, got requires_grad=True")
    if training and running_mean is not None and not (running_mean.is_contiguous() and running_var.is_contiguous()) and not transformed():
        own_memory(operation, running_mean=running_mean, running_var=running_var)
    residual(operation, residual_, x)
    if parameters_ is not None:
        parameters(operation, "activation", parameters_, x, x.size(channel_dim))
    if momentum is None and training and running_mean is not None and num_batches_tracked is None:
        raise RuntimeError(f"{operation}: num_batches_tracked must be given when momentum is None, got None")
    if num_batches_tracked is not None:
        tensor(operation, "num_batches_tracked", num_batches_tracked)
        if num_batches_tracked.is_complex() or num_batches_tracked.numel() != 1:
            raise RuntimeError(f"{operation}: num_batches_tracked must be a real number in a 0-d tensor, got "
                               f"{_name(num_batches_tracked.dtype)} of shape {tuple(num_batches_tracked.shape)}")
    if type(momentum) is not float and momentum is not None:
        number(operation, "momentum", momentum)
    if type(eps) is not float:
        number(operation, "eps", eps)
    if not (eps > 0 or (eps == 0 and not training)):
        raise ValueError(f"{operation}: eps must be {'positive when training' if training else 'non-negative'}, got {eps}")
    if training and alone:  # other ranks may have values
        more_than_one_value(operation, x, channel_dim)


def plain_function(operation: str, function: object) -> None:
    """A function that has done its work when it returns."""
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{operation}: a decorated function must not be a generator or a coroutine, got {function.__qualname__}")


def module(operation: str, model: object) -> None:
    """A model is one of torch's modules."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{operation}: model must be a torch.nn.Module, got {type(model).__name__}")


def not_quantized(operation: str, found: Sequence[str]) -> None:
    """No layer of the model works on quantized tensors."""
    if found:
        raise ValueError(f"{operation}: model must not be quantized, got {', '.join(found)}")


def layers_of_torch(operation: str, others: Sequence[str]) -> None:
    """A model for who lacks fastlayers."""
    if others:
        raise ValueError(f"{operation}: model must hold no layer that torch.nn lacks, got {', '.join(others)}")


def any_dropout(operation: str, modules: Sequence[object]) -> None:
    """A model without dropout is no ensemble."""
    if not modules:
        raise ValueError(f"{operation}: model must hold a dropout layer with p above 0, got none")


def has_batch(operation: str, x: object) -> None:
    """A tensor of samples."""
    tensor(operation, "x", x)
    if x.dim() == 0:
        raise RuntimeError(f"{operation}: x must have the batch in dimension 0, got a 0-d tensor")


def batched_output(operation: str, y: object, batch: int) -> None:
    """A tensor with as many rows as the model was given."""
    tensor(operation, "the model's output", y)
    if y.dim() == 0 or y.size(0) != batch:
        raise RuntimeError(f"{operation}: the model's output must have the batch of {batch} in dimension 0, got shape {tuple(y.shape)}")


def model_to_restore(operation: str, restore_best: bool, model: object) -> None:
    """The weights to keep are the model's."""
    if restore_best and not isinstance(model, torch.nn.Module):
        raise TypeError(f"{operation}: model must be a Module where restore_best is True, got {type(model).__name__}")
