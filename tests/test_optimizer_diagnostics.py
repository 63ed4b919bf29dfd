"""Optimizer.diagnostics: norms and lost updates before a step, and the steps that were skipped."""
from __future__ import annotations

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
    for value in (1.0, 0.0, 1.0):
        optimizer.found_inf = torch.tensor(value)
        optimizer.step()
    assert optimizer.diagnostics().skipped == 2
