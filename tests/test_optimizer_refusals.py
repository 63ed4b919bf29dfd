"""What optimizers refuse, word for word: gradients, arguments, numbers, states and shapes, before anything has changed."""
from __future__ import annotations

import copy

import pytest
import torch
from optimizer_cases import NAMES, make_params, make_steps, pair, set_grads
from torch import Tensor

import fastlayers as fl
from fastlayers.specs import UPDATE_RULES


def _snapshot(params: list[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [x.detach().clone() for x in [*params, *(value for state in optimizer.state.values() for value in state.values())]]


@pytest.mark.parametrize("name", NAMES)
def test_sparse_and_complex_gradients_are_refused_before_anything_changes(name: str) -> None:
    params, optimizer, _, _ = pair(name, **({"momentum": 0.9} if name == "SGD" else {}))
    make_steps(2, optimizer)
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


def test_a_parameter_of_another_dtype_is_refused() -> None:
    p = torch.zeros(3, dtype=torch.float8_e4m3fn, requires_grad=True)
    p.grad = torch.zeros_like(p)
    with pytest.raises(RuntimeError, match=r"^SGD: params must be float32, bfloat16, float16 or float64, got float8_e4m3fn$"):
        fl.optim.SGD([p]).step()


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


@pytest.mark.skipif(not hasattr(Tensor, "grad_dtype"), reason="this torch has gradients of their parameter's dtype alone")
@pytest.mark.parametrize("steps", [0, 2])
def test_a_gradient_of_another_dtype_is_refused_before_anything_changes(cpu_backend: str, steps: int) -> None:
    params = make_params(torch.bfloat16)
    optimizer = fl.optim.Adam(params)
    make_steps(steps, optimizer)
    before = _snapshot(params, optimizer)
    set_grads(params)
    params[-1].grad = None
    params[-1].grad_dtype = torch.float32
    params[-1].grad = torch.ones_like(params[-1], dtype=torch.float32)
    with pytest.raises(RuntimeError, match=r"^Adam: grad must have the dtype of its parameter, bfloat16, got float32$"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))


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
        make(make_params(), **{argument: float("inf")})  # as torch.optim's do
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
    make_steps(2, optimizer)
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
    make_steps(2, optimizer)
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
    ("average", torch.zeros(4), ValueError, r"state 'average' must have its parameter's shape \(5,\), got \(4,\)"),
    ("master", torch.zeros(4), ValueError, r"state 'master' must have its parameter's shape \(5,\), got \(4,\)"),
    ("weights", torch.zeros(4), ValueError, r"state 'weights' must have its parameter's shape \(5,\), got \(4,\)"),
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
    make_steps(2, optimizer)
    before, groups, saved = _snapshot(params, optimizer), copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    (saved["param_groups"][0] if key in saved["param_groups"][0] or key == "max_grad_norm" else saved["state"][1])[key] = value
    with pytest.raises(kind, match=f"^NAdam: {message}$"):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"] == groups["param_groups"]
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(params, optimizer), strict=True))
    make_steps(1, optimizer)


def test_a_refused_step_is_not_counted() -> None:
    """Neither among the random numbers of stochastic rounding nor among the steps that were skipped."""
    params, others = make_params(torch.bfloat16), make_params(torch.bfloat16)
    optimizer, other = (fl.optim.SGD(each, stochastic_rounding=True) for each in (params, others))
    make_steps(1, optimizer, other)
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


def test_a_refused_first_step_draws_no_seed() -> None:
    p = torch.ones(8, dtype=torch.bfloat16, requires_grad=True)
    optimizer = fl.optim.Adam([p], stochastic_rounding=True)
    p.grad, before = torch.ones_like(p).to_sparse(), optimizer.state_dict()
    with pytest.raises(RuntimeError, match=r"^Adam: grad must be dense"):
        optimizer.step()
    assert optimizer.state_dict() == before
