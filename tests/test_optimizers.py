"""fastlayers.optim beside torch.optim: the same numbers, states, errors and manners, on every backend."""
from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from optimizer_cases import EVERY_RULE, NAMES, assert_equal, layouts, make_params, on_backends, pair, set_grads, twin
from tolerances import STEP_TOLERANCES
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import fastlayers as fl
from fastlayers.specs import UPDATE_RULES

INFO = {info.optim_cls.__name__: info for info in optim_db}

DOUBLE = partial(torch.tensor, dtype=torch.float64)  # torch's Adam rounds everything to the dtype of a tensor lr, ours does not

# What torch's own table of samples leaves at its default on the CPU.
MORE = {
    "SGD": [{"momentum": 0.9, "maximize": True}, {"lr": torch.tensor(0.01), "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}],
    "Adam": [{"betas": (0.8, 0.95), "eps": 1e-3}, {"betas": (DOUBLE(0.8), DOUBLE([[0.95]]))}, {"lr": DOUBLE(0.01)},
             {"weight_decay": 0.1, "amsgrad": True, "maximize": True}, {"decoupled_weight_decay": True, "weight_decay": 0.2}],
    "AdamW": [{"betas": (0.8, 0.95), "eps": 1e-3}, {"lr": DOUBLE(0.01), "amsgrad": True}, {"weight_decay": 0.0}],
    "Adagrad": [{"eps": 1e-3, "lr_decay": 0.1}],
    "RMSprop": [{"alpha": 0.8, "eps": 1e-3, "maximize": True}, {"centered": True, "momentum": 0.5, "lr": DOUBLE(0.01)}],
    "NAdam": [{"betas": (0.8, 0.95), "eps": 1e-3, "maximize": True}, {"momentum_decay": 0.1, "lr": DOUBLE(0.01)}],
    "RAdam": [{"betas": (0.8, 0.95), "eps": 1e-3, "maximize": True}, {"betas": (0.9, 0.5), "lr": DOUBLE(0.01)}],
    "Adamax": [{"betas": (0.8, 0.95), "eps": 1e-3}, {"lr": DOUBLE(0.01)}],
    "Lion": [{}, {"lr": 0.01, "weight_decay": 0.2}, {"betas": (0.8, 0.5), "maximize": True}, {"lr": DOUBLE(0.01)}],
}
SAMPLES = [(name, sample.kwargs) for name in INFO if name in NAMES for sample in INFO[name].optim_inputs_func(device="cpu")] + [
    (name, kwargs) for name in NAMES for kwargs in MORE.get(name, [{}])]


@pytest.mark.parametrize(
    ("device", "name", "kwargs", "dtype"),
    on_backends([(*sample, dtype) for sample in SAMPLES for dtype in STEP_TOLERANCES],
                [(name, MORE.get(name, [{}])[-1], torch.float32) for name in NAMES]),
    indirect=["device"], ids=str)
def test_every_sample_of_torch_with_states_exchanged(device, name: str, kwargs: dict, dtype: torch.dtype) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair(name, (make_params(dtype, device), make_params(dtype, device)), **kwargs)
    for step in range(12):
        set_grads(ours, theirs)
        optimizer.step()
        theirs_optimizer.step()
        if step == 5:
            saved, theirs_saved = (copy.deepcopy(o.state_dict()) for o in (optimizer, theirs_optimizer))
            assert saved["param_groups"][0].keys() == theirs_saved["param_groups"][0].keys()
            assert {k: sorted(v) for k, v in saved["state"].items()} == {k: sorted(v) for k, v in theirs_saved["state"].items()}
            optimizer.load_state_dict(theirs_saved)
            theirs_optimizer.load_state_dict(saved)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in NAMES if name in INFO])
def test_error_inputs_of_torch(name: str) -> None:
    for case in INFO[name].optim_error_inputs_func(device="cpu", dtype=torch.float32):
        sample = case.optimizer_error_input
        if case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
            kind, message = case.error_type, case.error_regex
            if issubclass(kind, Warning):  # of a parameter given twice, which torch updates twice
                kind, message = ValueError, f"^{name}: params must hold every parameter once, got one at positions 0 and 1"
            with pytest.raises(kind, match=message):
                getattr(fl.optim, name)(sample.params or make_params(), **sample.kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs_and_the_options(name: str) -> None:
    import inspect

    ours, theirs = (inspect.signature(kind).parameters for kind in (getattr(fl.optim, name), twin(name)))
    described = [(p.name, p.kind, p.default) for p in ours.values()]
    assert described[:-5] == [(p.name, p.kind, p.default) for p in theirs.values()]
    assert [(name, default) for name, _, default in described[-5:]] == [
        ("max_grad_norm", None), ("master_weights", False), ("state_dtype", None), ("stochastic_rounding", False), ("ema_decay", None)]
    assert {kind for _, kind, _ in described[-5:]} == {inspect.Parameter.KEYWORD_ONLY}
    if name in INFO:
        assert issubclass(getattr(fl.optim, name), twin(name))


def test_a_subclass_with_arguments_of_its_own_has_their_signature() -> None:
    import inspect

    class Mine(fl.optim.Adam):
        def __init__(self, params, rate: float = 0.5) -> None:
            super().__init__(params, lr=rate)

    class Plain(fl.optim.Adam):
        pass

    assert str(inspect.signature(Mine)) == "(params, rate: 'float' = 0.5)"
    assert inspect.signature(Plain) == inspect.signature(fl.optim.Adam)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5, 1e6])
@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_max_grad_norm_is_clip_grad_norm(device, name: str, max_grad_norm: float) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair(name, lr=0.1, device=device, ours={"max_grad_norm": max_grad_norm})
    for _ in range(10):
        set_grads(ours, theirs)
        kept = [p.grad.clone() for p in ours]
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(theirs, max_grad_norm)
        theirs_optimizer.step()
        assert all(torch.equal(p.grad, grad) for p, grad in zip(ours, kept, strict=True))
    assert_equal(ours, theirs)


def test_max_grad_norm_spans_groups_and_dtypes() -> None:
    lists = [make_params(shapes=((4,), (3, 2))) + make_params(torch.float64, shapes=((5,),)) for _ in range(2)]
    groups = [[{"params": params[:1], "lr": 0.1}, {"params": params[1:]}] for params in lists]
    optimizer, theirs_optimizer = fl.optim.Adam(groups[0], max_grad_norm=0.3), torch.optim.Adam(groups[1], foreach=False)
    for _ in range(5):
        set_grads(*lists)
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(lists[1], 0.3, foreach=False)
        theirs_optimizer.step()
    for p, q in zip(*lists, strict=True):  # torch's norm of what is float32 is float32
        torch.testing.assert_close(p, q, rtol=STEP_TOLERANCES[torch.float32], atol=STEP_TOLERANCES[torch.float32])


@pytest.mark.parametrize(("name", "kwargs"), [
    ("SGD", {"momentum": 0.9, "dampening": 0.5}), ("SGD", {"momentum": 0.9}), ("AdamW", {}), ("NAdam", {}), ("Lion", {})])
@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler(device, name: str, kwargs: dict, unscale_first: bool) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair(name, lr=0.1, device=device, **kwargs)
    scalers = [torch.amp.GradScaler(device.type, init_scale=8.0, growth_interval=2) for _ in range(2)]
    for step in range(10):
        set_grads(ours, theirs)
        for p in [*ours, *theirs]:
            p.grad *= scalers[0].get_scale()
        if step in (0, 4):  # skipped: the very first step, and one in the middle
            ours[1].grad[0] = theirs[1].grad[0] = float("inf")
        for scaler, one, params in zip(scalers, (optimizer, theirs_optimizer), (ours, theirs), strict=True):
            scaler.scale(torch.ones((), device=device))
            before = [p.detach().clone() for p in params]
            if unscale_first:
                scaler.unscale_(one)
            scaler.step(one)
            scaler.update()
            assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True)) == (step in (0, 4))
    assert scalers[0].get_scale() == scalers[1].get_scale()
    assert_equal(ours, theirs)
    if "step" in UPDATE_RULES[name.lower()].scalars:
        assert {float(state["step"]) for state in optimizer.state.values()} == {8.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_half_precision_is_computed_in_float32(device, name: str, dtype: torch.dtype) -> None:
    """One step from given states, which is what torch's fused kernels do, too."""
    params, exact = make_params(dtype, device), [p.detach().double().requires_grad_() for p in make_params(dtype)]
    optimizer = getattr(fl.optim, name)(params, lr=0.1, weight_decay=0.1)
    oracle = twin(name)(exact, lr=0.1, weight_decay=0.1, foreach=False)
    set_grads(params)
    for p, q in zip(params, exact, strict=True):
        q.grad = p.grad.cpu().double()
    optimizer.step()
    oracle.step()
    for p, q in zip(params, exact, strict=True):
        assert p.dtype == dtype
        torch.testing.assert_close(p.detach().cpu().double(), q.detach(), rtol=torch.finfo(dtype).eps / 2 * 1.001, atol=1e-6)


def test_float32_states_of_half_parameters_stay_float32() -> None:
    params = make_params(torch.bfloat16)
    optimizer = fl.optim.Adam(params)
    set_grads(params)
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.bfloat16
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].float() + 1e-5, state["exp_avg_sq"].float()
    optimizer.load_state_dict(saved)
    set_grads(params)
    optimizer.step()
    assert {x.dtype for state in optimizer.state.values() for x in state.values()} == {torch.float32}
    assert copy.deepcopy(optimizer).state_dict()["state"][0]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("grad_layout", ["like the parameter", "contiguous"])
@pytest.mark.parametrize("layout", list(layouts()))
def test_memory_layouts(device, layout: str, grad_layout: str) -> None:
    ours, theirs = ([layouts()[layout]().to(device)] for _ in range(2))
    theirs[0].copy_(ours[0])
    for p in (*ours, *theirs):
        p.requires_grad_()
    optimizer, theirs_optimizer = fl.optim.AdamW(ours, weight_decay=0.1, max_grad_norm=1.0), torch.optim.AdamW(theirs, weight_decay=0.1)
    for _ in range(3):
        value = torch.randn(ours[0].shape, device=device)
        for p in (*ours, *theirs):
            p.grad = value.clone() if grad_layout == "contiguous" else torch.empty_like(p).copy_(value)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        optimizer.step()
        theirs_optimizer.step()
    assert_equal(ours, theirs)
    optimizer.load_state_dict(copy.deepcopy(theirs_optimizer.state_dict()))


RELAID = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.mark.parametrize("layout", RELAID)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_parameters_that_change_their_layout(device, name: str, layout: str) -> None:
    """Gradients have the strides that their parameter has then, gaps included; SGD has no state here that tells of the change."""
    both = tuple(make_params(device=device, shapes=((4, 6, 3, 3),)) for _ in range(2))
    ours, optimizer, theirs, theirs_optimizer = pair(name, both)
    for step in range(4):
        set_grads(ours, theirs)
        if step > 1:
            ours[0].grad = RELAID[layout](ours[0].grad)
        optimizer.step()
        theirs_optimizer.step()
        if step == 1:
            for p in (*ours, *theirs):
                p.data = RELAID[layout](p.data)
    assert_equal(ours, theirs)


@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_the_default_device_is_none_of_a_step(device, name: str) -> None:
    """Parameters, gradients and states say where they are; torch.set_default_device, which may say something else, is not asked."""
    ours, others = (make_params(device=device, shapes=((17, 3), (2050,))) for _ in range(2))
    optimizer, other = (getattr(fl.optim, name)(params, max_grad_norm=1.0, ema_decay=0.9) for params in (ours, others))
    for _ in range(2):
        set_grads(ours, others)
        with torch.device("meta"):
            norms = [group.gradient_norm for group in optimizer.diagnostics().groups]
            optimizer.step()
        assert norms == [group.gradient_norm for group in other.diagnostics().groups]
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))
