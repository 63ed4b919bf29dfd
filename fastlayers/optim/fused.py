"""FusedStep: what all optimizers of this package have in common, which is everything but names, arguments and defaults."""
from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .. import checks
from ..backends import extension, select
from ..specs import UpdateRule
from . import traced
from .plan import Group, Plan, Work, make_plan


class FusedStep(torch.optim.Optimizer):
    """Mixin, put before a class of torch.optim: its ``step`` as one kernel launch per group, device and dtype.

    The base class keeps arguments, defaults, parameter groups, hooks and state_dict; ``step`` and loading are replaced.
    ``foreach``, ``fused`` and ``capturable`` are accepted and mean nothing: there is one way to step, it never waits for a GPU, and
    it can be captured in a CUDA graph. Sparse and complex gradients are refused before anything is changed.

    torch.amp.GradScaler: gradients are unscaled inside the kernel, and a skipped step needs no synchronisation.
    """

    _step_supports_amp_scaling = True

    max_grad_norm: float | None = None
    """Gradients are scaled down in the kernel so that the norm of all of them together is at most this."""

    _plan: Plan | None = None
    _loading: dict[str, Any] | None = None

    def __init__(self, *args: Any, max_grad_norm: float | None, **kwargs: Any) -> None:
        name = type(self).__name__
        checks.not_differentiable(name, kwargs.get("differentiable", False))
        checks.max_norm(name, max_grad_norm)
        super().__init__(*args, **kwargs)
        self.max_grad_norm = None if max_grad_norm is None else float(max_grad_norm)

    def rule(self, group: Group) -> UpdateRule:
        """The row of specs.py that this group is updated by."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: evaluates the model again and returns the loss, or None.

        Returns:
            What closure returned, else None.
        """
        if torch.compiler.is_compiling():
            return self._traced_step(closure)
        if type(self).step is FusedStep.step and self._is_watched():
            return _watched_step(self, closure)
        return self._plain_step(closure)

    step.hooked = True  # torch would wrap it to call hooks and to record a profile, for 40 us where there is neither

    def _is_watched(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks or torch.autograd._profiler_enabled()
        )

    def _plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._step()
        return loss

    def _traced_step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None if closure is None else closure()
        with torch.no_grad():
            if not traced.step(self):
                self._untraced_step()
        return loss

    @_disable_dynamo  # torch.compiler.disable, which would import the compiler together with this package
    def _untraced_step(self) -> None:
        """A step that has to copy or to make tensors first, outside the graph."""
        self._step()

    def _init_group(
        self, group: Group, number: int, params: list[Tensor], grads: list[Tensor], states: list[Tensor], steps: list[Tensor]
    ) -> int:
        """Dynamo's name for what it runs instead of tracing it."""
        return traced.fill_lists(self, group, number, (params, grads, states, steps))

    def _step(self) -> None:
        if self._step_natively():
            return
        works = self._works(self._plan) or self._works(self._new_plan())
        norm = None if self.max_grad_norm is None or not works else _total_norm([work.grads for work in works])
        for work in works:
            self._launch(work, norm)
            if not work.launch.dense:
                work.write_back()

    def _step_natively(self) -> bool:
        """The whole step in one call of the C++ extension, where nothing needs preparation and its backend is chosen throughout."""
        plan = self._plan
        if plan is None or not plan.launches or not all(select(launch.params[0]) is extension for launch in plan.launches):
            return False
        if not plan.is_current(self.param_groups, [self.rule(group) for group in self.param_groups], self.state):
            return False
        return extension.step_launches(
            [launch.native() for launch in plan.launches], getattr(self, "grad_scale", None), getattr(self, "found_inf", None),
            self.max_grad_norm)

    def _works(self, plan: Plan | None) -> list[Work]:
        """What each launch of the plan works on; [] if there is none or it is out of date."""
        if plan is None or not plan.is_current(self.param_groups, [self.rule(group) for group in self.param_groups], self.state):
            return []
        works = [launch.work() for launch in plan.launches]
        return works if all(works) else []

    def _new_plan(self) -> Plan | None:
        """The plan for the gradients there are now; None if found_inf says that nothing is to change and states would be made."""
        groups, rows = self.param_groups, [self.rule(group) for group in self.param_groups]
        for p in chain.from_iterable(group["params"] for group in groups):
            if p.grad is not None:
                checks.gradient(type(self).__name__, p)
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and any("first" in row.flags for row in rows) and found_inf.item() != 0:
            return None  # a state made now would not count as new in the next step
        plan = make_plan(groups, rows, self.state)
        self._plan = None if any(launch.first for launch in plan.launches) else plan
        return plan

    def _launch(self, work: Work, norm: Tensor | None) -> None:
        launch, device = work.launch, work.targets[0].device
        lr = launch.group["lr"] if isinstance(launch.group["lr"], Tensor) else None
        select(work.targets[0]).optimizer_step(
            launch.row.name, work.targets, work.grads, work.states, work.steps, *launch.arguments(), _on(lr, device),
            _on(getattr(self, "grad_scale", None), device), _on(getattr(self, "found_inf", None), device), _on(norm, device),
            self.max_grad_norm or 0.0,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Like torch.optim's, from any optimizer of this name in torch.optim or here.

        float32 states of half-precision parameters stay float32, where torch rounds them.

        Raises:
            ValueError: ``Adam: state 'exp_avg' must have its parameter's shape (3, 4), got (4, 3)``; nothing is changed then.
        """
        # Registered last, this hook sees what the user's own hooks have made of the dictionary.
        hook = self.register_load_state_dict_pre_hook(lambda _, final: self._check_loaded(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
            self._loading = None

    def _check_loaded(self, state_dict: dict[str, Any]) -> None:
        self._loading = state_dict
        for p, saved in self._saved_states(state_dict):
            for row in {self.rule(group).name: self.rule(group) for group in self.param_groups}.values():
                for name in row.states:
                    checks.loaded_state(type(self).__name__, name, saved.get(name), p)

    def _saved_states(self, state_dict: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
        """(parameter, its saved state) for each that a state_dict has one for."""
        ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        return [(p, state_dict["state"][key]) for key, p in zip(ids, params, strict=False) if key in state_dict["state"]]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "max_grad_norm": self.max_grad_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = None
        if self._loading is None:
            return
        for p, saved in self._saved_states(self._loading):
            for name, value in saved.items():
                if name != "step" and isinstance(value, Tensor) and value.dtype == torch.float32 and p.dtype.itemsize == 2:
                    self.state[p][name] = value.to(p.device)


_watched_step = torch.optim.Optimizer.profile_hook_step(FusedStep._plain_step)


def _total_norm(lists: list[list[Tensor]]) -> Tensor:
    """gradient_norm of all gradients together: one launch for each device and dtype."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for grads in lists:
        kinds.setdefault((grads[0].device, grads[0].dtype), []).extend(grads)
    norms = [select(grads[0]).gradient_norm(grads) for grads in kinds.values()]
    return sum((norm.to(norms[0].device) for norm in norms[1:]), norms[0])


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return value if value is None or value.device == device else value.to(device)
