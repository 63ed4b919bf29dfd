"""Optimizers in two gloo processes: DistributedDataParallel, and FSDP2 whose parameters and states are DTensors."""
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from processes import in_processes, needs_gloo
from tolerances import close
from torch import distributed, nn

RULES = {"SGD": {"momentum": 0.9}, "AdamW": {"weight_decay": 0.1}, "NAdam": {}, "Lion": {}, "Adagrad": {}}
WORLD = 2

pytestmark = needs_gloo


def _net() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(7, 5), nn.GELU(), nn.Linear(5, 3))  # 5 and 3 rows over two ranks: uneven shards


def _batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 7, generator=generator), torch.randn(8, 3, generator=generator)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, part: slice, clip: bool = False) -> None:
    for step in steps:
        x, y = (value[part] for value in _batches(step))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).mul(10).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _part(rank: int) -> slice:
    return slice(4 * rank, 4 * rank + 4)


def _alone(name: str, steps: int) -> nn.Module:
    """What one process makes of all the data, with torch's optimizer and clipping."""
    from optimizer_cases import twin

    model = _net()
    _train(model, twin(name)(model.parameters(), lr=0.01, foreach=False, **RULES[name]), range(steps), slice(None), clip=True)
    return model


def _ddp(rank: int) -> None:
    import fastlayers as fl

    for name, arguments in RULES.items():
        model = nn.parallel.DistributedDataParallel(_net())
        optimizer = getattr(fl.optim, name)(model.parameters(), lr=0.01, max_grad_norm=1.0, **arguments)
        _train(model, optimizer, range(6), _part(rank))
        for p, q in zip(model.parameters(), _alone(name, 6).parameters(), strict=True):
            close(p, q)
    torch.manual_seed(rank)  # replicas stay equal, whatever the ranks' generators do
    model = nn.parallel.DistributedDataParallel(_net().bfloat16())
    optimizer = fl.optim.AdamW(model.parameters(), lr=0.01, stochastic_rounding=True)
    for step in range(4):
        x, y = (value[_part(rank)].bfloat16() for value in _batches(step))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    for p in model.parameters():
        others = [torch.empty_like(p) for _ in range(WORLD)]
        distributed.all_gather(others, p.detach())
        assert torch.equal(*others)


def _sharded(mesh: object, dtype: torch.dtype = torch.float32) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    model = _net().to(dtype)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    return model


def _fsdp(rank: int, folder: str) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    import fastlayers as fl

    mesh = init_device_mesh("cpu", (WORLD,))
    for name in ("SGD", "NAdam", "Lion"):
        arguments = RULES[name]
        options = {"lr": 0.01, "max_grad_norm": 1.0, **arguments}
        model = _sharded(mesh)
        optimizer = getattr(fl.optim, name)(model.parameters(), ema_decay=0.9, **options)
        _train(model, optimizer, range(4), _part(rank))
        assert all(isinstance(value, DTensor) for own in optimizer.state.values() for key, value in own.items()
                   if key not in optimizer.row.scalars)

        saved = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        checkpoint.save(saved, checkpoint_id=f"{folder}/{name}")
        model = _sharded(mesh)
        optimizer = getattr(fl.optim, name)(model.parameters(), ema_decay=0.9, **options)
        loaded = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        checkpoint.load(loaded, checkpoint_id=f"{folder}/{name}")
        set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])
        before = [p.full_tensor().clone() for p in model.parameters()]
        found = optimizer.diagnostics()
        _train(model, optimizer, range(4, 8), _part(rank))

        alone = _alone(name, 8)
        for p, q in zip(model.parameters(), alone.parameters(), strict=True):
            close(p.full_tensor(), q)
        assert found.groups[0].gradient_norm == 0  # no gradients yet
        norm = optimizer.diagnostics().groups[0].gradient_norm
        grads = [p.grad.full_tensor() for p in model.parameters()]
        assert norm == pytest.approx(nn.utils.get_total_norm(grads).item(), rel=1e-5)
        after = [p.full_tensor().clone() for p in model.parameters()]
        with optimizer.swap_ema():
            for p, one, other in zip(model.parameters(), before, after, strict=True):
                assert not torch.equal(p.full_tensor(), one)
                assert not torch.equal(p.full_tensor(), other)
        assert all(torch.equal(p.full_tensor(), q) for p, q in zip(model.parameters(), after, strict=True))

    model = _sharded(mesh, torch.bfloat16)
    optimizer = fl.optim.Adam(model.parameters(), lr=0.01, master_weights=True, state_dtype=torch.float32)
    x, y = (value[_part(rank)].bfloat16() for value in _batches(0))
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()
    for p in model.parameters():
        own = optimizer.state[p]
        assert own["master"].dtype == own["exp_avg"].dtype == torch.float32
        assert torch.equal(own["master"].full_tensor().bfloat16(), p.full_tensor())
    copy.deepcopy(optimizer.state_dict())


def test_distributed_data_parallel() -> None:
    in_processes(WORLD, _ddp)


def test_fully_sharded_with_a_checkpoint(tmp_path: Path) -> None:
    in_processes(WORLD, _fsdp, str(tmp_path))
