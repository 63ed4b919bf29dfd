"""Activations and gated units on DTensors in two gloo processes, as between the layers of a tensor-parallel model."""
from __future__ import annotations

from itertools import product

import torch
from processes import in_processes, needs_gloo

pytestmark = needs_gloo
WORLD = 2


def _layers(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from fastlayers import nn

    mesh = init_device_mesh("cpu", (WORLD,))
    x = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(3))
    for layer in (nn.SiLU(), nn.Softplus(), nn.PReLU(), nn.SwiGLU(dim=1)):
        for placement, loss in product((Shard(0), Shard(2), Replicate()), (torch.sum, torch.std)):  # dy: one number expanded, and many
            alone, sharded = x.clone().requires_grad_(), distribute_tensor(x, mesh, [placement]).requires_grad_()
            y, expected = layer(sharded), layer(alone)
            assert y.placements == (placement,)
            torch.testing.assert_close(y.full_tensor(), expected)
            loss(y.redistribute(mesh, [Replicate()]) if loss is torch.std else y).backward()
            loss(expected).backward()
            torch.testing.assert_close(sharded.grad.full_tensor(), alone.grad)


def test_layers_between_sharded_ones() -> None:
    in_processes(WORLD, _layers)
