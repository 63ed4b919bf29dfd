"""The options that every optimizer has besides those of torch.optim, and their documentation."""
from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..checks import one_of
from . import checks


class Options(NamedTuple):
    """The options of a parameter group: what its dictionary says, else what the optimizer was given."""

    max_grad_norm: float | None = None
    master_weights: bool = False
    state_dtype: torch.dtype | None = None
    stochastic_rounding: bool = False
    ema_decay: float | None = None

    def layout(self) -> tuple[object, ...]:
        """What tensors there are, and whether they are rounded at random; the rest may change from step to step."""
        return self.master_weights, self.state_dtype, self.stochastic_rounding, self.ema_decay is None

    def check(self, operation: str) -> None:
        """Each has a value that it may have."""
        checks.max_norm(operation, self.max_grad_norm)
        checks.boolean(operation, "master_weights", self.master_weights)
        if self.state_dtype is not None:
            one_of(operation, "state_dtype", self.state_dtype, (None, torch.float32, torch.bfloat16))
        checks.boolean(operation, "stochastic_rounding", self.stochastic_rounding)
        checks.decay(operation, self.ema_decay)


NAMES = Options._fields

PARAMETERS = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in Options._field_defaults.items())

DOCUMENTATION = """\
    maximize: go up instead of down (default False).
    foreach, capturable, fused: accepted because torch.optim has them, without effect: there is one way to step, which never waits for
        a GPU and can be captured in a CUDA graph.
    differentiable: must be False.
    max_grad_norm: clip the norm of all gradients together to this, as torch.nn.utils.clip_grad_norm_ does, but inside the kernel
        and without changing ``p.grad`` (default None: no clipping). A group that has its own is clipped by its own norm.
    master_weights: keep float32 copies of half-precision parameters, as state "master", and update those (default False). A
        parameter that was changed between steps takes its copy along.
    state_dtype: torch.float32 or torch.bfloat16 for the states; default None: that of the parameter, as in torch.
    stochastic_rounding: round bfloat16 parameters (those without a master) and states up with the probability of the part that is
        lost (default False). Reproducible: the random numbers follow from the group's "rounding_seed", which counts its steps.
    ema_decay: keep an average of the parameters, average = ema_decay average + (1 - ema_decay) p after each step, from the
        parameters before the first step on, as state "average"; see ``swap_ema`` (default None: none).

These last five may stand in the dictionary of a parameter group, too."""

PROMISES = """\
Raises:
    ValueError: as torch.optim's class; where a number of a group is negative or NaN, ``{name}: lr must be at least 0, got nan``;
        where a parameter is given twice; ``{name}: differentiable must be False, got True: ...``.
    RuntimeError: at ``step``, before anything changes, ``{name}: grad must be dense, got a sparse_coo tensor of shape (10, 3)``.

New states have the parameter's dtype, as in torch; float32 states that a checkpoint holds for half-precision parameters stay float32.

Accuracy: float32 (float64 for float64 parameters), powers of beta in float64; half-precision parameters are rounded once."""


def documented(text: str, name: str) -> str:
    """A docstring with ``{options}`` and ``{promises}`` filled in."""
    text = inspect.cleandoc(text)
    return text.replace("    {options}", DOCUMENTATION).replace("{promises}", PROMISES.replace("{name}", name))


def of_group(operation: str, defaults: Options, group: Mapping[str, Any]) -> Options:
    """The options of a group, its own of them checked: anybody may write into its dictionary."""
    own = {name: group[name] for name in NAMES if name in group}
    if not own:
        return defaults
    options = defaults._replace(**own)
    options.check(operation)
    return options
