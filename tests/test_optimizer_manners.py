"""What surrounds a step: hooks, schedulers, checkpoints, changes between steps, torch.compile, and what is refused."""
from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle
import warnings

import pytest
import torch
from optimizer_cases import twin
from test_optimizers import NAMES, assert_equal, make_params, pair, set_grads
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import fastlayers as fl
from fastlayers.specs import UPDATE_RULES


def run(steps: int, *optimizers: torch.optim.Optimizer) -> None:
    """Steps of several optimizers with the same new gradients."""
    for _ in range(steps):
        set_grads(*([p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers))
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(torch.optim, name)])
def test_hooks_run_once_and_may_come_and_go(name: str) -> None:
    """Global ones too, and with what torch gives them: the optimizer, its own arguments, and no keywords."""
    _, ours, _, theirs = pair(name)
    for closure in ((), (lambda: None,)):
        calls = {theirs: [], ours: []}

        def hook(optimizer, arguments, keywords, calls=calls, when="everywhere"):
            calls[optimizer].append((when, arguments[0] is optimizer, arguments[1:], keywords))

        for optimizer in calls:
            handles = [optimizer.register_step_pre_hook(functools.partial(hook, when="before")),
                       optimizer.register_step_post_hook(functools.partial(hook, when="after"))]
            optimizer.step(*closure)
            for handle in handles:
                handle.remove()
            optimizer.step(*closure)
            everywhere = register_optimizer_step_post_hook(hook)
            optimizer.step(*closure)
            everywhere.remove()
        assert calls[ours] == calls[theirs]
        assert [call[0] for call in calls[ours]] == ["before", "after", "everywhere"]


def test_hooks_of_a_subclass_with_its_own_step_run_once() -> None:
    class Mine(fl.optim.Adam):
        def step(self, closure=None):
            return super().step(closure)

    optimizer, calls = Mine(make_params()), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    run(2, optimizer)
    assert calls == [1, 1]


def test_the_profiler_sees_the_step() -> None:
    _, optimizer, _, _ = pair("Adam")
    set_grads(make_params())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(1, optimizer)
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_torchs_and_the_options(name: str) -> None:
    p = torch.ones(3, requires_grad=True)
    text = repr(getattr(fl.optim, name)([p]))
    assert text == repr(twin(name)([p])).replace("PaperLion", "Lion")
    with_options = repr(getattr(fl.optim, name)([p], max_grad_norm=1.0, ema_decay=0.9, master_weights=False))
    assert with_options == text.removesuffix(")") + "\nOptions\n    max_grad_norm: 1.0\n    ema_decay: 0.9\n)"


@pytest.mark.parametrize("name", NAMES)
def test_schedulers(name: str) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair(name, lr=0.1)
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=9, cycle_momentum=False) for o in (optimizer, theirs_optimizer)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            run(1, optimizer, theirs_optimizer)
            for scheduler in schedulers:
                scheduler.step()
    assert_equal(ours, theirs)


def test_closure_is_called_with_gradients_enabled() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = fl.optim.SGD([p], lr=0.25)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 3
    assert p.tolist() == [0.5] * 3
    assert optimizer.step() is None


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save", "state_dict"])
@pytest.mark.parametrize(("name", "kwargs"), [("SGD", {"momentum": 0.9, "dampening": 0.1}), ("Adam", {"amsgrad": True}), ("AdamW", {})])
def test_copies_go_on_alike(name: str, kwargs: dict, how: str) -> None:
    params, optimizer, _, _ = pair(name, ours={"max_grad_norm": 0.5}, **kwargs)
    run(3, optimizer)
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
    run(3, optimizer, other)
    assert other.max_grad_norm == 0.5
    assert {name for name in vars(other) if name[0] != "_"} == {name for name in vars(optimizer) if name[0] != "_"}
    assert all(torch.equal(p, q) for p, q in zip(params, other_params, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_groups_added_and_named(name: str) -> None:
    lists = [make_params() for _ in range(2)]
    optimizers = []
    for kind, params in zip((getattr(fl.optim, name), twin(name)), lists, strict=True):
        optimizers.append(kind([("first", params[0]), ("second", params[1])], lr=0.1))
    run(2, *optimizers)
    for optimizer, params in zip(optimizers, lists, strict=True):
        optimizer.add_param_group({"params": [(str(i), p) for i, p in enumerate(params[2:])], "lr": 0.01, "weight_decay": 0.3})
    run(3, *optimizers)
    assert_equal(*lists)
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_share_their_memory_are_updated_one_after_the_other(name: str) -> None:
    """``decoder.weight = nn.Parameter(encoder.weight)`` makes a second parameter of the same numbers."""
    lists = [[torch.nn.Parameter(shared) for _ in range(2)] for shared in (torch.ones(100_000) for _ in range(2))]
    ours, optimizer, theirs, theirs_optimizer = pair(name, lists)
    run(3, optimizer, theirs_optimizer)
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


@pytest.mark.parametrize(
    "change", [_replace_data, _clear_state, _replace_state, _change_options, _drop_a_parameter, _replace_a_parameter])
def test_changes_between_steps_are_noticed(change) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair("Adam")
    run(3, optimizer, theirs_optimizer)
    change(ours, optimizer)
    change(theirs, theirs_optimizer)
    run(3, optimizer, theirs_optimizer)
    assert_equal(*([p for group in o.param_groups for p in group["params"]] for o in (optimizer, theirs_optimizer)))


@pytest.mark.parametrize("options", [{}, {"master_weights": True}, {"ema_decay": 0.9}], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize(
    ("before", "after"), itertools.permutations([torch.float64, torch.float32, torch.float16, torch.bfloat16], 2), ids=str)
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


def test_options_that_add_a_state_later() -> None:
    params, optimizer, _, _ = pair("SGD", lr=0.1)
    run(2, optimizer)
    optimizer.param_groups[0]["momentum"] = 0.9
    run(2, optimizer)
    assert all("momentum_buffer" in optimizer.state[p] for p in params)


@pytest.mark.parametrize("step", [torch.tensor(4.0, dtype=torch.float64), torch.tensor(4), torch.tensor([4.0]), 4, 4.0], ids=str)
def test_step_counts_of_any_kind(step: object) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair("Adam")
    run(4, optimizer, theirs_optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = copy.deepcopy(step)
    optimizer.load_state_dict(saved)
    run(2, optimizer, theirs_optimizer)
    assert_equal(ours, theirs)
    assert float(optimizer.state[ours[0]]["step"]) == 6


def _snapshot(params: list[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [x.detach().clone() for x in [*params, *(value for state in optimizer.state.values() for value in state.values())]]


@pytest.mark.parametrize("name", NAMES)
def test_sparse_and_complex_gradients_are_refused_before_anything_changes(name: str) -> None:
    params, optimizer, _, _ = pair(name, **({"momentum": 0.9} if name == "SGD" else {}))
    run(2, optimizer)
    before = _snapshot(params, optimizer)
    set_grads(params)
    params[-1].grad = params[-1].grad.to_sparse()
    with pytest.raises(RuntimeError) as error:
        optimizer.step()
    assert str(error.value) == f"{name}: grad must be dense, got a sparse_coo tensor of shape (130,)"
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))

    params = [torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.complex64, requires_grad=True)]
    optimizer = getattr(fl.optim, name)(params)
    for p in params:
        p.grad = torch.ones_like(p)
    before = _snapshot(params, optimizer)
    with pytest.raises(RuntimeError) as error:
        optimizer.step()
    assert str(error.value) == f"{name}: params must be real, got complex64; torch.optim takes complex ones"
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))


def test_a_gradient_on_another_device_is_refused_before_anything_changes() -> None:
    """torch does not let one be assigned; a subclass may still have one."""
    class Elsewhere(Tensor):
        grad = property(lambda self: torch.ones(2, device="meta"))

    p, q = torch.ones(3, requires_grad=True), torch.ones(2).as_subclass(Elsewhere).requires_grad_()
    with pytest.raises(RuntimeError, match="device"):
        p.grad = torch.ones(3, device="meta")
    p.grad = torch.ones(3)
    optimizer = fl.optim.Adam([p, q])
    with pytest.raises(RuntimeError, match=r"^Adam: grad must be on the device of its parameter, cpu, got meta$"):
        optimizer.step()
    assert not optimizer.state
    assert p.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_are_refused(name: str) -> None:
    make = getattr(fl.optim, name)
    with pytest.raises(ValueError, match=f"^{name}: differentiable must be False, got True: the update is one kernel"):
        make(make_params(), differentiable=True)
    with pytest.raises(ValueError, match=f"^{name}: max_grad_norm must be at least 0, got -1.0$"):
        make(make_params(), max_grad_norm=-1.0)
    with pytest.raises(ValueError, match=f"^{name}: max_grad_norm must be at least 0, got nan$"):
        make(make_params(), max_grad_norm=float("nan"))
    with pytest.raises(TypeError, match=f"^{name}: max_grad_norm must be a number or None, got str$"):
        make(make_params(), max_grad_norm="1")
    with pytest.raises(ValueError, match=f"^{name}: state_dtype must be one of None, torch.float32, torch.bfloat16, got torch.float16$"):
        make(make_params(), state_dtype=torch.float16)
    with pytest.raises(TypeError, match=f"^{name}: master_weights must be True or False, got 1$"):
        make(make_params(), master_weights=1)
    with pytest.raises(TypeError, match=f"^{name}: stochastic_rounding must be True or False, got None$"):
        make(make_params(), stochastic_rounding=None)
    with pytest.raises(ValueError, match=f"^{name}: ema_decay must be between 0 and 1, got 1.5$"):
        make(make_params(), ema_decay=1.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        make(make_params(), learning_rate=1.0)


NAN = float("nan")


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range_are_refused_wherever_they_come_from(name: str) -> None:
    """torch.optim lets NaN pass in SGD, and anything in a group's own dictionary."""
    row, make = UPDATE_RULES[name.lower()], getattr(fl.optim, name)
    optimizer = make(make_params())
    names = {name for name in ("lr", "weight_decay", *row.hyperparameters) if not name.startswith("beta")}
    for argument in names:
        with pytest.raises(ValueError, match=r"nan"):
            make(make_params(), **{argument: NAN})
        for value in (NAN, -0.5):
            if (argument, value) == ("dampening", -0.5):
                continue
            rule = "a number" if argument == "dampening" else "at least 0"
            with pytest.raises(ValueError, match=f"^{name}: {argument} must be {rule}, got {value}$"):
                optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], argument: value})
    if "beta1" in row.hyperparameters:
        for betas in ((1.0, 0.9), (0.9, -0.1), (NAN, 0.9)):
            with pytest.raises(ValueError, match=f"^{name}: beta[12] must be at least 0 and below 1, got"):
                optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "betas": betas})
        for betas in (None, (0.9,)):
            with pytest.raises(ValueError, match=f"^{name}: betas must be two numbers, got "):
                optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "betas": betas})
    assert len(optimizer.param_groups) == 1
    params = optimizer.param_groups[0]["params"]
    before = _snapshot(params, optimizer)
    set_grads(params)
    optimizer.param_groups[0]["lr"] = NAN
    with pytest.raises(ValueError, match=f"^{name}: lr must be at least 0, got nan$"):
        optimizer.step()
    for argument, value, kind in (("max_grad_norm", -1.0, ValueError), ("ema_decay", 7.0, ValueError), ("master_weights", 1, TypeError)):
        optimizer.param_groups[0].update(lr=0.1, **{argument: value})
        with pytest.raises(kind, match=f"^{name}: {argument} must be .*, got {value}$"):
            optimizer.step()
        del optimizer.param_groups[0][argument]
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))
    optimizer.param_groups[0]["lr"] = "0.1x"
    with pytest.raises(TypeError, match=f"^{name}: lr must be a number, got str$"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))


def test_a_parameter_given_twice_and_one_that_options_do_not_fit() -> None:
    p = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"^SGD: params must hold every parameter once, got one at positions 0 and 1, of shape \(2, 3\)$"):
        fl.optim.SGD([("a", p), ("b", p)])
    for dtype, options, message in (
        (torch.float16, {"stochastic_rounding": True},
         "params must not be float16 with stochastic_rounding, which is for bfloat16, got float16"),
        (torch.float64, {"state_dtype": torch.bfloat16}, "state_dtype must be None for float64 params, got bfloat16"),
    ):
        p = torch.ones(3, dtype=dtype, requires_grad=True)
        p.grad = torch.ones_like(p)
        with pytest.raises(RuntimeError, match=f"^Adam: {message}$"):
            fl.optim.Adam([p], **options).step()
        assert p.tolist() == [1, 1, 1]


def test_a_state_of_another_shape_is_refused_before_anything_changes() -> None:
    params, optimizer, _, _ = pair("Adam")
    run(2, optimizer)
    before, saved = _snapshot(params, optimizer), copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"] = torch.zeros(4, 3)
    saved["param_groups"][0]["lr"] = 7.0
    with pytest.raises(ValueError, match=r"^Adam: state 'exp_avg' must have its parameter's shape \(3, 4\), got \(4, 3\)$"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))


@pytest.mark.parametrize("size", [1, 4, 9])
def test_a_parameter_that_changes_its_shape_is_refused_before_anything_changes(cpu_backend: str, size: int) -> None:
    """With its old state or its old gradient, that is; kernels found nothing to do where the strides were the same."""
    _, q = params = make_params(shapes=((3,), (6,)))
    optimizer = fl.optim.Adam(params)
    run(2, optimizer)
    q.grad = None
    q.data = torch.ones(size)
    set_grads(params)
    before = _snapshot(params, optimizer)
    with pytest.raises(ValueError, match=rf"^Adam: state 'exp_avg' must have its parameter's shape \({size},\), got \(6,\)$"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))
    del optimizer.state[q]
    optimizer.step()
    q.data = torch.ones(6)
    with pytest.raises(RuntimeError, match=rf"^Adam: grad must have the shape of its parameter, \(6,\), got \({size},\)$"):
        optimizer.step()


@pytest.mark.parametrize(("key", "value", "kind", "message"), [
    ("exp_avg", "x", TypeError, "state 'exp_avg' must be a Tensor, got str"),
    ("exp_avg", torch.zeros(5, dtype=torch.complex64), ValueError, "state 'exp_avg' must be real and dense, got complex64, strided"),
    ("exp_avg", torch.zeros(5).to_sparse(), ValueError, "state 'exp_avg' must be real and dense, got float32, sparse_coo"),
    ("step", None, TypeError, "state 'step' must be a number or a Tensor, got NoneType"),
    ("step", torch.zeros(2), ValueError, r"state 'step' must have one element, got shape \(2,\)"),
    ("mu_product", torch.ones((), dtype=torch.complex64), ValueError, "state 'mu_product' must be real, got complex64"),
    ("lr", float("nan"), ValueError, "lr must be at least 0, got nan"), ("eps", -1.0, ValueError, "eps must be at least 0, got -1.0"),
    ("betas", (0.9, 1.0), ValueError, "beta2 must be at least 0 and below 1, got 1.0"),
    ("max_grad_norm", -1.0, ValueError, "max_grad_norm must be at least 0, got -1.0"),
])
def test_a_state_dict_that_does_not_fit_is_refused_before_anything_changes(
    key: str, value: object, kind: type[Exception], message: str
) -> None:
    """The second parameter's state or the group's number; what was there goes on."""
    params, optimizer, _, _ = pair("NAdam")
    run(2, optimizer)
    before, groups, saved = _snapshot(params, optimizer), copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    (saved["state"][1] if key in ("exp_avg", "step", "mu_product") else saved["param_groups"][0])[key] = value
    with pytest.raises(kind, match=f"^NAdam: {message}$"):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"] == groups["param_groups"]
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))
    run(1, optimizer)


def test_a_refused_step_is_not_counted() -> None:
    """Neither among the random numbers of stochastic rounding nor among the steps that were skipped."""
    params, others = make_params(torch.bfloat16), make_params(torch.bfloat16)
    optimizer, other = (fl.optim.SGD(each, stochastic_rounding=True) for each in (params, others))
    run(1, optimizer, other)
    set_grads(params, others)
    params[-1].grad = params[-1].grad.to_sparse()
    optimizer.found_inf = torch.tensor(1.0)
    with pytest.raises(RuntimeError, match=r"^SGD: grad must be dense"):
        optimizer.step()
    params[-1].grad, optimizer.found_inf = params[-1].grad.to_dense(), None
    for one in (optimizer, other):
        one.step()
    assert optimizer.diagnostics().skipped == 0
    assert optimizer.state_dict() == other.state_dict()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("kwargs", [{"foreach": True}, {"fused": True}, {"foreach": False, "capturable": True}], ids=str)
def test_ways_to_step_are_accepted(kwargs: dict) -> None:
    ours, theirs = make_params(), make_params()
    run(3, fl.optim.AdamW(ours, **kwargs), torch.optim.AdamW(theirs, foreach=False))
    assert_equal(ours, theirs)


@pytest.mark.parametrize(("name", "kwargs", "whole"), [
    ("Adam", {"lr": torch.tensor(0.1)}, True), ("AdamW", {"amsgrad": True}, True), ("SGD", {"lr": 0.1}, True),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, True), ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, False),
], ids=str)
def test_compiled_steps(name: str, kwargs: dict, whole: bool) -> None:
    """One graph, but for a momentum buffer whose first value differs from all later ones."""
    torch._dynamo.reset()
    ours, optimizer, theirs, theirs_optimizer = pair(
        name, ([torch.ones(3, 4, requires_grad=True)], [torch.ones(3, 4, requires_grad=True)]), ours={"max_grad_norm": 0.7}, **kwargs)
    step = torch.compile(lambda: optimizer.step(), fullgraph=whole, backend="aot_eager")
    for _ in range(4):
        set_grads(ours, theirs)
        step()
        torch.nn.utils.clip_grad_norm_(theirs, 0.7)
        theirs_optimizer.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_schedule_compiles_no_more_than_twice(name: str) -> None:
    """As torch.optim's, which keep a number symbolic that has changed; compiled for each one, a step would soon be left uncompiled."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    ours, optimizer, theirs, theirs_optimizer = pair(name, lr=0.1)
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend=counter)
    for power in range(12):
        for group in (*optimizer.param_groups, *theirs_optimizer.param_groups):
            group["lr"] = 0.1 * 0.9**power
        set_grads(ours, theirs)
        step()
        theirs_optimizer.step()
    assert_equal(ours, theirs)
    assert counter.frame_count <= 2
