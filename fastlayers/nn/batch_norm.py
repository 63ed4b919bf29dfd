"""BatchNorm1d, 2d, 3d: torch.nn's, with residual, activation and dropout in the same kernels."""
from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.types import Device

from .. import checks, functional
from ..activation_argument import buffer, parameter, resolve
from ..overrides import traced
from .activations import from_name
from .wide_statistics import WideStatistics

Norm = TypeVar("Norm", bound="_BatchNorm")
OPTIONS = ("activation", "dropout", "memory", "skip_nonfinite")
"""The options that a batch norm has besides torch's. Their defaults stand in the constructors, where users read them, and in the class."""


class _BatchNorm(WideStatistics, torch.nn.modules.batchnorm._BatchNorm):
    """y = dropout(activation(batch_norm(x) + residual))."""

    _statistics = ("running_mean", "running_var")
    _counter = "num_batches_tracked"
    _dimensions: tuple[int, ...]
    frozen: bool = False
    """Whether the running statistics are used, and left alone, in training too."""
    _stopped: tuple[str, ...] = ()
    dropout: float = 0.0
    skip_nonfinite: bool = False
    memory: str = "default"

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        device: Device = None, dtype: torch.dtype | None = None, *, bias: bool = True,
        activation: str | torch.nn.Module | None = None, dropout: float = 0.0, skip_nonfinite: bool = False, memory: str = "default",
    ) -> None:
        activation = _checked(type(self).__name__, activation, dropout, memory, device, dtype)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:  # torch before 2.13 does not know the argument
            self.bias = None
        self._set_options(activation, dropout, memory, skip_nonfinite)
        self._keep_statistics_wide({})

    def _set_options(self, *values: object) -> None:
        """In the order of OPTIONS."""
        for name, value in zip(OPTIONS, values, strict=True):
            setattr(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        """As torch's; an activation may be given by name later, too."""
        if name == "activation":
            own = [self._parameters.get("weight"), self._buffers.get("running_mean")]
            place = next(((tensor.device, tensor.dtype) for tensor in own if tensor is not None), (None, None))
            value = _as_module(type(self).__name__, value, *place)
        super().__setattr__(name, value)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """y = dropout(activation(batch_norm(input) + residual)), shape, dtype and memory format of input.

        Args:
            input: (N, C) or (N, C, ...), as the class says.
            residual: like input, or None.
        """
        if isinstance(input, Proxy):
            return traced(self, input, residual)
        self._check_input_dim(input)
        training, momentum = self.training and not self.frozen, self.momentum
        mean, var, batches = buffer(self, "running_mean"), buffer(self, "running_var"), buffer(self, "num_batches_tracked")
        batch_statistics = training or (mean is None and var is None)
        if training and not self.track_running_stats:  # torch's rule, should the flag have been changed later
            mean = var = batches = None
        if momentum is None and batches is None:  # torch's rule: no average over batches that are not counted
            momentum = 0.0
        return functional.batch_norm(
            input, mean, var, parameter(self, "weight"), parameter(self, "bias"), batch_statistics, momentum, self.eps,
            activation=self._modules.get("activation") or "identity", residual=residual, dropout=self.dropout if self.training else 0.0,
            num_batches_tracked=batches if training else None, dropout_training=True, skip_nonfinite=self.skip_nonfinite,
            memory=self.memory, group=self._group() if training else None)

    def _group(self) -> object:
        """The process group that a batch is spread over; None for a batch of its own."""
        return None

    def freeze(self: Norm, affine: bool = True) -> Norm:
        """Normalise with the running statistics and leave them alone, whatever train() and eval() say; returns self.

        Args:
            affine: also stop the gradients of weight and bias. With that, and without an activation that needs it, no x is kept
                for backward.

        Raises:
            RuntimeError: ``BatchNorm2d: freeze() must find running statistics, got track_running_stats=False``.
        """
        checks.tracked(type(self).__name__, self.running_mean, self.track_running_stats)
        self.frozen = True
        for name, value in self.named_parameters() if affine else ():
            if value.requires_grad and not name.startswith("activation."):  # weight, bias, and what a parametrization makes them of
                value.requires_grad = False  # requires_grad_() is refused by parameters that a lazy layer has yet to make
                self._stopped = (*self._stopped, name)
        return self

    def unfreeze(self: Norm) -> Norm:
        """Undo freeze(): weight and bias are trained again where freeze() had stopped them; returns self."""
        self.frozen = False
        for name, value in self.named_parameters():
            if name in self._stopped:
                value.requires_grad = True
        self._stopped = ()
        return self

    def reset_running_stats(self) -> None:
        """As torch's, but a frozen layer keeps them: torch.optim.swa_utils.update_bn resets those of every layer, to make them anew."""
        if not self.frozen:
            super().reset_running_stats()

    def reset_parameters(self) -> None:
        """As torch's, running statistics included, of a frozen layer too: after ``to_empty()`` they hold nothing."""
        super().reset_running_stats()
        if self.affine:
            torch.nn.init.ones_(self.weight)
            if self.bias is not None:  # which torch's own has asked since 2.13
                torch.nn.init.zeros_(self.bias)

    def _check_input_dim(self, input: Tensor) -> None:
        """torch's hook for subclasses that take other shapes."""
        if input.dim() not in self._dimensions:
            checks.dimensions(type(self).__name__, input, self._dimensions)

    def extra_repr(self) -> str:
        plain = [name for name in (*OPTIONS, "frozen") if name != "activation"]  # which torch shows as a child
        options = [f", {name}={getattr(self, name)}" for name in plain if getattr(self, name) != getattr(_BatchNorm, name)]
        return super().extra_repr() + "".join(options)


def _checked(
    operation: str, activation: str | torch.nn.Module | None, dropout: float, memory: str, device: Device,
    dtype: torch.dtype | None,
) -> torch.nn.Module | None:
    """The block's activation as a module; its options are checked."""
    checks.memory(operation, memory)
    checks.probability(operation, "dropout", dropout)
    return _as_module(operation, activation, device, dtype)


def _as_module(
    operation: str, activation: str | torch.nn.Module | None, device: Device, dtype: torch.dtype | None
) -> torch.nn.Module | None:
    """An ``activation=`` argument as a module of the block, checked."""
    if isinstance(activation, str):
        return from_name(operation, activation, device, dtype)
    if activation is not None:
        resolve(operation, activation)
    return activation


class _LazyBatchNorm(torch.nn.modules.batchnorm._LazyNormBase):
    """Takes num_features from the first input, then becomes ``cls_to_become``."""

    def __init__(
        self, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        device: Device = None, dtype: torch.dtype | None = None, *, bias: bool = True,
        activation: str | torch.nn.Module | None = None, dropout: float = 0.0, skip_nonfinite: bool = False, memory: str = "default",
    ) -> None:
        activation = _checked(type(self).__name__, activation, dropout, memory, device, dtype)
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.bias = None
        self._set_options(activation, dropout, memory, skip_nonfinite)

    def initialize_parameters(self, input: Tensor) -> None:
        self._check_input_dim(input)
        lacks_bias = self.affine and self.bias is None and self.has_uninitialized_params()
        if lacks_bias:  # torch before 2.13 wants one to give a shape
            self.bias = torch.nn.UninitializedParameter(device=self.weight.device, dtype=self.weight.dtype)
        super().initialize_parameters(input)
        if lacks_bias:
            self.bias = None
        self._keep_statistics_wide({})


_DOCUMENTATION = """Batch norm over {what}, with residual, activation and dropout in the same kernels.

y = dropout(activation((x - mean) / sqrt(var + eps) * weight + bias + residual)). Drop-in for ``torch.nn.{name}``: same arguments,
buffers and state_dict (an activation with learnable parameters adds its own under ``activation.``). Running statistics stay float32
under ``.half()`` and ``.bfloat16()``.

Args:
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as in ``torch.nn.{name}``.
    activation: a name ("relu", "leaky_relu(0.2)"), or an activation module of fastlayers.nn or torch.nn, which is kept as the
        attribute ``activation`` and may be changed later. Its formula becomes part of the kernels: the module itself is not called, and
        forward hooks on it do not run. Keyword only.
    dropout: probability of dropping an element of the result while training; keyword only.
    skip_nonfinite: a batch that would make a running statistic infinite or NaN leaves all of them alone; keyword only.
    memory: "default" keeps x for backward, "inplace" y where x can be recovered from it, which costs nothing where the next layer keeps
        y anyway; keyword only.

``freeze()`` and ``unfreeze()`` switch the running statistics on and off whatever ``train()`` says.

Shape: x {shape}; residual like x; y like x. float32, float64, float16, bfloat16; parameters in x's dtype, or float32 for half x.

Raises:
    ValueError: ``batch_norm: x must have more than 1 value per channel when training, got shape ...``;
        ``{name}: x must be {dims}, got ...``
    RuntimeError: a dtype, device or shape that does not fit; the running statistics are unchanged then.

Accuracy: statistics and arithmetic in float32 (float64 for float64), rounded once.

Source: Ioffe & Szegedy, arXiv:1502.03167.

>>> layer = {name}(4, activation="relu", dropout=0.1)
>>> y = layer(torch.randn({example}))
"""


_LAZY_DOCUMENTATION = """A :class:`{name}` that takes num_features from its first input, and is one from then on.

Drop-in for ``torch.nn.Lazy{name}``; all arguments of :class:`{name}` but num_features. Shape, errors, accuracy and source: its.

>>> layer = Lazy{name}(activation="relu")
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


class LazyBatchNorm1d(_LazyBatchNorm, torch.nn.LazyBatchNorm1d, BatchNorm1d):
    __doc__ = _LAZY_DOCUMENTATION.format(name="BatchNorm1d", example="8, 4")
    cls_to_become = BatchNorm1d
    _check_input_dim = BatchNorm1d._check_input_dim


class LazyBatchNorm2d(_LazyBatchNorm, torch.nn.LazyBatchNorm2d, BatchNorm2d):
    __doc__ = _LAZY_DOCUMENTATION.format(name="BatchNorm2d", example="8, 4, 5, 5")
    cls_to_become = BatchNorm2d
    _check_input_dim = BatchNorm2d._check_input_dim


class LazyBatchNorm3d(_LazyBatchNorm, torch.nn.LazyBatchNorm3d, BatchNorm3d):
    __doc__ = _LAZY_DOCUMENTATION.format(name="BatchNorm3d", example="2, 4, 3, 5, 5")
    cls_to_become = BatchNorm3d
    _check_input_dim = BatchNorm3d._check_input_dim
