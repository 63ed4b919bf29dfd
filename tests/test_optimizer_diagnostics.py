"""Optimizer.diagnostics: norms and lost updates before a step, and the steps that were skipped."""
from __future__ import annotations

import copy

import pytest
import torch
from optimizer_cases import EVERY_RULE, make_params, optimizer_of, set_grads

import fastlayers as fl


@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_diagnostics_say_what_the_step_does(device, name: str) -> None:
    params = make_params(device=device)
    optimizer = optimizer_of(name, params, max_grad_norm=2.0)
    optimizer.add_param_group({"params": make_params(device=device, shapes=((6, 7), (3,)))})
    groups = [group["params"] for group in optimizer.param_groups]
    for _ in range(2):
        for members in groups:
            set_grads(members)
        before = [[p.detach().clone() for p in members] for members in groups]
        found = optimizer.diagnostics()
        assert all(torch.equal(p, q) for members, old in zip(groups, before, strict=True) for p, q in zip(members, old, strict=True))
        optimizer.step()
        for one, members, old in zip(found.groups, groups, before, strict=True):
            moved = sum((p.detach() - q).double().square().sum().item() for p, q in zip(members, old, strict=True)) ** 0.5
            assert one.update_norm == pytest.approx(moved, rel=1e-4)
            assert one.gradient_norm == pytest.approx(torch.nn.utils.get_total_norm([p.grad for p in members]).item(), rel=1e-5)
            assert one.lost == 0
    assert found.skipped == 0


def test_diagnostics_see_the_bfloat16_trap_and_skipped_steps() -> None:
    lost = {}
    for title, options in (("plain", {}), ("masters", {"master_weights": True}), ("rounding", {"stochastic_rounding": True})):
        p = torch.tensor([1.0] * 3 + [1e-4], dtype=torch.bfloat16, requires_grad=True)
        p.grad = torch.ones_like(p)
        optimizer = fl.optim.Adam([p], lr=1e-3, **options)
        lost[title] = optimizer.diagnostics().groups[0].lost
        assert not optimizer.state
    assert lost == {"plain": 0.75, "masters": 0, "rounding": 0}
    for step in (optimizer.step, torch.compile(optimizer.step, fullgraph=True, backend="aot_eager"), optimizer.step):
        for value in (1.0, 0.0, 1.0):
            optimizer.found_inf = torch.tensor(value)
            step()
    assert optimizer.diagnostics().skipped == 6


def test_diagnostics_know_which_masters_a_step_uses() -> None:
    """A checkpoint may hold some that are not asked for, or a parameter may have become one that needs none."""
    p = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.full_like(p, 0.5)
    with_masters, without = fl.optim.SGD([p], lr=1e-4, momentum=0.9, master_weights=True), fl.optim.SGD([p], lr=1e-4, momentum=0.9)
    with_masters.step()
    assert with_masters.diagnostics().groups[0].lost == 0
    without.load_state_dict(with_masters.state_dict())
    assert "master" in without.state[p]
    assert without.diagnostics().groups[0].lost == 1
    p.grad = None
    p.data = p.data.double()
    p.grad = torch.full_like(p, 0.5)
    assert with_masters.diagnostics().groups[0].lost == 0


def test_diagnostics_where_nothing_moves() -> None:
    optimizer = fl.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    assert optimizer.diagnostics().groups == [(0.0, 0.0, 0.0)]
    optimizer.param_groups[0]["params"][0].grad = torch.zeros(3)
    assert optimizer.diagnostics().groups == [(0.0, 0.0, 0.0)]


def test_diagnostics_make_no_states_and_refuse_what_a_step_refuses() -> None:
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = fl.optim.Adam([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.ema_decay, optimizer.master_weights = 0.5, True
    names = {*optimizer.state[p]}
    optimizer.diagnostics()
    assert {*optimizer.state[p]} == names
    p.grad = p.grad.to_sparse()
    with pytest.raises(RuntimeError, match=r"^Adam: grad must be dense"):
        optimizer.diagnostics()
    p.grad, p.data = None, p.data.half()
    p.grad, optimizer.stochastic_rounding = torch.ones_like(p), True
    with pytest.raises(RuntimeError, match=r"^Adam: params must not be float16 with stochastic_rounding"):
        optimizer.diagnostics()


def test_diagnostics_know_that_float32_is_rounded_to_nearest() -> None:
    p = torch.nn.Parameter(torch.full((4,), 1e8))
    p.grad = torch.ones_like(p)
    assert fl.optim.SGD([p], lr=1.0, stochastic_rounding=True).diagnostics().groups[0].lost == 1


def test_diagnostics_start_from_a_parameter_that_was_changed() -> None:
    """As a step does: its master stands for it only where it rounds to it."""
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = fl.optim.SGD([p], lr=0.5, weight_decay=1.0, master_weights=True)
    p.grad = torch.ones_like(p)
    optimizer.step()
    p.data.fill_(3.0)
    assert optimizer.diagnostics().groups[0].update_norm == 4.0


def test_copies_know_how_many_steps_were_skipped() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = fl.optim.SGD([p])
    p.grad, optimizer.found_inf = torch.ones_like(p), torch.tensor(1.0)
    optimizer.step()
    assert copy.deepcopy(optimizer).diagnostics().skipped == 1
