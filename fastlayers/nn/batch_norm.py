"""BatchNorm1d, 2d, 3d: torch.nn's, with residual, activation and dropout in the same kernels."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import checks, functional
from ..activation_argument import resolve
from .activations import from_name


class _BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """y = dropout(activation(batch_norm(x) + residual))."""

    _dimensions: tuple[int, ...]

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        device: torch.device | None = None, dtype: torch.dtype | None = None, *, bias: bool = True,
        activation: str | torch.nn.Module | None = None, dropout: float = 0.0,
    ) -> None:
        operation = type(self).__name__
        checks.probability(operation, "dropout", dropout)
        if isinstance(activation, str):
            activation = from_name(operation, activation)
        elif activation is not None:
            resolve(operation, activation)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype,
                         **({} if bias else {"bias": False}))  # torch before 2.13 does not know the argument
        self.activation = activation
        self.dropout = dropout
        self._keep_statistics_wide({})

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """y = dropout(activation(batch_norm(input) + residual)), shape, dtype and memory format of input.

        Args:
            input: (N, C) or (N, C, ...), as the class says.
            residual: like input, or None.
        """
        if input.dim() not in self._dimensions:
            checks.dimensions(type(self).__name__, input, self._dimensions)
        training, momentum = self.training, self.momentum
        buffers = self._buffers  # each is looked up twice as fast as self.running_mean, which asks two other dictionaries first
        mean, var, batches = buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"]
        batch_statistics = training or (mean is None and var is None)
        if training and not self.track_running_stats:  # torch's rule, should the flag have been changed later
            mean = var = batches = None
        if momentum is None and batches is None:  # torch's rule: no average over batches that are not counted
            momentum = 0.0
        return functional.batch_norm(
            input, mean, var, self.weight, self.bias, batch_statistics, momentum, self.eps,
            activation=self._modules.get("activation") or "identity", residual=residual, dropout=self.dropout if training else 0.0,
            num_batches_tracked=batches if training else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _BatchNorm:
        """Running statistics stay float32 under .half() and .bfloat16(): in bfloat16 an average over batches gets stuck."""
        before = {name: self._buffers.get(name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)
        self._keep_statistics_wide(before)
        return self

    def _keep_statistics_wide(self, before: dict[str, Tensor | None]) -> None:
        for name in ("running_mean", "running_var"):
            now = self._buffers.get(name)
            if now is not None and now.dtype in (torch.float16, torch.bfloat16):
                old = before.get(name)
                wide = now if old is None or old.is_meta or old.dtype == now.dtype else old.to(now.device)
                self._buffers[name] = wide.float()

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", dropout={self.dropout}" if self.dropout else "")


_DOCUMENTATION = """Batch norm over {what}, with residual, activation and dropout in the same kernels.

y = dropout(activation((x - mean) / sqrt(var + eps) * weight + bias + residual)). Drop-in for ``torch.nn.{name}``: same arguments,
buffers and state_dict (an activation with learnable parameters adds its own under ``activation.``). Running statistics stay float32
under ``.half()`` and ``.bfloat16()``.

Args:
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as in ``torch.nn.{name}``.
    activation: a name ("relu", "leaky_relu(0.2)"), or an activation module of fastlayers.nn or torch.nn; keyword only.
    dropout: probability of dropping an element of the result while training; keyword only.

Shape: x {shape}; residual like x; y like x. float32, float64, float16, bfloat16; parameters in x's dtype or float32.

Raises:
    ValueError: ``batch_norm: x must have more than 1 value per channel when training, got shape ...``;
        ``{name}: x must be {dims}, got ...``
    RuntimeError: a dtype, device or shape that does not fit; the running statistics are unchanged then.

Accuracy: statistics and arithmetic in float32 (float64 for float64), rounded once.

Source: Ioffe & Szegedy, arXiv:1502.03167.

>>> layer = {name}(4, activation="relu", dropout=0.1)
>>> y = layer(torch.randn({example}))
"""


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    __doc__ = _DOCUMENTATION.format(
        name="BatchNorm1d", what="(N, C) or (N, C, L)", shape="(N, C) or (N, C, L)", dims="2-D or 3-D", example="8, 4")
    _dimensions = (2, 3)


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    __doc__ = _DOCUMENTATION.format(
        name="BatchNorm2d", what="(N, C, H, W)", shape="(N, C, H, W)", dims="4-D", example="8, 4, 5, 5")
    _dimensions = (4,)


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    __doc__ = _DOCUMENTATION.format(
        name="BatchNorm3d", what="(N, C, D, H, W)", shape="(N, C, D, H, W)", dims="5-D", example="2, 4, 3, 5, 5")
    _dimensions = (5,)
