"""Buffers that stay float32 in half models."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..reference.dtypes import HALF
from .scripting import NotScripted


class WideStatistics(NotScripted):
    """What batch norms and FeatureNorm share: ``.half()`` and ``.bfloat16()`` leave their statistics float32, and a count whole.

    In bfloat16 an average over batches gets stuck, and a float16 variance overflows at a deviation of 256.
    """

    _statistics: tuple[str, ...]
    _counter: str

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> torch.nn.Module:
        before = {name: self._buffers.get(name) for name in self._statistics}
        super()._apply(fn, recurse)
        self._keep_statistics_wide(before)
        return self

    def _load_from_state_dict(self, *arguments: object) -> None:
        """As torch's; load_state_dict(assign=True) may bring statistics of a half type."""
        super()._load_from_state_dict(*arguments)
        self._keep_statistics_wide({})

    def _keep_statistics_wide(self, before: dict[str, Tensor | None]) -> None:
        """Make those of a half type float32, as they were ``before`` where known, and a count of a floating type int64."""
        for name in self._statistics:
            now = self._buffers.get(name)
            if now is not None and now.dtype in HALF:
                old = before.get(name)
                wide = now if old is None or old.is_meta or old.dtype == now.dtype else old.to(now.device)
                self._buffers[name] = wide.float()
        count = self._buffers.get(self._counter)
        if count is not None and count.is_floating_point():  # Module.type() casts counts too
            self._buffers[self._counter] = count.long()
