"""FeatureNorm: inputs standardised with the mean and deviation of a dataset."""
from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from operator import length_hint
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.types import Device

from .. import checks, functional
from ..overrides import traced
from ..reference.dtypes import accumulate_dtype
from .wide_statistics import WideStatistics


class FeatureNorm(WideStatistics, torch.nn.Module):
    """Standardise inputs with the mean and deviation of a dataset, feature by feature.

    y = (x - mean) / sqrt(var + eps), mean and biased variance over everything that :meth:`fit` has seen; they are buffers, saved in
    state_dict, and have no gradient; float32 under ``.half()`` and ``.bfloat16()``. Until then mean = 0 and var = 1. A feature that never
    varies becomes 0 where the buffers hold its value: float32 ones round that of float64 data, ``dtype=torch.float64`` ones do not.

    Args:
        num_features: C.
        eps: added to the variance. Default 0: a feature of variance 0 is divided by 1.
        channel_dim: where C is in x. Default 1, as in batch norm; -1 for (batch, time, features).
        device, dtype: of the buffers.

    Shape: x (N, C) or (N, C, ...), float32, float64, float16 or bfloat16; y like x, in its dtype and memory format.

    Raises:
        RuntimeError: ``FeatureNorm: mean must have shape (3,) for x of shape (8, 3) ..., got (4,)``
        TypeError: ``FeatureNorm: loader must be iterable, got int``, ``FeatureNorm: loader must yield tensors, got int``
        ValueError: ``FeatureNorm: loader must hold at least one sample, got none``

    Accuracy: batches are merged in float64 by Welford's method (Chan's rule), whatever their number and the mean's size.

    Source: Welford, Technometrics 4 (1962); Chan, Golub & LeVeque 1979.

    >>> layer = FeatureNorm(3).fit([torch.tensor([[1.0, 2, 3], [3, 2, 7]])])
    >>> layer(torch.tensor([[2.0, 2, 7]]))
    tensor([[0., 0., 1.]])
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    _statistics = ("mean", "var")
    _counter = "count"

    def __init__(
        self, num_features: int, eps: float = 0.0, *, channel_dim: int = 1, device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        checks.at_least(type(self).__name__, "eps", eps, 0)
        super().__init__()
        self.num_features, self.eps, self.channel_dim = num_features, eps, channel_dim
        self.register_buffer("mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("var", torch.ones(num_features, device=device, dtype=dtype))
        self.register_buffer("count", torch.zeros((), device=device, dtype=torch.int64))
        self._keep_statistics_wide({})

    def reset_parameters(self) -> None:
        """Forget what was fitted, or what ``to_empty()`` has left: mean 0, variance 1."""
        self.mean.zero_()
        self.var.fill_(1)
        self.count.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """y = (input - mean) / sqrt(var + eps)."""
        if isinstance(input, Proxy):
            return traced(self, input)
        name = type(self).__name__
        checks.floating(name, input)
        compute = accumulate_dtype(input)
        mean, var = self.mean.to(compute), self.var.to(compute)
        dim = checks.channel_dimension(name, input, self.channel_dim)
        checks.channel_vectors(name, input, dim, mean=mean)
        var = torch.where(var + self.eps > 0, var, 1.0) if self.eps == 0 else var
        return functional.batch_norm(input, mean, var, eps=self.eps, channel_dim=dim)

    @torch.no_grad()
    def fit(self, loader: Iterable[Tensor | tuple[Any, ...] | list[Any]], *, progress: bool = True) -> FeatureNorm:
        """Take mean and variance from every batch of a loader, one pass, one batch in memory; replaces what was fitted before.

        Args:
            loader: yields tensors, or tuples and lists whose first item is the tensor, as DataLoader does.
            progress: show a bar while it runs, where somebody watches the terminal and rich is installed.

        Returns:
            self.
        """
        name = type(self).__name__
        checks.loader(name, loader)
        device, count = self.mean.device, 0
        mean = torch.zeros(self.num_features, dtype=torch.float64, device=device)
        m2 = torch.zeros_like(mean)
        for batch in _watched(loader, progress):
            x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            checks.yielded(name, x)
            x = x.to(device, torch.float64)
            dim = checks.channel_dimension(name, x, self.channel_dim)
            checks.channel_vectors(name, x, dim, mean=mean)
            own = x.numel() // max(1, self.num_features)
            if own == 0:
                continue
            flat = x.movedim(dim, 0).flatten(1)
            first = flat[:, :1]  # deviations from it are exactly 0 where a feature never varies
            own_mean = (flat - first).mean(1) + first[:, 0]
            delta, total = own_mean - mean, count + own
            m2 += (flat - own_mean[:, None]).square().sum(1) + delta.square() * (count * own / total)
            mean += delta * (own / total)
            count = total
        checks.some_samples(name, count)
        self.mean.copy_(mean)
        self.var.copy_(m2 / count)
        self.count.fill_(count)
        return self

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, channel_dim={self.channel_dim}"


def _watched(loader: Iterable, progress: bool) -> Iterable:
    """The loader, behind a progress bar where there is a terminal and something to draw it with."""
    if not progress or not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        return loader
    from rich.console import Console
    from rich.progress import track

    return track(loader, "FeatureNorm", total=length_hint(loader) or None, console=Console(stderr=True))
