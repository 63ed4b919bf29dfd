"""SyncBatchNorm: batch norm over the batch that the ranks of a process group hold together."""
from __future__ import annotations

import functools

import torch
from torch import Tensor, distributed
from torch.types import Device

from .. import checks
from .batch_norm import OPTIONS, _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all ranks' batches together, with residual, activation and dropout in the same kernels.

    y = dropout(activation((x - mean) / sqrt(var + eps) * weight + bias + residual)). Arguments, buffers and state_dict of
    ``torch.nn.SyncBatchNorm``, on any device and with any backend of torch.distributed. Ranks may hold different numbers of samples,
    or none; each counts by its samples. In eval mode, with one rank and without torch.distributed it is plain batch norm. Gradients of
    weight and bias are this rank's, for DistributedDataParallel to average, as torch's are.

    It is no subclass of ``torch.nn.SyncBatchNorm``: DistributedDataParallel refuses those on a CPU.

    Args:
        num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype, bias: as in torch.nn.SyncBatchNorm.
        activation, dropout, skip_nonfinite, memory: as in :class:`BatchNorm2d`.

    Shape: x (N, C) or (N, C, ...); residual like x; y like x. float32, float64, float16, bfloat16.

    Raises:
        ValueError: ``SyncBatchNorm: x must be at least 2-D, got 1-D of shape (3,)``
        TypeError: at a call, ``SyncBatchNorm: process_group must be a ProcessGroup, got str``
        RuntimeError: for ``create_graph=True``, and while training under torch.func or forward_ad: other ranks' x is out of reach.

    Accuracy: as :class:`BatchNorm2d`; what ranks exchange is float64 and added in their order, the same bits on all of them.

    Source: Ioffe & Szegedy, arXiv:1502.03167; Chan, Golub & LeVeque 1979.

    >>> layer = SyncBatchNorm(4, activation="relu")
    >>> y = layer(torch.randn(8, 4, 5, 5))
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        process_group: object = None, device: Device = None, dtype: torch.dtype | None = None, *, bias: bool = True,
        activation: str | torch.nn.Module | None = None, dropout: float = 0.0, skip_nonfinite: bool = False, memory: str = "default",
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias, activation=activation,
                         dropout=dropout, skip_nonfinite=skip_nonfinite, memory=memory)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        checks.has_channels(type(self).__name__, input)

    def _group(self) -> object:
        if not (distributed.is_available() and distributed.is_initialized()):
            return None
        group = distributed.group.WORLD if self.process_group is None else self.process_group
        if group is distributed.GroupMember.NON_GROUP_MEMBER:
            return None
        checks.instance(type(self).__name__, "process_group", group, distributed.ProcessGroup)
        return group if distributed.get_world_size(group) > 1 else None

    @classmethod
    def convert_sync_batchnorm(cls, module: torch.nn.Module, process_group: object = None) -> torch.nn.Module:
        """Every batch norm in a model, torch's and fastlayers', as a SyncBatchNorm with its parameters, buffers, activation and dropout.

        Args:
            module: a model; changed in place, unless it is a batch norm itself.
            process_group: whose ranks share a batch; None for all.

        Returns:
            The model.

        ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` does the same with the layers of fastlayers, and with torch's what it always does.

        >>> model = SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)))
        """
        return cls._converted(module, process_group, {})

    @classmethod
    def _converted(
        cls, module: torch.nn.Module, process_group: object, done: dict[torch.nn.Module, torch.nn.Module]
    ) -> torch.nn.Module:
        """module, or what stands for it under each of its names; torch's leaves a second name in one parent to the old layer."""
        if module not in done:
            done[module] = cls._like(module, process_group) if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) else module
            for name, child in [*module._modules.items()] if done[module] is module else ():
                if child is not None:
                    setattr(module, name, cls._converted(child, process_group, done))
        return done[module]

    @classmethod
    def _like(cls, layer: torch.nn.modules.batchnorm._BatchNorm, process_group: object) -> SyncBatchNorm:
        options = {name: getattr(layer, name) for name in OPTIONS} if isinstance(layer, _BatchNorm) else {}
        twin = cls(layer.num_features, layer.eps, layer.momentum, False, False,
                   getattr(layer, "process_group", None) if process_group is None else process_group, **options)
        twin.affine, twin.track_running_stats = layer.affine, layer.track_running_stats
        for name in ("weight", "bias"):
            twin.register_parameter(name, getattr(layer, name))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            twin.register_buffer(name, getattr(layer, name))
        twin._keep_statistics_wide({})
        twin.training = layer.training
        twin.frozen, twin._stopped = getattr(layer, "frozen", False), getattr(layer, "_stopped", ())
        return twin


def _teach_torch() -> None:
    """torch's own conversion, which Lightning calls, would make torch's layer of ours and leave its activation out without a word."""
    original = torch.nn.SyncBatchNorm.convert_sync_batchnorm.__func__

    @functools.wraps(original)
    def convert_sync_batchnorm(cls, module, process_group=None):
        if isinstance(module, _BatchNorm):
            return SyncBatchNorm.convert_sync_batchnorm(module, process_group)
        return original(cls, module, process_group)

    torch.nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(convert_sync_batchnorm)


_teach_torch()
