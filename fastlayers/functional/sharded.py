"""The epilogue of DTensors where numbers are drawn: each rank draws for its own part.

What draws nothing needs none of this: the reference is made of torch's operators, which know how a DTensor is cut.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .. import autograd
from ..specs import ACTIVATIONS

_STEP = -0x61C8864680B583EB  # 2^64 divided by the golden ratio, as an int64: seeds of parts lie far apart


def epilogue(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, parameters: Tensor | None, seed: Tensor,
    arguments: autograd.Arguments, residual_after: Tensor | None = None,
) -> Tensor:
    """autograd.epilogue of a DTensor x, placed as x is; a sum that is still to be made over ranks is made first.

    Where ranks hold the same part they draw the same numbers, by the seed of the first of them; where they hold different parts, different
    ones. So the numbers are not those of the whole tensor in one process.
    """
    from torch.distributed.tensor import Replicate

    if any(given is not None for given in (scale, shift, residual, parameters)):  # which may be cut otherwise than x
        identity = arguments._replace(row=ACTIVATIONS["identity"], constants=())
        before, arguments = (identity, arguments) if arguments.row.random else (arguments, identity._replace(outcome=arguments.outcome))
        x = autograd.epilogue(x, scale, shift, residual, parameters, None, before._replace(p=0.0, outcome=None))
    placements = [Replicate() if placement.is_partial() else placement for placement in x.placements]
    x = x.redistribute(placements=placements)
    own = autograd.epilogue(x.to_local(), None, None, None, None, _own_seed(x, seed, arguments), arguments)
    y = type(x).from_local(own, x.device_mesh, placements, run_check=False, shape=x.shape, stride=x.stride())
    return y if residual_after is None else y + residual_after


def _own_seed(x: Tensor, seed: Tensor, arguments: autograd.Arguments) -> Tensor:
    """The seed of this rank's part of x; channels that are dropped whole may be cut into parts, which share their numbers."""
    collectives = torch.ops._c10d_functional
    mesh, part = x.device_mesh, 0
    for dimension, (placement, coordinate) in enumerate(zip(x.placements, mesh.get_coordinate() or (), strict=False)):  # () beside the mesh
        if placement.is_shard() and not (arguments.by_channel and placement.dim % x.dim() not in (0, arguments.channel_dim % x.dim())):
            part = part * mesh.size(dimension) + coordinate
        else:
            seed = collectives.wait_tensor(collectives.broadcast(seed, 0, mesh.get_group(dimension).group_name))
    return torch.add(seed, _STEP, alpha=part) if part else seed
