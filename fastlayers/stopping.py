"""Early stopping."""
from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from . import checks


class EarlyStopping:
    """Stop training when a measured value has not improved for ``patience`` calls in a row, as in Keras and Lightning.

    A value improves on the best so far when value < best - min_delta ("min") or value > best + min_delta ("max"). NaN never does.

    Args:
        patience: calls without improvement in a row after which to stop; 0 is as good as 1, as in Keras. Default 5.
        min_delta: the least that counts as an improvement, at least 0. Default 0.
        mode: "min" (a loss) or "max" (an accuracy). Default "min".
        restore_best: keep a copy of the best weights, and put them back into the model on stopping. Default False.

    Attributes:
        best: the best value, infinite before the first call.
        best_step: the call it came from, counted from 0; -1 before the first.
        bad_steps: calls since then.
        stopped: whether patience has run out.

    Raises:
        ValueError: ``EarlyStopping: mode must be one of min, max, got 'auto'``, and the like.
        TypeError: at a call, ``EarlyStopping: model must be a Module where restore_best is True, got NoneType``.

    Source: Prechelt, Early Stopping - But When?, 1998.

    >>> stopping = EarlyStopping(patience=2)
    >>> [stopping(loss) for loss in (1.0, 0.5, 0.6, 0.7)]
    [False, False, False, True]
    """

    _STATE = ("best", "best_step", "bad_steps", "stopped", "_step", "_weights")

    def __init__(self, patience: int = 5, min_delta: float = 0.0, mode: str = "min", restore_best: bool = False) -> None:
        operation = type(self).__name__
        checks.at_least(operation, "patience", patience, 0)
        checks.at_least(operation, "min_delta", min_delta, 0)
        checks.one_of(operation, "mode", mode, ("min", "max"))
        self.patience, self.min_delta, self.mode, self.restore_best = patience, min_delta, mode, restore_best
        self.reset()

    def reset(self) -> None:
        """Forget everything seen."""
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_step, self.bad_steps, self.stopped = -1, 0, False
        self._step, self._weights = 0, None

    def __call__(self, value: float | Tensor, model: nn.Module | None = None) -> bool:
        """Whether to stop, after one more value; ``model`` is needed for restore_best, and has the best weights again on True."""
        checks.model_to_restore(type(self).__name__, self.restore_best, model)
        checks.number(type(self).__name__, "value", value)
        value = float(value)
        better = value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta
        if better:
            self.best, self.best_step, self.bad_steps = value, self._step, 0
            self._keep(model)
        else:
            self.bad_steps += 1
        self._step += 1
        self.stopped = not better and self.bad_steps >= self.patience
        if self.stopped and self.restore_best:
            self.restore(model)
        return self.stopped

    def restore(self, model: nn.Module) -> None:
        """Put the best weights seen into the model; nothing where there are none."""
        if self._weights is not None:
            model.load_state_dict(self._weights)

    @torch.no_grad()
    def _keep(self, model: nn.Module | None) -> None:
        """Copy the weights, into the memory of the last copy where there is one."""
        if not self.restore_best:
            return
        now, kept = model.state_dict(), self._weights or {}
        for name, value in now.items():
            if isinstance(value, Tensor):
                old = kept.get(name)
                reusable = old is not None and (old.shape, old.dtype, old.device) == (value.shape, value.dtype, value.device)
                now[name] = old.copy_(value) if reusable else value.detach().clone()
            else:
                now[name] = copy.deepcopy(value)
        self._weights = now

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs, the best weights included: a copy."""
        return {name.removeprefix("_"): copy.deepcopy(getattr(self, name)) for name in self._STATE}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on where state_dict() was taken."""
        for name, value in [(name, copy.deepcopy(state[name.removeprefix("_")])) for name in self._STATE]:  # all or none
            setattr(self, name, value)

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(patience={self.patience}, min_delta={self.min_delta}, mode={self.mode!r}, "
                f"restore_best={self.restore_best})")
