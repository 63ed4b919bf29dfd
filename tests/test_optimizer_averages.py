"""Averages of the parameters, ema_decay: what they are, and swapping them with the parameters."""
from __future__ import annotations

import copy

import pytest
import torch
from optimizer_cases import EVERY_RULE, layouts, make_params, optimizer_of, resumed, set_grads
from tolerances import STEP_TOLERANCES

import fastlayers as fl


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_averages_and_swapping_them(device, name: str, dtype: torch.dtype) -> None:
    params = make_params(dtype, device)
    want = [p.detach().double().cpu() for p in params]
    optimizer = optimizer_of(name, params, ema_decay=0.8, max_grad_norm=1.0)
    for step in range(10):
        if step == 5:
            optimizer = resumed(optimizer, name, params, ema_decay=0.8, max_grad_norm=1.0)
        set_grads(params)
        optimizer.step()
        want = [0.8 * mean + (1 - 0.8) * p.detach().double().cpu() for mean, p in zip(want, params, strict=True)]
    before = [p.detach().clone() for p in params]
    with optimizer.swap_ema():
        for p, mean in zip(params, want, strict=True):
            torch.testing.assert_close(p.detach().cpu(), mean.to(dtype), rtol=torch.finfo(dtype).eps, atol=STEP_TOLERANCES[torch.float32])
        with pytest.raises(RuntimeError, match=f"^{name}: step must be called after swap_ema"):
            optimizer.step()
        averages = [p.detach().clone() for p in params]
        with optimizer.swap_ema():  # a function that is called in the block may have one of its own
            assert all(torch.equal(p, q) for p, q in zip(params, averages, strict=True))
        assert all(torch.equal(p, q) for p, q in zip(params, averages, strict=True))
        again = copy.deepcopy(optimizer)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    set_grads(params)
    optimizer.step()
    with pytest.raises(RuntimeError, match=f"^{name}: step must be called after swap_ema"):
        again.step()  # the copy has the averages in place still
    again.swap_ema()
    held = [p for group in again.param_groups for p in group["params"]]
    assert all(torch.equal(p, q) for p, q in zip(held, before, strict=True))


@pytest.mark.parametrize("grad_layout", ["like the parameter", "contiguous"])
@pytest.mark.parametrize("layout", list(layouts()))
def test_layouts_with_masters_and_averages(device, layout: str, grad_layout: str) -> None:
    """The very numbers that the contiguous parameter of the same values becomes, and its master, average and moments."""
    for options in ({"master_weights": True, "state_dtype": torch.float32}, {}):
        param = layouts()[layout]().to(device).bfloat16().requires_grad_()
        params = [param, param.detach().clone(memory_format=torch.contiguous_format).requires_grad_()]
        optimizers = [optimizer_of("AdamW", [p], ema_decay=0.8, **options) for p in params]
        for _ in range(3):
            value = torch.randn(param.shape, device=device).bfloat16()
            for p, optimizer in zip(params, optimizers, strict=True):
                p.grad = value.clone() if grad_layout == "contiguous" else torch.empty_like(p).copy_(value)
                optimizer.step()
        assert torch.equal(*params)
        ours, theirs = (optimizer.state[p] for p, optimizer in zip(params, optimizers, strict=True))
        assert ours.keys() == theirs.keys() >= {"average", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_swapping_needs_averages() -> None:
    optimizer = fl.optim.SGD(make_params())
    with pytest.raises(RuntimeError, match=r"^SGD: ema_decay must be given and a step made before swap_ema\(\), got no averages$"):
        optimizer.swap_ema()


def test_a_decay_that_is_scheduled_and_averages_that_come_later() -> None:
    p = torch.zeros(1, requires_grad=True)
    optimizer = fl.optim.SGD([p], lr=1.0)
    for decay, average in ((None, None), (0.5, -1.5), (0.0, -3.0), (1.0, -3.0)):
        p.grad = torch.ones(1)
        optimizer.ema_decay = decay
        optimizer.step()
        assert optimizer.state.get(p, {}).get("average") == average


def test_averages_in_place_are_not_loaded_over() -> None:
    """What the block brings back would be lost."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fl.optim.SGD([p], lr=1.0, ema_decay=0.5)
    p.grad = torch.ones(3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    with optimizer.swap_ema(), pytest.raises(RuntimeError, match=r"^SGD: load_state_dict must be called after swap_ema\(\) has brought"):
        optimizer.load_state_dict(saved)
    assert p.tolist() == [0.0] * 3
    optimizer.load_state_dict(saved)
