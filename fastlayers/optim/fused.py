"""FusedStep: what all optimizers of this package have in common, which is everything but names, arguments and defaults."""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..backends import select
from ..specs import UPDATE_RULES, UpdateRule
from . import averages, checks, diagnostics, options, traced
from .norms import on, total_norms
from .options import Options
from .plan import Group, Plan, Work, make_plan, next_seed

Arguments = ParamSpec("Arguments")


def _with_hooks(plain: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """A step that calls hooks, which see its arguments as they are given, and records a profile only where there is either.

    torch would wrap every step in both, at a cost where there is neither, which a compiled step has not.
    """
    watched = torch.optim.Optimizer.profile_hook_step(plain)
    watched_traced = torch.optim.Optimizer.profile_hook_step(lambda self, *args, **kwargs: self._traced_step(*args, **kwargs))

    @functools.wraps(plain)
    def step(self: FusedStep, *args: Any, **kwargs: Any) -> Any:
        outermost = type(self).step is step
        if torch.compiler.is_compiling():
            return watched_traced(self, *args, **kwargs) if outermost else self._traced_step(*args, **kwargs)
        return (watched if outermost and self._is_watched() else plain)(self, *args, **kwargs)

    step.hooked = True  # torch leaves it alone
    return step


class FusedStep(torch.optim.Optimizer):
    """Mixin, put before a class of torch.optim: its ``step`` as one kernel launch per group, device and dtype.

    The base class keeps arguments, defaults, parameter groups, hooks and state_dict; ``step`` and loading are replaced. What every
    optimizer has besides the arguments of its base class is in options.py; a subclass says which row of specs.py it is:
    ``class Adam(FusedStep, torch.optim.Adam, row="adam")``.

    torch.amp.GradScaler: gradients are unscaled inside the kernel, and a skipped step needs no synchronisation.
    """

    _step_supports_amp_scaling = True

    row: UpdateRule
    """The row of specs.py that groups are updated by, where nothing in them says otherwise."""

    _plan: Plan | None = None
    _loading: dict[str, Any] | None = None
    _skipped: Tensor | None = None
    _swapped = False

    def __init_subclass__(cls, row: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if row is not None:
            cls.row = UPDATE_RULES[row]
            cls.__doc__ = options.documented(cls.__doc__ or "", cls.__name__)
            base = next(base for base in cls.__mro__ if not issubclass(base, FusedStep))  # of torch.optim, or what would stand there
            cls.__signature__ = inspect.Signature([*inspect.signature(base).parameters.values(), *options.PARAMETERS])
        elif "__init__" in cls.__dict__:  # of a user, with arguments of its own
            cls.__signature__ = inspect.Signature(list(inspect.signature(cls.__init__).parameters.values())[1:])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in options.NAMES:
            if name in kwargs:
                setattr(self, name, kwargs.pop(name))
        self._options().check(type(self).__name__)
        super().__init__(*args, **kwargs)

    def rule(self, group: Mapping[str, Any]) -> UpdateRule:
        """The row of specs.py that this group is updated by."""
        return self.row

    def _options(self) -> Options:
        return Options(*[getattr(self, name) for name in options.NAMES])

    def _group_options(self) -> list[Options]:
        name, defaults = type(self).__name__, self._options()
        defaults.check(name)  # attributes, too, anybody may write to
        return [options.of_group(name, defaults, group) for group in self.param_groups]

    @_disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch.optim's.

        Raises:
            ValueError: where a number is out of its range, or a parameter stands twice; nothing is changed then.
        """
        name = type(self).__name__
        if isinstance(param_group, dict):
            params = param_group.get("params")
            if not isinstance(params, (Tensor, set)) and params is not None:
                param_group["params"] = list(params)
                checks.distinct(name, param_group["params"])
            self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check_group(self, group: Mapping[str, Any]) -> None:
        name, row = type(self).__name__, self.rule(group)
        checks.not_differentiable(name, group.get("differentiable", False))
        options.of_group(name, self._options(), group)
        for one, value in zip(row.numbers, checks.hyperparameters(name, group, row), strict=True):
            checks.hyperparameter(name, one, float(value))

    @_with_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: evaluates the model again and returns the loss, or None.

        Returns:
            What closure returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _is_watched(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks or torch.autograd._profiler_enabled()
        )

    def _traced_step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if not traced.step(self):
                self._untraced_step()
        return loss

    @_disable_dynamo  # torch.compiler.disable, which would import the compiler together with this package
    def _untraced_step(self) -> None:
        """A step that has to copy or to make tensors first, outside the graph."""
        self._step()

    def _init_group(
        self, group: Group, number: int, params: list[Tensor], grads: list[Tensor], states: list[Tensor], scalars: list[Tensor],
        masters: list[Tensor], averages: list[Tensor],
    ) -> int:
        """Dynamo's name for what it runs instead of tracing it."""
        return traced.fill_lists(self, group, number, (params, grads, states, scalars, masters, averages))

    def _step(self) -> None:
        own_options = self._group_options()
        checks.not_swapped(type(self).__name__, "step", self._swapped)
        unseeded = [group for group in self.param_groups if "rounding_seed" not in group]
        self._count(own_options, 1)
        try:
            self._update(own_options)
        except Exception:  # a step that is refused is none
            self._count(own_options, -1)
            for group in unseeded:
                group.pop("rounding_seed", None)
            raise

    def _update(self, own_options: list[Options]) -> None:
        if self._step_natively(own_options):
            return
        works = self._works(self._plan, own_options) or self._works(self._new_plan(own_options), own_options)
        works = [work for work in works if not work.params[0].is_meta]  # those have states, and no values
        norms = total_norms(works)
        for work in works:
            self._launch(work, norms, select(work.params[0]).optimizer_step)
            work.write_back()

    def _count(self, own_options: list[Options], by: int) -> None:
        """Count the step for what depends on it whether it is skipped or not."""
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None:
            skipped = (found_inf != 0).to(torch.int64).reshape(()) * by
            self._skipped = skipped if self._skipped is None else self._skipped.to(skipped.device) + skipped
        for number, (group, own) in enumerate(zip(self.param_groups, own_options, strict=True)):
            if own.stochastic_rounding and group["params"]:
                next_seed(group, number, by)

    def _rows(self) -> list[UpdateRule]:
        return [self.rule(group) for group in self.param_groups]

    def _step_natively(self, own_options: list[Options]) -> bool:
        """The whole step in one call of a C++ extension, where nothing needs preparation and its backend is chosen throughout."""
        plan = self._plan
        if plan is None or not plan.launches:
            return False
        backend = select(plan.launches[0].params[0])
        if not hasattr(backend, "step_launches"):
            return False
        if not all(launch.direct and select(launch.params[0]) is backend for launch in plan.launches):
            return False
        if not plan.is_current(self.param_groups, self._rows(), own_options, self.state):
            return False
        return backend.step_launches(
            [launch.native() for launch in plan.launches], getattr(self, "grad_scale", None), getattr(self, "found_inf", None))

    def _works(self, plan: Plan | None, own_options: list[Options]) -> list[Work]:
        """What each launch of the plan works on; [] if there is none or it is out of date."""
        if plan is None or not plan.is_current(self.param_groups, self._rows(), own_options, self.state):
            return []
        works = [launch.work() for launch in plan.launches]
        return works if all(works) else []

    def _check_gradients(self, own_options: list[Options]) -> None:
        name = type(self).__name__
        for group, own in zip(self.param_groups, own_options, strict=True):
            for p in group["params"]:
                if p.grad is not None:
                    checks.gradient(name, p)
                    checks.storable(name, p, own.state_dtype, own.stochastic_rounding)

    def _new_plan(self, own_options: list[Options]) -> Plan | None:
        """The plan for the gradients there are now; None if found_inf says that nothing is to change and states would be made."""
        self._check_gradients(own_options)
        rows, found_inf = self._rows(), getattr(self, "found_inf", None)
        if found_inf is not None and any("first" in row.flags for row in rows) and found_inf.item() != 0:
            return None  # a state made now would not count as new in the next step
        plan = make_plan(self.param_groups, rows, own_options, self.state)
        self._plan = None if any(launch.first for launch in plan.launches) else plan
        return plan

    def _launch(self, work: Work, norms: Mapping[int, Tensor], kernel: Callable[..., None]) -> None:
        launch, device = work.launch, work.params[0].device
        number, largest = launch.clipping() or (None, 0.0)
        norm = None if number is None else norms[number]
        kernel(
            launch.row.name, *work[1:], *launch.arguments(), [on(tensor, device) for tensor in launch.tensors()],
            on(getattr(self, "grad_scale", None), device), on(getattr(self, "found_inf", None), device), on(norm, device),
            on(launch.seed(), device), largest, launch.options.ema_decay or 0.0)

    def swap_ema(self) -> averages.Swapped:
        """Put the averages that ``ema_decay`` keeps in the place of the parameters, or bring the parameters back.

        Returns:
            A context manager: ``with optimizer.swap_ema(): evaluate(model)`` swaps back at the end of the block, which may hold others.

        Raises:
            RuntimeError: ``Adam: ema_decay must be given and a step made before swap_ema(), got no averages``; ``step`` refuses while
                averages are in place.

        >>> import fastlayers
        >>> p = torch.ones(3, requires_grad=True)
        >>> p.grad = torch.full((3,), 0.5)
        >>> optimizer = fastlayers.optim.SGD([p], lr=1.0, ema_decay=0.5)
        >>> optimizer.step()
        >>> with optimizer.swap_ema():
        ...     p.tolist()
        [0.75, 0.75, 0.75]
        >>> p.tolist()
        [0.5, 0.5, 0.5]
        """
        return averages.swap(self)

    def diagnostics(self) -> diagnostics.Diagnostics:
        """What the next ``step`` would do with the gradients there are: tried on copies, one parameter at a time; nothing changes.

        Returns:
            ``groups``: for each parameter group ``gradient_norm`` (of ``p.grad`` as it is, before clipping), ``update_norm``, the
            norm of the change of its parameters, and ``lost``, the share of the updates that rounding to the parameter's dtype would
            undo, however often they are repeated. ``skipped``: steps left out because of found_inf so far.

        Scaled gradients count as they are: with a GradScaler call ``scaler.unscale_(optimizer)`` first.

        >>> import fastlayers
        >>> p = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
        >>> p.grad = torch.tensor([1.0, 1.0, 1.0, 100.0], dtype=torch.bfloat16)
        >>> fastlayers.optim.SGD([p], lr=1e-3).diagnostics().groups[0].lost
        0.75
        """
        return diagnostics.of(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Like torch.optim's, from any optimizer of this name in torch.optim or here.

        float32 states of half-precision parameters stay float32, where torch rounds them.

        Raises:
            ValueError: ``Adam: state 'exp_avg' must have its parameter's shape (3, 4), got (4, 3)``, or a number of a group that the
                constructor would refuse; nothing is changed then.
            RuntimeError: while averages are in place (see ``swap_ema``).
        """
        checks.not_swapped(type(self).__name__, "load_state_dict", self._swapped)
        # Registered last, this hook sees what the user's own hooks have made of the dictionary.
        hook = self.register_load_state_dict_pre_hook(lambda _, final: self._check_loaded(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
            self._loading = None

    def _check_loaded(self, state_dict: dict[str, Any]) -> None:
        self._loading = state_dict
        for group in state_dict["param_groups"]:
            self._check_group({**self.defaults, **group})
        states, scalars = {*self.row.states, "master", "average", "weights"}, {*self.row.scalars}
        for p, saved in self._saved_states(state_dict):
            for name in sorted(states & saved.keys()):
                checks.loaded_state(type(self).__name__, name, saved[name], p)
            for name in sorted(scalars & saved.keys()):
                checks.loaded_scalar(type(self).__name__, name, saved[name])

    def _saved_states(self, state_dict: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
        """(parameter, its saved state) for each that a state_dict has one for."""
        ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        return [(p, state_dict["state"][key]) for key, p in zip(ids, params, strict=False) if key in state_dict["state"]]

    def __repr__(self) -> str:
        """torch.optim's, and the options that are not at their defaults."""
        defaults = Options._field_defaults
        shown = "".join(f"    {name}: {value}\n" for name, value in self._options()._asdict().items() if value != defaults[name])
        return super().__repr__().removesuffix(")") + (f"\nOptions\n{shown}" if shown else "") + ")"

    def __getstate__(self) -> dict[str, Any]:
        given = {name: value for name, value in vars(self).items() if name in options.NAMES}
        return {**super().__getstate__(), **given, "_skipped": self._skipped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        groups = getattr(self, "param_groups", [])
        super().__setstate__(state)
        self._plan, self._swapped = None, averages.are_swapped(self)
        if self._loading is None:
            return
        for old, new in zip(groups, self.param_groups, strict=True):  # options that a checkpoint of torch.optim knows nothing of
            for name in options.NAMES:
                if name in old:
                    new.setdefault(name, old[name])
        for p, saved in self._saved_states(self._loading):
            for name, value in saved.items():
                if isinstance(value, Tensor) and _is_kept(value, p):
                    self.state[p][name] = value.to(p.device)


for _name, _default in Options._field_defaults.items():  # what an optimizer has that was given no such option
    setattr(FusedStep, _name, _default)


def _is_kept(value: Tensor, p: Tensor) -> bool:
    """Whether a loaded state keeps its dtype, where torch would round it to the parameter's."""
    return value.dtype != p.dtype != torch.float64 and value.dtype in (torch.float32, torch.bfloat16)
