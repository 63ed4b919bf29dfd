"""What fastlayers.optim has beside torch.optim: masters, state dtypes, stochastic rounding, groups' own norms and options."""
from __future__ import annotations

import copy
import itertools

import pytest
import torch
from optimizer_cases import (
    EVERY_RULE,
    SHAPES,
    assert_equal,
    exact_twin,
    make_params,
    optimizer_of,
    resumed,
    set_grads,
    set_same_grads,
    twin,
)
from tolerances import STEP_TOLERANCES, assert_within, state_bound

import fastlayers as fl


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_master_weights_follow_float64(device, name: str, dtype: torch.dtype) -> None:
    """Ten steps with a save and load in the middle: the masters, kept in float32 with float32 states, and their roundings."""
    options = {"master_weights": True, "state_dtype": torch.float32}
    params = make_params(dtype, device)
    exact, oracle = exact_twin(name, params)
    optimizer = optimizer_of(name, params, **options)
    for step in range(10):
        if step == 5:
            optimizer = resumed(optimizer, name, params, **options)
        set_same_grads(params, exact)
        optimizer.step()
        oracle.step()
    for p, q in zip(params, exact, strict=True):
        master = optimizer.state[p]["master"]
        assert master.dtype == torch.float32
        tolerance = STEP_TOLERANCES[master.dtype]
        torch.testing.assert_close(master.cpu().double(), q.detach(), rtol=tolerance, atol=tolerance)
        assert torch.equal(master.to(dtype), p)


@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_state_dtype(device, name: str) -> None:
    """bfloat16 states cost bfloat16's precision and no more, and stay what they are through a checkpoint."""
    params = make_params(device=device)
    exact, oracle = exact_twin(name, params)
    optimizer = optimizer_of(name, params, state_dtype=torch.bfloat16)
    stops = [[q.detach().clone() for q in exact]]
    for step in range(10):
        if step == 5:
            optimizer = resumed(optimizer, name, params, state_dtype=torch.bfloat16)
        set_same_grads(params, exact)
        optimizer.step()
        oracle.step()
        stops.append([q.detach().clone() for q in exact])
    row = optimizer.row
    kinds = {own[state].dtype for own in optimizer.state.values() for state in row.states if state in own}
    assert kinds == {torch.bfloat16 for _ in row.states}
    if name != "Lion":  # whose steps are of one size, whichever way
        for p, *path in zip(params, *stops, strict=True):
            steps = [after - before for before, after in itertools.pairwise(path)]
            assert_within(p.detach().cpu(), path[-1], state_bound(path[-1], steps, torch.bfloat16), name)


@pytest.mark.parametrize("options", [{"stochastic_rounding": True}, {"master_weights": True}], ids=str)
@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_bfloat16_training_arrives(device, name: str, options: dict) -> None:
    """100 steps of lr 1e-3 from 1.0 to 0.9 for rules whose steps are of lr's size; in bfloat16 torch's stay at 1.0."""
    p, theirs = (torch.ones(2000, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(2))
    arguments = {"Adagrad": {"lr": 1e-3, "initial_accumulator_value": 0}, "RMSprop": {"lr": 1e-3, "alpha": 0.0}}.get(name, {"lr": 1e-3})
    optimizer = getattr(fl.optim, name)([p], **arguments, state_dtype=torch.float32, **options)
    other = twin(name)([theirs], **arguments)
    exact = torch.ones(1, dtype=torch.float64, requires_grad=True)
    oracle = twin(name)([exact], **arguments)
    for step in range(100):
        p.grad, theirs.grad, exact.grad = torch.ones_like(p), torch.ones_like(theirs), torch.ones_like(exact)
        for one in (optimizer, other, oracle):
            if name == "AdamW":
                one.param_groups[0]["weight_decay"] = 0
            one.step()
        if step == 0:
            before = theirs.detach().clone()
    assert torch.equal(theirs, before)  # stuck
    assert p.double().mean().item() == pytest.approx(exact.item(), rel=0.01)
    if name not in ("Adagrad", "NAdam", "RAdam"):  # whose first steps are not of this size
        assert exact.item() == pytest.approx(0.9, rel=0.01)


def test_stochastic_rounding_is_reproducible_and_the_same_on_every_backend() -> None:
    """The same bits for the same steps, whatever else draws random numbers; a resumed run goes on with the numbers that are next."""
    from conftest import BACKENDS, running_on

    results = []
    for backend in (*BACKENDS, "cpp"):
        with running_on(backend) as where:
            torch.manual_seed(len(results))
            params = make_params(torch.bfloat16, where)
            optimizer = fl.optim.SGD(params, lr=2.0**-7, stochastic_rounding=True)  # exact products: what is rounded is the same, too
            for step in range(4):
                if step == 2:
                    saved = copy.deepcopy(optimizer.state_dict())
                    optimizer = fl.optim.SGD(params, stochastic_rounding=True)
                    optimizer.load_state_dict(saved)
                for p in params:
                    p.grad = torch.full_like(p, 0.75)
                optimizer.step()
            results.append([p.detach().cpu() for p in params])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("device", "name"), EVERY_RULE, indirect=["device"])
def test_float16_with_zero_gradients_gives_no_nan(device, name: str) -> None:
    params = make_params(torch.float16, device)
    before = [p.detach().clone() for p in params]
    optimizer = getattr(fl.optim, name)(params, weight_decay=0.0, **({"centered": True} if name == "RMSprop" else {}))
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_centered_rmsprop_survives_a_constant_gradient(device) -> None:
    """The variance of a constant is 0, and rounding may make it negative: torch's root is NaN then."""
    p = torch.ones(1000, dtype=torch.bfloat16, device=device, requires_grad=True)
    optimizer = fl.optim.RMSprop([p], lr=0.0, centered=True, alpha=0.5)
    for _ in range(30):
        p.grad = torch.linspace(0.1, 3, 1000, device=device).bfloat16()
        optimizer.step()
    assert p.isfinite().all()


@pytest.mark.slow
def test_more_than_2_to_the_31_elements() -> None:
    """One parameter of them beside a small and an empty one, on cpp: every element moves by lr / norm, to both sides of 2^31."""
    params = [torch.zeros(size, dtype=torch.bfloat16, requires_grad=True) for size in (2**31 + 9, 7, 0)]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = fl.optim.SGD(params, lr=2.0**15, momentum=0.9, max_grad_norm=1.0)
    optimizer.step()
    want = torch.tensor(-(2.0**15) / (2**31 + 16) ** 0.5).bfloat16()
    assert all(bool((p == want).all()) for p in params)
    assert all(bool((optimizer.state[p]["momentum_buffer"] == want / -(2.0**15)).all()) for p in params[:2])


def test_groups_with_their_own_norm_and_options() -> None:
    lists = [make_params(shapes=((4,), (3, 2), (5,))) for _ in range(2)]
    optimizer = fl.optim.SGD([{"params": lists[0][:1], "max_grad_norm": 0.1}, {"params": lists[0][1:]}], lr=1.0, max_grad_norm=0.3)
    other = torch.optim.SGD(lists[1], lr=1.0)
    for step in range(4):
        if step == 2:  # options of groups survive a checkpoint of torch's
            saved = copy.deepcopy(optimizer.state_dict())
            for group in saved["param_groups"]:
                group.pop("max_grad_norm", None)
            optimizer.load_state_dict(saved)
        set_grads(*lists)
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(lists[1][:1], 0.1)
        torch.nn.utils.clip_grad_norm_(lists[1][1:], 0.3)
        other.step()
    assert_equal(*lists)

    half = [torch.ones(3, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    optimizer = fl.optim.AdamW([{"params": half[:1], "master_weights": True, "ema_decay": 0.5}, {"params": half[1:]}])
    set_grads(half)
    optimizer.step()
    assert set(optimizer.state[half[0]]) == {"step", "exp_avg", "exp_avg_sq", "master", "average"}
    assert set(optimizer.state[half[1]]) == {"step", "exp_avg", "exp_avg_sq"}


def test_states_with_masters_go_to_torch_and_back() -> None:
    """torch.optim does not know the masters: what it has made of the parameters counts, not they."""
    params = make_params(torch.bfloat16)
    optimizer = fl.optim.AdamW(params, lr=0.1, master_weights=True)
    other = torch.optim.AdamW(params, lr=0.1, foreach=False)
    for one, next_one in ((optimizer, other), (other, optimizer), (optimizer, None)):
        set_grads(params)
        before = [p.detach().clone() for p in params]
        one.step()
        for p, q in zip(params, before, strict=True):  # steps of 0.1 from where the other one stopped
            torch.testing.assert_close(p, q, rtol=0, atol=0.15)
        moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(params, before, strict=True)]).abs()
        assert (moved > 0.01).float().mean() > 0.5
        if next_one is not None:
            next_one.load_state_dict(copy.deepcopy(one.state_dict()))


def test_parameters_that_are_loaded_between_steps_take_their_masters_along(device) -> None:
    params = make_params(torch.bfloat16, device)
    optimizer = fl.optim.SGD(params, lr=2.0**-10, master_weights=True)
    for value in (1.0, 3.0):
        with torch.no_grad():
            for p in params:
                p.fill_(value)
        for _ in range(4):
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
        for p in params:
            assert (optimizer.state[p]["master"] == value - 4 * 2.0**-10).all()


def test_tensor_hyperparameters_are_read_anew_at_every_step(device) -> None:
    lr, betas = torch.tensor(0.1, device=device), [torch.tensor(0.9, device=device), torch.tensor([0.99], device=device)]
    params, others = make_params(device=device), make_params(device=device)
    optimizer = fl.optim.AdamW(params, lr=lr, betas=tuple(betas), weight_decay=0.1)
    other = fl.optim.AdamW(others, lr=0.1, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(3):
        set_grads(params, others)
        optimizer.step()
        other.step()
        lr.mul_(0.5)
        betas[0].fill_(0.5)
        other.param_groups[0].update(lr=lr.item(), betas=(0.5, 0.99))
    assert_equal(params, others)


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_a_momentum_that_is_a_tensor_has_its_buffer(device, name: str) -> None:
    momentum = torch.tensor(0.9, device=device)
    params, others = make_params(device=device), make_params(device=device)
    optimizer, other = (getattr(fl.optim, name)(p, lr=0.1, momentum=value) for p, value in ((params, momentum), (others, 0.9)))
    for _ in range(3):
        set_grads(params, others)
        optimizer.step()
        other.step()
        momentum.mul_(0.5)
        other.param_groups[0]["momentum"] = momentum.item()
    assert_equal(params, others)


@pytest.mark.parametrize("name", ["AdamW", "NAdam", "Lion"])
def test_compiled_steps_with_every_option(name: str) -> None:
    torch._dynamo.reset()
    options = {"master_weights": True, "state_dtype": torch.bfloat16, "stochastic_rounding": True, "ema_decay": 0.9, "max_grad_norm": 0.5}
    ours, others = make_params(torch.bfloat16, shapes=SHAPES[:3]), make_params(torch.bfloat16, shapes=SHAPES[:3])
    optimizer, other = optimizer_of(name, ours, **options), optimizer_of(name, others, **options)
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="aot_eager")
    for _ in range(4):
        set_grads(ours, others)
        step()
        other.step()
    for p, q in zip(ours, others, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(optimizer.state[p][key], value) for key, value in other.state[q].items())


def test_attributes_that_were_changed_are_checked() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fl.optim.SGD([p], lr=1.0, max_grad_norm=1.0)
    p.grad = torch.ones(3)
    for value, error in ((-1.0, ValueError), ("1", TypeError)):
        optimizer.max_grad_norm = value
        with pytest.raises(error, match=r"^SGD: max_grad_norm must be"):
            optimizer.step()
    assert p.tolist() == [1.0] * 3


def test_numpy_numbers_are_numbers() -> None:
    """In every argument that takes a number, to the constructor and to a group."""
    numpy = pytest.importorskip("numpy")
    numbers = {"lr": 0.5, "momentum": 0.75, "weight_decay": 0.25, "max_grad_norm": 0.5, "ema_decay": 0.25}
    narrow = {name: numpy.float32(value) for name, value in numbers.items()}
    lists = [make_params() for _ in range(3)]
    optimizers = [fl.optim.SGD(lists[0], **numbers), fl.optim.SGD(lists[1], **narrow), fl.optim.SGD([{"params": lists[2], **narrow}])]
    for _ in range(3):
        set_grads(*lists)
        for optimizer in optimizers:
            optimizer.step()
    for params, optimizer in zip(lists[1:], optimizers[1:], strict=True):
        for p, q in zip(lists[0], params, strict=True):
            assert torch.equal(p, q)
            assert torch.equal(optimizers[0].state[p]["average"], optimizer.state[q]["average"])
