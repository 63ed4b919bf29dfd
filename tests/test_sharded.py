"""Activations, gated units and dropout on DTensors in gloo processes, as between the layers of a tensor-parallel model."""
from __future__ import annotations

from itertools import product

import torch
from processes import in_processes, needs_gloo
from torch import distributed

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


def _random_layers(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module

    from fastlayers import functional, nn

    torch.manual_seed(rank)  # ranks need not agree
    mesh = init_device_mesh("cpu", (2, 2))
    x = torch.ones(4, 6, 8, 2)
    layers = (nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.RReLU(0.1, 0.9), nn.SiLU(dropout=0.5), nn.PReLU(dropout=0.5),
              nn.SwiGLU(dim=1, dropout=0.5))
    for layer, placements in product(layers, ((Shard(0), Replicate()), (Replicate(), Shard(2)), (Shard(0), Shard(2)))):
        sharded = distribute_tensor(-x if isinstance(layer, nn.RReLU) else x, mesh, placements).requires_grad_()
        y = layer(sharded)
        assert y.placements == placements
        whole = y.detach().full_tensor()
        assert torch.equal(y.to_local(), distribute_tensor(whole, mesh, placements).to_local()), "ranks hold copies that differ"
        mean = whole.mean()
        distributed.broadcast(mean, 0)
        assert torch.equal(mean, whole.mean())
        halves = whole.chunk(2, 0 if placements[0].is_shard() else 2)
        if not (isinstance(layer, nn.Dropout2d) and placements[0].is_replicate()):
            assert not torch.equal(*halves), "two parts have the same numbers"
        y.sum().backward()
        assert sharded.grad.placements == placements
        if isinstance(layer, nn.Dropout):
            assert torch.equal(sharded.grad.to_local(), y.to_local())
        if isinstance(layer, nn.Dropout2d):
            assert torch.equal(whole, whole[:, :, :1, :1].expand_as(whole)), "a channel is dropped whole, however it is cut"
    partial = DTensor.from_local(torch.ones(64, 64), mesh, (Partial(), Replicate()), run_check=False)
    dropped = functional.dropout(partial, 0.5, seed=7)
    assert dropped.placements == (Replicate(), Replicate())
    assert torch.equal(dropped.to_local(), functional.dropout(torch.full((64, 64), 2.0), 0.5, seed=7))
    block = torch.nn.Sequential(torch.nn.LayerNorm(8), nn.Dropout(0.1))
    parallelize_module(block, init_device_mesh("cpu", (4,)), {"0": SequenceParallel(), "1": SequenceParallel()})
    assert block(torch.randn(2, 4, 8)).placements == (Shard(1),)


def test_ranks_draw_the_same_numbers_for_copies_and_others_for_parts() -> None:
    in_processes(4, _random_layers)


def _watched_layers(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.utils.flop_counter import FlopCounterMode

    from fastlayers import nn

    mesh = init_device_mesh("cpu", (WORLD,))
    x = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(3))
    for layer in (nn.SiLU(), nn.PReLU(), nn.Dropout(), nn.RReLU(), nn.SwiGLU(dim=1)):
        for run in (layer, torch.compile(layer, fullgraph=True)):
            sharded = distribute_tensor(x, mesh, [Shard(0)]).requires_grad_()
            y = run(sharded)
            y.sum().backward()
            assert y.placements == sharded.grad.placements == (Shard(0),)
            layer.zero_grad()  # that of PReLU's weight is a DTensor, for which torch.compile does not take it beside an ordinary weight
        for mode in (FlopCounterMode(display=False), CommDebugMode()):
            with mode:
                assert layer(distribute_tensor(x, mesh, [Shard(0)])).placements == (Shard(0),)


def test_compiled_and_under_dispatch_modes() -> None:
    in_processes(WORLD, _watched_layers)
