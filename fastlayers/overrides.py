"""Inputs that have a say in what is done with them: tensor subclasses through ``__torch_function__``, and the proxies of torch.fx."""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Tensor, nn
from torch.fx import Proxy
from torch.overrides import handle_torch_function, has_torch_function_unary

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def is_overriding(x: object) -> bool:
    """Whether x has a ``__torch_function__`` of its own to be asked."""
    return type(x) is not Tensor and has_torch_function_unary(x)


def overridable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function of a tensor that can be overridden as those of torch can: a subclass gives its like, torch.fx records a call."""

    @functools.wraps(function)
    def dispatched(x=None, *args, **kwargs):
        if x is None:
            x = kwargs.pop("input", None)  # torch's name of it
        if is_overriding(x):
            return handle_torch_function(dispatched, (x,), x, *args, **kwargs)
        return function(x, *args, **kwargs)

    return dispatched


def traced(module: nn.Module, input: Proxy, *others: Proxy | None) -> Proxy:
    """What the module gives for torch.fx's proxies: a call of the module, which stays whole in the graph as torch.nn's do."""
    given = (input, *(other for other in others if other is not None))
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(module), given, {})
