"""Optimizers over time: copies and checkpoints, and groups, parameters, gradients, dtypes and options that change between steps."""
from __future__ import annotations

import copy
import io
import itertools
import pickle

import pytest
import torch
from optimizer_cases import NAMES, assert_equal, make_params, make_steps, pair, set_grads, twin
from torch import Tensor

import fastlayers as fl
from fastlayers import reference
from fastlayers.optim import layout


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save", "state_dict"])
@pytest.mark.parametrize(("name", "kwargs"), [("SGD", {"momentum": 0.9, "dampening": 0.1}), ("Adam", {"amsgrad": True}), ("AdamW", {})])
def test_copies_go_on_alike(name: str, kwargs: dict, how: str) -> None:
    params, optimizer, _, _ = pair(name, ours={"max_grad_norm": 0.5}, **kwargs)
    make_steps(3, optimizer)
    if how == "deepcopy":
        other_params, other = copy.deepcopy((params, optimizer))
    elif how == "pickle":
        other_params, other = pickle.loads(pickle.dumps((params, optimizer)))
    elif how == "torch.save":
        file = io.BytesIO()
        torch.save((params, optimizer), file)
        file.seek(0)
        other_params, other = torch.load(file, weights_only=False)
    else:
        other_params = [p.detach().clone().requires_grad_() for p in params]
        other = getattr(fl.optim, name)(other_params, max_grad_norm=0.5)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    make_steps(3, optimizer, other)
    assert other.max_grad_norm == 0.5
    assert {name for name in vars(other) if name[0] != "_"} == {name for name in vars(optimizer) if name[0] != "_"}
    assert all(torch.equal(p, q) for p, q in zip(params, other_params, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_groups_added_and_named(name: str) -> None:
    lists = [make_params() for _ in range(2)]
    optimizers = []
    for kind, params in zip((getattr(fl.optim, name), twin(name)), lists, strict=True):
        optimizers.append(kind([("first", params[0]), ("second", params[1])], lr=0.1))
    make_steps(2, *optimizers)
    for optimizer, params in zip(optimizers, lists, strict=True):
        optimizer.add_param_group({"params": [(str(i), p) for i, p in enumerate(params[2:])], "lr": 0.01, "weight_decay": 0.3})
    make_steps(3, *optimizers)
    assert_equal(*lists)
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_share_their_memory_are_updated_one_after_the_other(name: str) -> None:
    """``decoder.weight = nn.Parameter(encoder.weight)`` makes a second parameter of the same numbers."""
    lists = [[torch.nn.Parameter(shared) for _ in range(2)] for shared in (torch.ones(100_000) for _ in range(2))]
    ours, optimizer, theirs, theirs_optimizer = pair(name, lists)
    make_steps(3, optimizer, theirs_optimizer)
    assert_equal(ours, theirs)
    assert len(optimizer._plan.launches) == 2


def test_parameters_in_one_buffer_are_updated_together() -> None:
    """Parts of the memory that distributed training lays parameters out in are no copies of each other."""
    buffer = torch.ones(12)
    optimizer = fl.optim.Adam([torch.nn.Parameter(part) for part in (buffer[:4], buffer[4:])])
    make_steps(2, optimizer)
    assert len(optimizer._plan.launches) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_is_trained_later(name: str) -> None:
    """The gradients of all others go on, as when a layer is unfrozen."""
    ours, optimizer, theirs, theirs_optimizer = pair(name)
    for step in range(4):
        set_grads(ours, theirs)
        for params in (ours, theirs):
            params[0].grad = params[0].grad if step > 1 else None
        optimizer.step()
        theirs_optimizer.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_come_and_go_and_move(name: str) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair(name, **({"momentum": 0.9} if name == "SGD" else {}))
    for step in range(8):
        set_grads(ours, theirs)
        for params in (ours, theirs):
            params[step % 3].grad = None
            if step > 4:
                params[4].grad.data = params[4].grad.data.clone() * 2  # the same object with other memory
        optimizer.step()
        theirs_optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        theirs_optimizer.zero_grad(set_to_none=step % 2 == 0)
    assert_equal(ours, theirs)


def test_a_step_without_any_gradient_does_nothing() -> None:
    ours, optimizer, _, _ = pair("Adam", ours={"max_grad_norm": 1.0})
    optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(p, q) for p, q in zip(ours, make_params(), strict=True))


def _replace_data(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    params[1].data = params[1].data.clone() + 1


def _clear_state(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state.clear()


def _replace_state(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    state = optimizer.state[params[0]]
    state["exp_avg"] = state["exp_avg"] * 2
    optimizer.state[params[1]] = {name: value.clone() * 3 for name, value in optimizer.state[params[1]].items()}


def _change_options(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0].update(lr=0.3, betas=(0.5, 0.6), eps=0.1, weight_decay=0.4, maximize=True)


def _drop_a_parameter(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    del optimizer.param_groups[0]["params"][2]


def _replace_a_parameter(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["params"][1] = torch.ones(5, requires_grad=True)


def _replace_a_group(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": 0.3}


def _decouple_the_weight_decay(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0].update(weight_decay=0.4, decoupled_weight_decay=True)


def _replace_the_count(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.state[params[1]]["step"] = torch.tensor(7.0, dtype=torch.float64)


def _move_memory(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    params[0].data = torch.stack([params[0].data] * 2, -1)[..., 0]  # with gaps
    state = optimizer.state[params[4]]
    state["exp_avg"] = state["exp_avg"].to(memory_format=torch.channels_last)


@pytest.mark.parametrize("compiled", [True, False], ids=["extension", "no extension"])
@pytest.mark.parametrize("change", [
    _replace_data, _clear_state, _replace_state, _change_options, _drop_a_parameter, _replace_a_parameter, _replace_a_group,
    _decouple_the_weight_decay, _replace_the_count, _move_memory])
def test_changes_between_steps_are_noticed(change, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the extension looks for them or its twin in Python."""
    if not compiled:
        monkeypatch.setattr(layout, "extension", None)
        monkeypatch.setattr(fl.optim.fused, "select", lambda _: reference)
    ours, optimizer, theirs, theirs_optimizer = pair("Adam")
    make_steps(3, optimizer, theirs_optimizer)
    change(ours, optimizer)
    change(theirs, theirs_optimizer)
    make_steps(3, optimizer, theirs_optimizer)
    assert_equal(*([p for group in o.param_groups for p in group["params"]] for o in (optimizer, theirs_optimizer)))


@pytest.mark.parametrize("options", [{}, {"master_weights": True}, {"ema_decay": 0.9}], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize(
    ("before", "after"), list(itertools.permutations([torch.float64, torch.float32, torch.float16, torch.bfloat16], 2)), ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_that_changes_its_dtype_takes_its_states_along(
    cpu_backend: str, layers: int, before: torch.dtype, after: torch.dtype, name: str, options: dict
) -> None:
    """All parameters or some; steps of a constant gradient go on as if they had always been of that dtype."""
    kwargs = options | ({"momentum": 0.9} if name == "SGD" else {})
    models = [torch.nn.Sequential(*(torch.nn.Linear(3, 2) for _ in range(2))).to(dtype) for dtype in (before, after)]
    for p in (p for model in models for p in model.parameters()):
        torch.nn.init.ones_(p)
    optimizers = [getattr(fl.optim, name)(model.parameters(), lr=2.0**-6, **kwargs) for model in models]
    steps, coarsest = 4, max(torch.finfo(dtype).eps for dtype in (before, after))
    for step in range(steps):
        if step == 2:
            models[0][:layers].to(after)
        for model, optimizer in zip(models, optimizers, strict=True):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert (p.double() - q.double()).abs().max() <= steps * coarsest / 2  # each step rounds a number of at most 1
    assert models[0][0].weight.dtype == after


def test_one_of_two_parameters_with_gaps_changes_its_dtype(cpu_backend: str) -> None:
    """Both had been in one launch."""
    params = [torch.ones(6, 8)[:, :5].requires_grad_() for _ in range(2)]
    optimizer = fl.optim.SGD(params, lr=0.25, momentum=0.5)
    for step in range(3):  # a plan of the first is not kept
        if step == 2:
            params[1].grad = None
            params[1].data = params[1].data.bfloat16()
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert all(p.unique().tolist() == [1 - 0.25 * (1 + 1.5 + 1.75)] for p in params)


def test_options_that_add_a_state_later() -> None:
    params, optimizer, _, _ = pair("SGD", lr=0.1)
    make_steps(2, optimizer)
    optimizer.param_groups[0]["momentum"] = 0.9
    make_steps(2, optimizer)
    assert all("momentum_buffer" in optimizer.state[p] for p in params)


def test_options_that_change_later() -> None:
    """As attributes, which anybody may write to."""
    for dtype in (torch.float32, torch.bfloat16):
        params = make_params(dtype)
        optimizer = fl.optim.Adam(params)
        make_steps(2, optimizer)
        optimizer.state_dtype = torch.bfloat16 if dtype is torch.float32 else torch.float32
        make_steps(2, optimizer)
        assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {optimizer.state_dtype}
        optimizer.master_weights = True
        make_steps(1, optimizer)
        assert all(("master" in state) == (dtype is torch.bfloat16) for state in optimizer.state.values())
    half = make_params(torch.float16)
    optimizer = fl.optim.SGD(half)
    make_steps(2, optimizer)
    optimizer.stochastic_rounding = True
    with pytest.raises(RuntimeError, match=r"^SGD: params must not be float16 with stochastic_rounding"):
        make_steps(1, optimizer)


def test_a_new_parameter_beside_float32_states_of_half_ones() -> None:
    """States of a checkpoint keep their dtype, and those of a parameter that it does not know have the parameter's."""
    p, q = make_params(torch.bfloat16, shapes=((3,), (4,)))
    optimizer = fl.optim.Adam([p], lr=0.1, state_dtype=torch.float32)
    make_steps(1, optimizer)
    optimizer.state_dtype = None
    optimizer.param_groups[0]["params"].append(q)
    before = [x.detach().clone() for x in (p, q)]
    make_steps(1, optimizer)
    assert not any(torch.equal(x, old) for x, old in zip((p, q), before, strict=True))
    assert [optimizer.state[x]["exp_avg"].dtype for x in (p, q)] == [torch.float32, torch.bfloat16]


def test_bfloat16_states_of_float16_parameters_stay_bfloat16() -> None:
    """Rounded to float16, as torch's loading would, second moments would be 0."""
    p = torch.ones(3, dtype=torch.float16, requires_grad=True)
    optimizer = fl.optim.Adam([p], state_dtype=torch.bfloat16)
    p.grad = torch.full_like(p, 1e-4)
    optimizer.step()
    second = optimizer.state[p]["exp_avg_sq"].clone()
    assert bool((second > 0).all())
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(optimizer.state[p]["exp_avg_sq"], second)


def test_a_loaded_checkpoint_leaves_nothing_behind() -> None:
    """Neither itself, which may be as large as the model three times over, nor a hook for each time."""
    params = make_params()
    optimizer = fl.optim.Adam(params)
    make_steps(1, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    hooks = len(optimizer._optimizer_load_state_dict_pre_hooks)
    optimizer.load_state_dict(saved)
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == hooks
    assert optimizer._loading is None


def test_a_group_without_parameters() -> None:
    """It has nothing to draw numbers for."""
    params = make_params(torch.bfloat16)
    optimizer = fl.optim.Adam([{"params": params}, {"params": []}], stochastic_rounding=True, max_grad_norm=1.0)
    make_steps(2, optimizer)
    assert optimizer.param_groups[1].keys() == optimizer.param_groups[0].keys() - {"rounding_seed"}


def test_groups_draw_numbers_of_their_own() -> None:
    """Two parameters alike, one in each group, are rounded by other numbers."""
    params = [torch.ones(4096, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    optimizer = fl.optim.SGD([{"params": [p]} for p in params], lr=2.0**-9, stochastic_rounding=True)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert not torch.equal(*params)


def _spoilt(name: str) -> tuple[list[Tensor], ...]:
    """params, states, scalars, masters, averages of two float16 parameters, of which one thing does not fit."""
    def like(dtype, *shape):
        return [torch.ones(shape or ((4, 1) if name == "size 1" else (4, 3)), dtype=dtype) for _ in range(2)]

    params = like(torch.float16)
    given = [like(torch.bfloat16), like(torch.float32, 1), like(torch.float32), like(torch.float32)]
    for p in params:
        p.grad = torch.ones_like(p)
    spoilt = {"state": (0, torch.ones(4, 3)), "shape": (0, torch.ones(3, 4).bfloat16()), "scalar": (1, torch.ones(1, dtype=torch.float64)),
              "master": (2, torch.ones(4, 3).half()), "average": (3, torch.ones(3, 4).t())}
    if name in spoilt:
        number, value = spoilt[name]
        given[number][1] = value
    elif name == "no gradient":
        params[1].grad = None
    elif name == "order of the gradient":
        params[1].grad = torch.ones(3, 4).half().t()
    elif name == "size 1":
        params[1].grad = torch.ones(1, 4).half().t()
    elif name == "gaps":
        params[1] = torch.ones(4, 6).half()[:, ::2]
        params[1].grad = torch.ones(4, 6).half()[:, ::2]
        given = [[], [], [], []]  # SGD's: nothing else tells of them
    return params, *given


@pytest.mark.parametrize("compiled", [True, False], ids=["extension", "no extension"])
@pytest.mark.parametrize("name", [
    "nothing", "size 1", "state", "shape", "scalar", "master", "average", "no gradient", "order of the gradient", "gaps"])
def test_what_kernels_cannot_take_as_it_is(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(layout, "extension", None)
    lists = _spoilt(name)
    grads = layout.gradients_if_ready(*lists)
    if name in ("nothing", "size 1"):  # strides there mean nothing
        assert all(grad is p.grad for grad, p in zip(grads, lists[0], strict=True))
    else:
        assert grads is None


@pytest.mark.parametrize("step", [torch.tensor(4.0, dtype=torch.float64), torch.tensor(4), torch.tensor([4.0]), 4, 4.0], ids=str)
def test_step_counts_of_any_kind(step: object) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair("Adam")
    make_steps(4, optimizer, theirs_optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = copy.deepcopy(step)
    optimizer.load_state_dict(saved)
    make_steps(2, optimizer, theirs_optimizer)
    assert_equal(ours, theirs)
    assert float(optimizer.state[ours[0]]["step"]) == 6
