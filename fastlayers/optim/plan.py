"""What one optimizer step launches: the parameters with gradients, sorted into lists that one kernel takes.

Sorting costs a few microseconds a parameter, so a plan is kept from step to step. It holds parameters and state dictionaries,
never addresses or gradients: those are read anew at every step, so nothing can be stale. ``Plan.is_current`` notices everything
else that would change the sorting.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..context import is_sharded
from ..reference.dtypes import HALF, accumulate_dtype
from ..specs import UpdateRule
from . import checks
from .layout import fitting, gradients_if_ready, in_order_of, is_dense, local, local_gradient, placed_like
from .options import Options

Group = dict[str, Any]


@dataclass(slots=True)
class Launch:
    """Parameters of one group that one kernel launch updates: same device, same dtypes, same states."""

    number: int
    """The group's."""
    group: Group
    row: UpdateRule
    options: Options
    first: bool
    """Whether the states hold nothing yet; only for rows with that flag."""
    names: tuple[str, ...]
    """The states that exist."""
    masters: bool
    params: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    direct: bool = True
    """False if kernels cannot work on the parameters themselves: one has gaps in its memory, or is a DTensor."""

    def work(self) -> Work | None:
        """What the kernel is to work on now, in the memory order of the parameters; None if the plan is out of date."""
        states = self._every(self.names)
        scalars = self._every(self.row.scalars)
        masters = self._every(("master",)) if self.masters else []
        averages = self._every(("average",)) if self.options.ema_decay is not None else []
        grads = gradients_if_ready(self.params, states, scalars, masters, averages) if self.direct else None
        if grads is not None:
            return Work(self, self.params, grads, states, scalars, masters, averages)
        return self._work_on_copies(*([local(x) for x in tensors] for tensors in (states, scalars, masters, averages)))

    def _every(self, names: Sequence[str]) -> list[Tensor]:
        return [state[name] for name in names for state in self.states]

    def _work_on_copies(self, *belongings: list[Tensor]) -> Work | None:
        """The same where parameters have gaps in their memory or gradients lie in another order: those are copied."""
        if any(p.grad is None or p.dtype is not self.params[0].dtype for p in self.params):
            return None
        for p in self.params:
            checks.gradient(self.row.optimizer, p)
        parts = [local(p) for p in self.params]
        targets = [p if is_dense(p) else p.clone(memory_format=torch.contiguous_format) for p in parts]
        if not fitting(targets, *belongings):
            return None
        grads = [in_order_of(local_gradient(p), target) for p, target in zip(self.params, targets, strict=True)]
        return Work(self, targets, grads, *belongings)

    def arguments(self) -> tuple[list[float], list[bool]]:
        """hyperparameters and flags of the group as they are now; a hyperparameter that is a tensor, which kernels read, is 1."""
        return numbers(self.group, self.row), flags(self.group, self.row, self.first)

    def tensors(self) -> list[Tensor | None]:
        """The hyperparameters that are tensors, None for the others; [] if none is."""
        return tensors(self.group, self.row)

    def clipping(self) -> tuple[int, float] | None:
        """(which launches share a norm, the largest it may be): those of this group if it has a limit of its own, else -1."""
        largest = self.options.max_grad_norm
        return None if largest is None else (self.number if "max_grad_norm" in self.group else -1, float(largest))

    def seed(self) -> Tensor | None:
        """Of stochastic rounding."""
        return self.group["rounding_seed"] if self.options.stochastic_rounding else None

    def native(self) -> tuple[object, ...]:
        """The launch as the step_launches of a C++ extension takes it."""
        hyperparameters, switches = self.arguments()
        return (self.row.name, self.params, self.states, self.names, self.row.scalars, hyperparameters, self.tensors(), switches,
                self.masters, self.options.ema_decay, self.seed(), self.clipping())


class Work(NamedTuple):
    """The tensors of a launch."""

    launch: Launch
    params: list[Tensor]
    """The parameters, this rank's parts of them, or copies without gaps."""
    grads: list[Tensor]
    states: list[Tensor]
    """State-major, as kernels take them."""
    scalars: list[Tensor]
    masters: list[Tensor]
    averages: list[Tensor]

    def write_back(self) -> None:
        """Bring what was worked on as a copy back to the parameters; tell autograd of those that were worked on in parts."""
        if self.params is self.launch.params:
            return
        for p, target in zip(self.launch.params, self.params, strict=True):
            part = local(p)
            if part is not target and part.data_ptr() != target.data_ptr():
                part.copy_(target)
            if part is not p:
                torch.autograd.graph.increment_version(p)


@dataclass(slots=True)
class Plan:
    """The launches of a step, and what they were derived from."""

    launches: list[Launch]
    groups: list[Group]
    rows: list[UpdateRule]
    layouts: list[tuple[object, ...]]
    members: list[list[Tensor]]
    """The parameters of each group."""
    idle: list[Tensor]
    """Those without a gradient."""
    states: list[dict[str, Tensor]]
    """All values of the optimizer's ``state``."""
    dtypes: list[torch.dtype]
    """The parameters' of each launch, which ``Module.to`` changes without making new ones."""

    def is_current(
        self, groups: list[Group], rows: list[UpdateRule], options: list[Options], state: dict[Tensor, dict[str, Tensor]]
    ) -> bool:
        """Whether groups, parameters and state dictionaries are the same objects, and nothing idle has got a gradient.

        If so, launches go on with the options as they are now.
        """
        current = (
            _same(self.groups, groups)
            and _same(self.rows, rows)
            and self.layouts == [own.layout() for own in options]
            and _same(self.states, state.values())
            and all(_same(group["params"], members) for group, members in zip(groups, self.members, strict=True))
            and all(p.grad is None for p in self.idle)
            and self.dtypes == [launch.params[0].dtype for launch in self.launches]
            and all(launch.names == launch.row.present_states(*launch.arguments()) for launch in self.launches)
        )
        if current:
            for launch in self.launches:
                launch.options = options[launch.number]
        return current


def _same(one: Collection[object], other: Collection[object]) -> bool:
    """Whether both hold the same objects in the same order."""
    return len(one) == len(other) and all(map(is_, one, other))


def numbers(group: Group, row: UpdateRule) -> list[float]:
    """[lr, weight_decay, ...] as kernels take them; those that are tensors, which kernels read themselves, are 1."""
    try:
        values = [1.0 if isinstance(value, Tensor) else float(value) for value in row.values(group)]
    except (TypeError, ValueError, IndexError):
        checks.hyperparameters(row.optimizer, group, row)  # says which one is no number
        raise
    if any(value != value for value in values):
        checks.hyperparameter(row.optimizer, *next((one, v) for one, v in zip(row.numbers, values, strict=True) if v != v))
    return values


def tensors(group: Group, row: UpdateRule) -> list[Tensor | None]:
    """The hyperparameters that are tensors, None for the others; [] if none is."""
    found = [value if isinstance(value, Tensor) else None for value in row.values(group)]
    return found if any(value is not None for value in found) else []


def flags(group: Group, row: UpdateRule, first: bool) -> list[bool]:
    """[maximize, ...] as kernels take them."""
    return [bool(group["maximize"]), *(first if name == "first" else bool(group[name]) for name in row.flags)]


def next_seed(group: Group, number: int, by: int = 1) -> None:
    """Count the group's "rounding_seed", which starts where that of no other group comes, or make it."""
    seed = group.get("rounding_seed")
    if seed is None:
        group["rounding_seed"] = torch.tensor(number << 40, device=group["params"][0].device)
    else:
        seed.add_(by)


def has_master(p: Tensor, options: Options) -> bool:
    """Whether a step works on a float32 copy of p; the state of one may be there from a checkpoint all the same."""
    return options.master_weights and p.dtype in HALF


def make_plan(groups: list[Group], rows: list[UpdateRule], options: list[Options], state: dict[Tensor, dict[str, Tensor]]) -> Plan:
    """Sort what has a gradient into launches; make the states that do not exist yet."""
    launches: dict[tuple, Launch] = {}
    met: Counter[tuple[int, int]] = Counter()
    for number, (group, row, own_options) in enumerate(zip(groups, rows, options, strict=True)):
        names = row.present_states(numbers(group, row), flags(group, row, False))
        for p in group["params"]:
            if p.grad is None:
                continue
            masters = has_master(p, own_options)
            own = state[p] if names or row.scalars or masters or own_options.ema_decay is not None else {}
            first = row.is_first(names, own)
            complete(own, p, group, row, names, own_options)
            turn = _turn(p, met)
            key = (number, p.device, p.dtype, own[names[0]].dtype if names else None, first, turn)
            launch = launches.setdefault(key, Launch(number, group, row, own_options, first, names, masters))
            launch.params.append(p)
            launch.states.append(own)
            launch.direct = launch.direct and not is_sharded(p) and is_dense(p)
    members = [list(group["params"]) for group in groups]
    idle = [p for params in members for p in params if p.grad is None]
    dtypes = [launch.params[0].dtype for launch in launches.values()]
    return Plan(
        list(launches.values()), list(groups), rows, [own.layout() for own in options], members, idle, list(state.values()), dtypes)


def _turn(p: Tensor, met: Counter[tuple[int, int]]) -> int:
    """Which of the parameters in the same memory p is: threads of one launch would overwrite each other's updates there."""
    part = local(p)
    place = part.untyped_storage()._cdata, part.storage_offset()  # a fake tensor has no data_ptr()
    met[place] += 1
    return met[place]


def complete(own: dict[str, Tensor], p: Tensor, group: Group, row: UpdateRule, names: tuple[str, ...], options: Options) -> None:
    """Make p's missing states; bring the others, which may come from a checkpoint, to p's device and memory order.

    States are of options.state_dtype; without one of p's dtype, or of float32 if p is a half type and any of them is float32.
    """
    starts = {name: group[start] if isinstance(start, str) else start for name, start in row.starts}
    for name in row.scalars:
        value = own.get(name, starts.get(name, 0.0))
        if not isinstance(value, Tensor) or value.device != p.device or value.dtype != torch.float32:
            own[name] = torch.as_tensor(value, dtype=torch.float32, device=p.device)
    existing = [own[name].dtype for name in names if own.get(name) is not None]
    dtype = options.state_dtype or (torch.float32 if p.dtype in HALF and torch.float32 in existing else p.dtype)
    part = local(p.detach())
    model = part if is_dense(part) else torch.empty_like(part, memory_format=torch.contiguous_format)
    for name in names:
        _complete_one(row, own, name, p, model, dtype, starts.get(name, 0.0))
    if has_master(p, options):
        _complete_one(row, own, "master", p, model, torch.float32, part)
    if options.ema_decay is not None:
        _complete_one(row, own, "average", p, model, accumulate_dtype(p), part)


def _complete_one(
    row: UpdateRule, own: dict[str, Tensor], name: str, p: Tensor, model: Tensor, dtype: torch.dtype, start: float | Tensor
) -> None:
    value = own.get(name)
    checks.loaded_state(row.optimizer, name, value, p)
    if value is None:
        value = torch.empty_like(model, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)
        own[name] = placed_like(value.copy_(start) if isinstance(start, Tensor) else value.fill_(start), p)
        return
    part = local(value)
    fitted = in_order_of(part.to(p.device), model, dtype)
    if fitted is not part:
        own[name] = placed_like(fitted, p)
