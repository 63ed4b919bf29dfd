"""SyncBatchNorm with real gloo processes against one process that has the whole batch."""
from __future__ import annotations

import pytest
import torch
from processes import in_processes, needs_gloo
from tolerances import close
from torch.autograd import forward_ad

import fastlayers as fl
from fastlayers import nn

SHARES = ((5, 3), (8, 0), (1, 4, 0, 3))
WAYS = ("eager", "channels_last", "bfloat16", "compiled", "inplace", "ddp", "cumulative", "reference")
pytestmark = needs_gloo


def make(way: str) -> nn.BatchNorm2d:
    torch.manual_seed(3)
    layer = nn.BatchNorm2d(3, activation=nn.PReLU(3), dropout=0.0, momentum=None if way == "cumulative" else 0.1,
                           memory="inplace" if way == "inplace" else "default")
    torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    torch.nn.init.uniform_(layer.bias)
    return layer


def batch(way: str, step: int) -> list[torch.Tensor]:
    """x, residual, dy of the whole batch."""
    torch.manual_seed(step)
    tensors = [torch.randn(8, 3, 5, 4) * 2 + 3 for _ in range(3)]
    if way == "bfloat16":
        tensors = [tensor.bfloat16() for tensor in tensors]
    if way == "channels_last":
        tensors = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors]
    return tensors


def train(way: str, layer: torch.nn.Module, mine: slice) -> list[torch.Tensor]:
    """Two steps and an evaluation on a share of the batch: y, dx, dresidual, gradients of the parameters, running statistics."""
    call, results = layer, []
    if way == "compiled":
        call = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    if way == "ddp":
        call = torch.nn.parallel.DistributedDataParallel(layer)
    for step in range(2):
        layer.zero_grad()
        x, residual, dy = (tensor[mine] for tensor in batch(way, step))
        x, residual = x.detach().requires_grad_(), residual.detach().requires_grad_()
        y = call(x, residual)
        y.backward(dy)
        results.append([y.detach(), x.grad, residual.grad, *[p.grad.clone() for p in layer.parameters()], *layer.buffers()])
        results[-1] = [value.clone() for value in results[-1]]
    results.append([layer.eval()(batch(way, 9)[0][mine]).detach()])
    return results


def check_no_samples_anywhere() -> None:
    """Counted, but the running statistics stay and gradients are 0, as for an empty batch in one process."""
    layer, x = nn.SyncBatchNorm(3, activation="silu"), torch.zeros(0, 3, requires_grad=True)
    layer(x).sum().backward()
    assert (layer.running_mean == 0).all()
    assert (layer.running_var == 1).all()
    assert layer.num_batches_tracked == 1
    assert (layer.weight.grad == 0).all()
    assert (layer.bias.grad == 0).all()


def check_transforms_are_refused() -> None:
    """They would see this rank's samples alone."""
    layer, x = nn.SyncBatchNorm(3), torch.randn(4, 3)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="group must be None under a transform"):
        layer(forward_ad.make_dual(x, x))
    assert layer.num_batches_tracked == 0
    torch.vmap(layer.eval())(x[None])


def check_what_is_no_group_is_refused() -> None:
    layer = nn.SyncBatchNorm(3, process_group="world")
    with pytest.raises(TypeError, match=r"^SyncBatchNorm: process_group must be a ProcessGroup, got str$"):
        layer(torch.randn(4, 3))
    assert layer.num_batches_tracked == 0
    layer.process_group = torch.distributed.GroupMember.NON_GROUP_MEMBER  # new_group's answer to a rank outside, whose batch is its own
    layer(torch.randn(4, 3))


def worker(rank: int, shares: tuple[int, ...]) -> dict[str, list]:
    first = sum(shares[:rank])
    found = {}
    for way in WAYS:
        torch._dynamo.reset()
        with fl.backend("reference" if way == "reference" or not fl.backends()["cpp"].startswith("available") else "cpp"):
            layer = nn.SyncBatchNorm.convert_sync_batchnorm(make(way))
            found[way] = train(way, layer, slice(first, first + shares[rank]))
    check_no_samples_anywhere()
    check_transforms_are_refused()
    check_what_is_no_group_is_refused()
    return found


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_ranks_together_are_one_process_with_the_whole_batch(shares: tuple[int, ...]) -> None:
    found = in_processes(len(shares), worker, shares)  # once for all ways: starting processes is what takes the time
    for way in WAYS:
        check_way(way, shares, found)


def check_way(way: str, shares: tuple[int, ...], found: list[dict[str, list]]) -> None:
    whole = train("eager" if way in ("compiled", "ddp", "inplace", "reference") else way, make(way), slice(0, 8))
    for step, expected in enumerate(whole):
        together = [one[way][step] for one in found]
        elementwise, parameters = 3 if step < 2 else 1, 3
        for k in range(elementwise):
            actual = torch.cat([results[k] for results in together])
            close(actual, expected[k])
        if step == 2:
            continue
        for k in range(elementwise, elementwise + parameters):
            total = torch.stack([results[k] for results in together]).sum(0)  # DDP has averaged already
            total = total / len(shares) if way != "ddp" else total
            close(total * (1 if way == "ddp" else len(shares)), expected[k])
        for k in range(elementwise + parameters, len(expected)):
            for results in together:
                assert torch.equal(results[k], together[0][k]), "all ranks have the same bits"
            close(together[0][k], expected[k])


def test_what_is_no_group_is_refused() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    for group in ("world", torch.distributed.GroupMember.NON_GROUP_MEMBER):
        with pytest.raises(TypeError, match=rf"^batch_norm: group must be a ProcessGroup, got {type(group).__name__}$"):
            fl.functional.batch_norm(torch.randn(4, 3), mean, var, training=True, group=group)
    assert mean.tolist() == [0] * 3
    assert var.tolist() == [1] * 3


def test_without_processes_it_is_batch_norm() -> None:
    layer, twin = nn.SyncBatchNorm(3, activation="relu"), nn.BatchNorm1d(3, activation="relu")
    x = torch.randn(8, 3)
    assert torch.equal(layer(x), twin(x))
    assert list(layer.state_dict()) == list(torch.nn.SyncBatchNorm(3).state_dict())
    with pytest.raises(ValueError, match="SyncBatchNorm: x must be at least 2-D, got 1-D of shape \\(3,\\)"):
        layer(torch.randn(3))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 3))


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, torch.nn.SyncBatchNorm.convert_sync_batchnorm],
                         ids=["ours", "torch's"])
def test_conversion_keeps_the_block(convert) -> None:
    """The activation that torch's conversion would drop, dropout, options, the parameters themselves."""
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), nn.BatchNorm1d(4, activation=nn.PReLU(4), dropout=0.1, memory="inplace", skip_nonfinite=True, bias=False),
        torch.nn.ModuleDict({"plain": torch.nn.BatchNorm1d(4, momentum=None)})).eval()
    model[1].freeze()
    before, block = dict(model.state_dict()), model[1]
    x = torch.randn(6, 3)
    expected = model[:2](x)
    converted = convert(model)
    assert type(converted[1]) is nn.SyncBatchNorm
    assert isinstance(converted[2]["plain"], (nn.SyncBatchNorm, torch.nn.SyncBatchNorm))
    assert converted[1].weight is block.weight
    assert converted[1].activation is block.activation
    assert "dropout=0.1, memory=inplace, skip_nonfinite=True, frozen=True" in repr(converted[1])
    assert torch.equal(converted[:2](x), expected)
    assert not any(module.training for module in converted.modules())
    assert converted.state_dict().keys() == before.keys()
    assert isinstance(convert(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))[0], (nn.SyncBatchNorm, torch.nn.SyncBatchNorm))


def test_a_layer_used_twice_is_converted_once() -> None:
    """In one parent, where named_children() tells one of its names, and in another."""
    shared = nn.BatchNorm1d(4, activation="relu")
    model = torch.nn.ModuleDict({"first": shared, "second": shared, "other": torch.nn.Sequential(shared)})
    model.none = None
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert type(model["first"]) is nn.SyncBatchNorm
    assert model["first"] is model["second"] is model["other"][0]
