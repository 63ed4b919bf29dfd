"""Checks of optimizers' arguments, gradients and states, worded like those of ../checks/."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..checks import FLOATING, dtype_name, number, probability, tensor
from ..rows import Hyperparameter, UpdateRule


def gradient(operation: str, p: Tensor) -> None:
    """p and its gradient are real, dense, of one shape and one dtype that kernels take, and on one device."""
    grad = p.grad
    if p.is_complex() or grad.is_complex():
        raise RuntimeError(f"{operation}: params must be real, got {dtype_name(p.dtype)}; torch.optim takes complex ones")
    if grad.layout != torch.strided:
        raise RuntimeError(f"{operation}: grad must be dense, got a {dtype_name(grad.layout)} tensor of shape {tuple(grad.shape)}")
    if p.dtype not in FLOATING:
        raise RuntimeError(f"{operation}: params must be float32, bfloat16, float16 or float64, got {dtype_name(p.dtype)}")
    if grad.dtype != p.dtype:
        raise RuntimeError(f"{operation}: grad must have the dtype of its parameter, {dtype_name(p.dtype)}, got {dtype_name(grad.dtype)}")
    if grad.shape != p.shape:
        raise RuntimeError(f"{operation}: grad must have the shape of its parameter, {tuple(p.shape)}, got {tuple(grad.shape)}")
    if grad.device != p.device:
        raise RuntimeError(f"{operation}: grad must be on the device of its parameter, {p.device}, got {grad.device}")


def not_differentiable(operation: str, differentiable: bool) -> None:
    """Fused kernels write in place, which autograd cannot follow."""
    if differentiable:
        raise ValueError(f"{operation}: differentiable must be False, got True: the update is one kernel that autograd cannot look into; "
                         f"torch.optim.{operation} can be differentiated")


def max_norm(operation: str, value: object) -> None:
    """max_grad_norm is None or a number >= 0; NaN is not."""
    if value is None:
        return
    if not isinstance(value, (int, float)) and not isinstance(value, Real):  # in this order, as in probability
        raise TypeError(f"{operation}: max_grad_norm must be a number or None, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{operation}: max_grad_norm must be at least 0, got {value}")


def decay(operation: str, value: object) -> None:
    """ema_decay is None or a number in [0, 1]."""
    if value is not None:
        probability(operation, "ema_decay", value)


def boolean(operation: str, argument: str, value: object) -> None:
    """value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{operation}: {argument} must be True or False, got {value!r}")


def hyperparameters(operation: str, group: Mapping[str, Any], row: UpdateRule) -> list[float | Tensor]:
    """The numbers of a group, as its row takes them; each is a number, or a tensor that holds one."""
    betas = group.get("betas", (0, 0))
    if not hasattr(betas, "__len__") or len(betas) != 2:
        raise ValueError(f"{operation}: betas must be two numbers, got {betas!r}")
    values = row.values(group)
    for one, value in zip(row.numbers, values, strict=True):
        number(operation, one.name, value)
    return values


def hyperparameter(operation: str, one: Hyperparameter, value: float) -> None:
    """low <= value < high, where infinity counts as below infinity; NaN is in no range."""
    low, high = one.low, one.high
    if low <= value < high or (value == high == float("inf")):
        return
    if value != value and low == -high:
        rule = "be a number"
    else:
        rule = f"be at least {low:g}" if high == float("inf") else f"be at least {low:g} and below {high:g}"
    raise ValueError(f"{operation}: {one.name} must {rule}, got {value}")


def distinct(operation: str, params: Sequence[object]) -> None:
    """No parameter stands twice in a group; (name, parameter) pairs count as their parameter."""
    seen: dict[int, int] = {}
    for position, entry in enumerate(params):
        p = entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        first = seen.setdefault(id(p), position)
        if first != position:
            raise ValueError(f"{operation}: params must hold every parameter once, got one at positions {first} and {position}, "
                             f"of shape {tuple(getattr(p, 'shape', ()))}")


def storable(operation: str, p: Tensor, state_dtype: torch.dtype | None, stochastic_rounding: bool) -> None:
    """p's dtype goes together with the options for states and rounding."""
    if state_dtype is not None and p.dtype == torch.float64:
        raise RuntimeError(f"{operation}: state_dtype must be None for float64 params, got {dtype_name(state_dtype)}")
    if stochastic_rounding and p.dtype == torch.float16:
        raise RuntimeError(f"{operation}: params must not be float16 with stochastic_rounding, which is for bfloat16, got float16")


def averages(operation: str, count: int) -> None:
    """There are averages to swap."""
    if not count:
        raise RuntimeError(f"{operation}: ema_decay must be given and a step made before swap_ema(), got no averages")


def not_swapped(operation: str, method: str, swapped: bool) -> None:
    """The parameters hold themselves, not their averages: states hold what is to come back."""
    if swapped:
        raise RuntimeError(f"{operation}: {method} must be called after swap_ema() has brought the weights back, got the averages in place")


def loaded_state(operation: str, name: str, value: object, p: Tensor) -> None:
    """A state from a checkpoint or an earlier step fits its parameter; None is for one that is not there yet, as in torch's SGD."""
    if value is None:
        return
    tensor(operation, f"state {name!r}", value)
    if value.is_complex() or value.layout != torch.strided:
        raise ValueError(f"{operation}: state {name!r} must be real and dense, got {dtype_name(value.dtype)}, {dtype_name(value.layout)}")
    if value.shape != p.shape:
        raise ValueError(f"{operation}: state {name!r} must have its parameter's shape {tuple(p.shape)}, got {tuple(value.shape)}")


def loaded_scalar(operation: str, name: str, value: object) -> None:
    """A count of steps, or the like, from a checkpoint is a number or a tensor that holds one."""
    if not isinstance(value, (Real, Tensor)):
        raise TypeError(f"{operation}: state {name!r} must be a number or a Tensor, got {type(value).__name__}")
    if isinstance(value, Tensor):
        one_element(operation, f"state {name!r}", value)
        if value.is_complex():
            raise ValueError(f"{operation}: state {name!r} must be real, got {dtype_name(value.dtype)}")


def one_element(operation: str, argument: str, value: Tensor) -> None:
    """value is a tensor of one element."""
    if value.numel() != 1:
        raise ValueError(f"{operation}: {argument} must have one element, got shape {tuple(value.shape)}")


def words(operation: str, argument: str, value: object) -> tuple[str, ...]:
    """value as a tuple of words, of which it may be one."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, Iterable) or not all(isinstance(word, str) for word in given):
        raise TypeError(f"{operation}: {argument} must be a word or a sequence of words, got {value!r}")
    return tuple(given)


def trainable(operation: str, count: int) -> None:
    """There is something to train."""
    if not count:
        raise ValueError(f"{operation}: model must have parameters that require a gradient, got none")


def known(operation: str, argument: str, kind: type, names: Collection[str], given: Iterable[str]) -> None:
    """A group is given arguments that its optimizer knows."""
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(f"{operation}: {argument} must hold arguments of {kind.__name__}, got {', '.join(map(repr, unknown))}")


def all_used(operation: str, argument: str, unused: Sequence[str]) -> None:
    """No word is left that fits nothing: it is misspelt."""
    if unused:
        raise ValueError(f"{operation}: {argument} must fit a parameter, got {', '.join(map(repr, unused))}")
