"""Batch norm's state: when running statistics move, in which dtype, and when they do not."""
from __future__ import annotations

import copy
from itertools import product

import extended
import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from cases import DTYPES, arrange
from torch.utils.checkpoint import checkpoint

import fastlayers as fl
from fastlayers import nn


def state(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in layer.named_buffers()}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], exact: bool = True) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        tolerance = 0 if exact else 2e-6
        torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def without(name: str):
    return lambda layer: setattr(layer, name, None)


CHANGES = {
    "as made": lambda layer: None,
    "no tracking later": lambda layer: setattr(layer, "track_running_stats", False),
    "no count": without("num_batches_tracked"),
    "no mean, no variance": lambda layer: [without(name)(layer) for name in ("running_mean", "running_var")],
    "no mean": without("running_mean"),
    "no variance": without("running_var"),
    "no buffers": lambda layer: [without(name)(layer) for name in ("running_mean", "running_var", "num_batches_tracked")],
    "momentum None later": lambda layer: setattr(layer, "momentum", None),
    "momentum None, no count": lambda layer: [setattr(layer, "momentum", None), without("num_batches_tracked")(layer)],
    "momentum 0": lambda layer: setattr(layer, "momentum", 0.0),
    "momentum 1": lambda layer: setattr(layer, "momentum", 1.0),
    "no weight": without("weight"),
    "no bias": without("bias"),
    "reset": lambda layer: layer.reset_running_stats(),
}
OPTIONS = ({}, {"affine": False}, {"bias": False}, {"track_running_stats": False}, {"momentum": None}, {"eps": 0.1, "momentum": 0.9})


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_flags_changed_later_mean_what_they_mean_in_torch(cpu_backend: str, options: dict, change: str) -> None:
    """Train twice, evaluate, train again: the same numbers and buffers as torch's layer, or an error where torch has one."""
    if change == "reset" and not options.get("track_running_stats", True):
        return
    theirs, ours = torch.nn.BatchNorm1d(3, **options), nn.BatchNorm1d(3, **options)
    ours.load_state_dict(theirs.state_dict())
    for layer in (theirs, ours):
        layer(torch.linspace(-1, 3, 24).view(8, 3))
        CHANGES[change](layer)
    for training in (True, True, False, True):
        x = torch.randn(6, 3, 4)
        results = []
        for layer in (theirs.train(training), ours.train(training)):
            try:
                results.append(layer(x))
            except (RuntimeError, ValueError) as error:
                results.append(error)
        if isinstance(results[0], Exception):
            assert isinstance(results[1], Exception), results[0]
            return
        torch.testing.assert_close(results[1], results[0], rtol=2e-6, atol=2e-6)
        assert_same(state(ours), state(theirs), exact=False)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_running_statistics_are_float32_whatever_path_a_half_type_takes(half: torch.dtype) -> None:
    def half_state() -> dict[str, torch.Tensor]:
        return {name: value.to(half) if value.is_floating_point() else value for name, value in nn.BatchNorm1d(3).state_dict().items()}

    made = {
        "constructor": nn.BatchNorm1d(3, dtype=half),
        "to": nn.BatchNorm1d(3).to(half),
        "to like": torch.nn.Sequential(nn.BatchNorm1d(3)).to(torch.empty(0, dtype=half))[0],
        "type": nn.BatchNorm1d(3).type(half),
        "copy": copy.deepcopy(nn.BatchNorm1d(3).to(half)),
        "empty": nn.BatchNorm1d(3, device="meta", dtype=half).to_empty(device="cpu"),
        "load": nn.BatchNorm1d(3),
        "load, assigned": nn.BatchNorm1d(3),
        "lazy": nn.LazyBatchNorm1d(dtype=half),
        "lazy later": nn.LazyBatchNorm1d().to(half),
    }
    made["load"].load_state_dict(half_state())
    made["load, assigned"].load_state_dict(half_state(), assign=True)
    for path, layer in made.items():
        layer.running_var.fill_(1) if path == "empty" else None
        layer(torch.randn(4, 3).to(half))
        assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32, path
        assert layer.weight.dtype == (torch.float32 if path == "load" else half), path
    assert torch.equal(nn.BatchNorm1d(3).to(half).double().running_mean, torch.zeros(3, dtype=torch.float64))


def test_lazy_layers_become_their_class(cpu_backend: str) -> None:
    for name, shape in (("BatchNorm1d", (6, 5)), ("BatchNorm2d", (6, 5, 2, 3)), ("BatchNorm3d", (6, 5, 2, 3, 2))):
        lazy = getattr(nn, f"Lazy{name}")(activation="relu", dropout=0.1, momentum=None, memory="inplace", skip_nonfinite=True)
        assert isinstance(lazy, getattr(torch.nn, f"Lazy{name}"))
        with pytest.raises(ValueError, match=f"Lazy{name}: x must be"):
            lazy(torch.randn(5))
        lazy(torch.randn(shape))
        assert type(lazy) is getattr(nn, name)
        twin = getattr(nn, name)(5, activation="relu", dropout=0.1, momentum=None, memory="inplace", skip_nonfinite=True)
        assert repr(lazy) == repr(twin)
        assert lazy.state_dict().keys() == twin.state_dict().keys()
    lazy, full = nn.LazyBatchNorm1d(bias=False), nn.BatchNorm1d(5, bias=False)
    lazy.load_state_dict(full.state_dict())
    assert lazy(torch.randn(3, 5)).shape == (3, 5)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("how", ["eager", "compiled inside", "compiled around"])
def test_checkpointing_moves_running_statistics_once(cpu_backend: str, how: str, reentrant: bool, momentum: float | None) -> None:
    """torch moves them twice; the second forward, in backward, must also compute the same gradients."""
    if how == "compiled around" and reentrant:
        return  # torch.compile does not take it
    torch._dynamo.reset()
    layer = nn.BatchNorm1d(3, momentum=momentum, activation="silu", dropout=0.3)
    plain, x = copy.deepcopy(layer), torch.randn(9, 3, requires_grad=True)
    called = torch.compile(layer, fullgraph=True, backend="aot_eager") if how == "compiled inside" else layer

    def run(x):
        return checkpoint(called, x * 1, use_reentrant=reentrant).square().sum()

    if how == "compiled around":
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.manual_seed(7)
        gradient, = torch.autograd.grad(run(x), x) if not reentrant else (_backward(run(x), x),)
        torch.manual_seed(7)
        expected, = torch.autograd.grad(plain(x * 1).square().sum(), x)
        if how != "compiled around":  # whose dropout draws its seed elsewhere
            torch.testing.assert_close(gradient, expected)
    assert layer.num_batches_tracked == 2
    assert_same(state(layer), state(plain), exact=False)


def _backward(loss: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x.grad = None
    loss.backward()
    return x.grad


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 3e38])
def test_skip_nonfinite(backend: str, bad: float, momentum: float | None) -> None:
    """A batch with inf, NaN or an overflowing variance leaves every channel and the count alone; a good one moves them."""
    running, twins = [torch.zeros(3), torch.ones(3), torch.tensor(0)], [torch.zeros(3), torch.ones(3), torch.tensor(0)]
    good = [torch.randn(8, 3) for _ in range(2)]
    spoiled = torch.randn(8, 3)
    spoiled[2, 1] = bad
    if bad == 3e38:
        spoiled[3, 1] = -bad

    def call(x, running, skip):
        return fl.functional.batch_norm(
            x, *running[:2], training=True, momentum=momentum, num_batches_tracked=running[2], skip_nonfinite=skip)

    for x in (good[0], spoiled, good[1]):
        call(x, running, True)
    for x in good:
        call(x, twins, False)
    assert all(torch.equal(mine, twin) for mine, twin in zip(running, twins, strict=True))
    call(spoiled, twins, False)
    assert not twins[1].isfinite().all(), "without skip_nonfinite it goes as in torch"


def test_skip_nonfinite_in_a_module_under_amp(cpu_backend: str) -> None:
    """An overflow in half precision: GradScaler skips the step, the layer skips the statistics; compiled too."""
    for compiled in (False, True):
        torch._dynamo.reset()
        layer = nn.BatchNorm1d(3, skip_nonfinite=True, activation="relu")
        net = torch.nn.Sequential(torch.nn.Linear(3, 3), layer)
        call = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for scale in (1.0, 1e38):
            before = state(layer)
            weights = [value.clone() for value in net.parameters()]
            with torch.autocast("cpu", torch.float16):
                loss = call(torch.randn(8, 3) * scale).float().sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert layer.num_batches_tracked == 1
        assert_same(state(layer), before)
        assert all(torch.equal(old, new) for old, new in zip(weights, net.parameters(), strict=True))


def test_freeze_survives_train(cpu_backend: str) -> None:
    layer = nn.BatchNorm1d(3, activation="relu", dropout=0.5)
    layer(torch.randn(9, 3))
    assert layer.freeze() is layer
    before, x = state(layer), torch.randn(500, 3)
    y = layer.train()(x)
    assert_same(state(layer), before)
    z = torch.relu(torch.nn.functional.batch_norm(x, layer.running_mean, layer.running_var))
    torch.testing.assert_close(y[y != 0], 2 * z[y != 0], rtol=1e-5, atol=1e-6)
    assert 0.4 < (y[z > 0] == 0).float().mean() < 0.6, "dropout goes on as train() says"
    torch.testing.assert_close(layer.eval()(x), z, rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    assert "frozen=True" in repr(layer)
    layer.train().unfreeze()(x)
    assert layer.num_batches_tracked == 2
    assert all(parameter.requires_grad for parameter in layer.parameters())
    layer.weight.requires_grad_(False)
    layer.freeze().unfreeze()
    assert not layer.weight.requires_grad, "only what freeze() stopped is trained again"
    assert layer.freeze(affine=False).bias.requires_grad
    with pytest.raises(RuntimeError, match="BatchNorm1d: freeze\\(\\) must find running statistics, got track_running_stats=False"):
        nn.BatchNorm1d(3, track_running_stats=False).freeze()


def test_freezing_what_is_made_later_or_of_something_else() -> None:
    """A lazy layer, before it has sizes, and parametrized or pruned weights."""
    lazy = nn.LazyBatchNorm1d(activation=nn.PReLU()).freeze()
    lazy(torch.randn(4, 3))
    assert [parameter.requires_grad for parameter in lazy.parameters()] == [False, False, True]
    assert lazy.num_batches_tracked == 0
    assert all(parameter.requires_grad for parameter in lazy.unfreeze().parameters())
    made, pruned = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    torch.nn.utils.parametrize.register_parametrization(made, "weight", torch.nn.Softplus())
    torch.nn.utils.prune.l1_unstructured(pruned, "weight", 1)
    for layer in (made, pruned):
        assert not any(parameter.requires_grad for parameter in layer.freeze().parameters())
        assert all(parameter.requires_grad for parameter in layer.unfreeze().parameters())


def test_frozen_layers_keep_nothing_of_x(cpu_backend: str) -> None:
    layer, kept = nn.BatchNorm2d(3).freeze(), []
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        y = layer(x)
    assert max(kept) == 3
    gradient, = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, (1 + layer.eps) ** -0.5))


def test_an_interrupted_step_counts_once(cpu_backend: str) -> None:
    """An exception between forward and backward: the batch was seen, its backward is not owed, the next step goes on as usual."""
    layer, twin, x = nn.BatchNorm1d(3), nn.BatchNorm1d(3), torch.randn(8, 3)
    handle = layer.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyError("interrupted")))
    with pytest.raises(KeyError, match="interrupted"):
        layer(x)
    handle.remove()
    twin(x)
    assert_same(state(layer), state(twin))
    layer(x).sum().backward()
    twin(x).sum().backward()
    assert_same(state(layer), state(twin))
    assert torch.equal(layer.bias.grad, twin.bias.grad)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased variance per channel in float64."""
    flat = x.double().movedim(1, 0).flatten(1)
    return flat.mean(1), flat.var(1)


HARD = {
    "far from zero": lambda shape: torch.randn(shape) * 1e-2 + 1e4,
    "constant": lambda shape: torch.full(shape, 0.1),
    "outlier": lambda shape: torch.randn(shape).index_put((torch.tensor(0),) * len(shape), torch.tensor(1e6)),
    "tiny": lambda shape: torch.randn(shape) * 1e-20,
    "first elements apart": lambda shape: torch.cat([torch.full((1, *shape[1:]), 300.0), torch.randn((shape[0] - 1, *shape[1:]))]),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 7, 7), (40, 4, 9, 9), (700, 8)], ids=str)
@pytest.mark.parametrize("kind", HARD)
def test_hard_numbers(backend: str, kind: str, shape: tuple[int, ...], layout: str) -> None:
    """y, running statistics and dx are within twice torch's own float32 error of float64, plus a few roundings."""
    x, dy = arrange(HARD[kind](shape), layout), torch.randn(shape)
    results = []
    for function, dtype in ((torch.nn.functional.batch_norm, torch.float64), (torch.nn.functional.batch_norm, torch.float32),
                            (fl.functional.batch_norm, torch.float32)):
        leaf = x.to(dtype).requires_grad_()
        running = [torch.zeros(shape[1], dtype=dtype), torch.ones(shape[1], dtype=dtype)]
        weight = torch.linspace(0.5, 2, shape[1]).to(dtype).requires_grad_()
        y = function(leaf, *running, weight, None, True, 0.1)
        gradients = torch.autograd.grad(y, [leaf, weight], dy.to(dtype))
        results.append([y.detach(), *running, *gradients])
    eps = torch.finfo(torch.float32).eps
    for name, oracle, theirs, ours in zip(("y", "running_mean", "running_var", "dx", "dweight"), *results, strict=True):
        error, allowed = (ours - oracle).abs().max(), 2 * (theirs - oracle).abs().max()
        floor = 16 * eps * max(oracle.abs().max(), 1e-30 if name == "running_var" else dy.abs().max())
        assert error <= allowed + floor, (name, error, allowed, floor)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 5, 5), (40, 4, 9, 9)], ids=str)
def test_squares_that_overflow_make_the_variance_infinite(backend: str, shape: tuple[int, ...], layout: str) -> None:
    """As in torch: the channel becomes its bias and has no gradient, its running variance is infinite; the others do not notice."""
    x = arrange(torch.randn(shape), layout)
    x[:, 1] *= 1e30
    leaf, (running, theirs) = x.clone().requires_grad_(), ([torch.zeros(shape[1]), torch.ones(shape[1])] for _ in range(2))
    y = fl.functional.batch_norm(leaf, *running, training=True)
    oracle = torch.nn.functional.batch_norm(x, *theirs, training=True)
    dx, = torch.autograd.grad(y, leaf, torch.randn(shape))
    assert running[1][1] == torch.inf == theirs[1][1]
    assert y[:, 1].eq(0).all()
    assert dx[:, 1].eq(0).all()
    assert (running[0][1] - theirs[0][1]).abs() <= 1e-5 * x[:, 1].abs().max()
    others, exact = [c for c in range(shape[1]) if c != 1], [torch.zeros(shape[1]).double(), torch.ones(shape[1]).double()]
    exact.insert(0, torch.nn.functional.batch_norm(x.double(), *exact, training=True).movedim(1, 0))
    for ours, torchs, want in zip((y.movedim(1, 0), *running), (oracle.movedim(1, 0), *theirs), exact, strict=True):
        error, torch_error = ((value[others] - want[others]).abs().max() for value in (ours, torchs))
        assert error <= 2 * torch_error + 16 * torch.finfo(torch.float32).eps * want[others].abs().max()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4), (40, 3, 30, 30)], ids=str)
def test_an_infinite_element_makes_the_running_mean_infinite(cpu_backend: str, shape: tuple[int, ...], layout: str) -> None:
    """Triton may find it NaN, as torch's kernels for GPUs do."""
    x, running = arrange(torch.randn(shape), layout), [torch.zeros(3), torch.ones(3)]
    x[0, 1], x[-1, 2] = torch.inf, -torch.inf
    y = fl.functional.batch_norm(x, *running, training=True)
    assert running[0].isposinf().tolist() == [False, True, False]
    assert running[0].isneginf().tolist() == [False, False, True]
    assert y.isnan().movedim(1, 0).flatten(1).all(1).tolist() == running[1].isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("log2_count", [*range(1, 25, 3), 24])
def test_counts_from_two_to_2_to_the_24(cpu_backend: str, log2_count: int) -> None:
    count = 2**log2_count
    x = torch.randn(1, 1, count) + 3
    x[0, 0, 0] = 1000
    running, theirs = ([torch.zeros(1), torch.ones(1)] for _ in range(2))
    y = fl.functional.batch_norm(x, *running, training=True, momentum=1.0)
    by_torch = torch.nn.functional.batch_norm(x, *theirs, training=True, momentum=1.0)
    mean, variance = moments(x)
    for oracle, ours, plain in zip((mean, variance), running, theirs, strict=True):
        eps = torch.finfo(torch.float32).eps
        assert (ours - oracle).abs() <= 2 * (plain - oracle).abs() + 4 * eps * oracle.abs()
    oracle = ((x.double() - mean) / (x.double().var(correction=0) + 1e-5).sqrt())
    assert (y - oracle).abs().max() <= 2 * (by_torch - oracle).abs().max() + 4 * eps * oracle.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "layout"), [
    ((32, 48, 28, 28), "contiguous"), ((32, 48, 28, 28), "channels_last"), ((4, 3, 300, 300), "contiguous"), ((4096, 64), "contiguous"),
    ((8, 512, 7, 7), "contiguous"), ((128, 1500), "contiguous"),
], ids=str)
def test_the_same_bits_for_any_number_of_threads_and_every_run(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    if not fl.backends()["cpp"].startswith("available"):
        pytest.skip(fl.backends()["cpp"])
    x, dy = (arrange(torch.randn(shape), layout).to(dtype) for _ in range(2))
    layer = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1], activation=nn.PReLU(shape[1]), dropout=0.1)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4, 2, 1):
            torch.set_num_threads(count)
            torch.manual_seed(1)
            twin, leaf = copy.deepcopy(layer), x.clone().requires_grad_()
            y = twin(leaf)
            results.append([y, *state(twin).values(), *torch.autograd.grad(y, [leaf, *twin.parameters()], dy)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_input_with_float32_parameters(cpu_backend: str, dtype: torch.dtype) -> None:
    """As under autocast: y in x's dtype, gradients of the parameters in theirs."""
    layer = nn.BatchNorm1d(3, activation="gelu").to(torch.promote_types(dtype, torch.float32))
    x = torch.randn(8, 3).to(dtype).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype, layer.weight.grad.dtype) == (dtype, dtype, torch.promote_types(dtype, torch.float32))


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "sliced":
        return torch.cat([x, x], 3)[..., :x.size(3)]
    return arrange(x, layout)


def composed(leaves: dict, running: list[torch.Tensor], activation: torch.nn.Module, multiplier, training: bool) -> torch.Tensor:
    """dropout(activation(batch_norm(x) + residual)) out of torch's functions."""
    z = torch.nn.functional.batch_norm(leaves["x"], *running, leaves.get("weight"), leaves.get("bias"), training, 0.1)
    return activation(z + leaves["residual"] if "residual" in leaves else z) * multiplier


def results(function, values: dict, dtype: torch.dtype, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    """y and the gradients of all values; x and residual in dtype, parameters in what it is computed in."""
    wide = torch.promote_types(dtype, torch.float32)
    leaves = {name: value.to(dtype if value.dim() > 1 else wide).clone().requires_grad_() for name, value in values.items()}
    y = function(leaves)
    return {"y": y.detach(), **dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype)), strict=True))}


def assert_no_worse(ours: dict, plain: dict, oracle: dict, dtype: torch.dtype, what: object) -> None:
    """Twice the error of torch in the dtype of the arithmetic, plus 8 units, plus the rounding to dtype."""
    wide = torch.promote_types(dtype, torch.float32)
    for name, expected in oracle.items():
        error = {who: abs(extended.wide(found[name]) - expected) for who, found in (("torch", plain), ("ours", ours))}
        rounding = torch.finfo(dtype).eps / 2 * abs(expected) if dtype != wide else 0.0
        floor = 8 * torch.finfo(wide).eps * max(1.0, float(abs(expected).max()))
        assert (error["ours"] <= 2 * error["torch"].max() + floor + rounding).all(), (name, what)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_every_combination(cpu_backend: str, layout: str, dtype: torch.dtype, training: bool) -> None:
    """Residual x activation kind x dropout x affine, against extended precision."""
    wide = torch.promote_types(dtype, torch.float32)
    running = [torch.randn(5, dtype=wide), torch.rand(5, dtype=wide) + 0.5]
    every = {name: laid_out(torch.randn(4, 5, 6, 7), layout).to(dtype) for name in ("x", "residual")}
    every |= {"weight": torch.rand(5, dtype=wide) + 0.5, "bias": torch.randn(5, dtype=wide)}
    kinds = (None, nn.ReLU(), nn.SiLU(), nn.PReLU())
    for without_residual, activation, p, affine in product((True, False), kinds, (0.0, 0.3), (True, False)):
        absent = (*(["residual"] if without_residual else []), *([] if affine else ["weight", "bias"]))
        values = {name: value for name, value in every.items() if name not in absent}
        multiplier = fl.functional.dropout(torch.ones_like(every["x"].clone(), dtype=torch.float64), p, training, seed=9)

        def by_torch(leaves, activation=activation, multiplier=multiplier):
            dtype = leaves["x"].dtype
            act = torch.nn.Identity() if activation is None else getattr(torch.nn, type(activation).__name__)().to(dtype)
            return composed(leaves, [value.to(dtype, copy=True) for value in running], act, multiplier.to(dtype), training)

        def by_us(leaves, activation=activation, p=p):
            return fl.functional.batch_norm(
                leaves["x"], *[value.clone() for value in running], leaves.get("weight"), leaves.get("bias"), training,
                residual=leaves.get("residual"), dropout=p, seed=9,
                activation="identity" if activation is None else activation.to(wide))

        double = {name: value.double() for name, value in values.items()}
        z = composed(double, [value.double().clone() for value in running], torch.nn.Identity(), 1.0, training)
        dy = torch.randn(4, 5, 6, 7).to(dtype) * (z.abs() > 0.05)  # away from the kink, which rounding could cross
        name_of = "Identity" if activation is None else type(activation).__name__
        oracle = extended.block(values, running, name_of, multiplier, training, dy)
        plain, ours = results(by_torch, values, wide, dy), results(by_us, values, dtype, dy)
        assert_no_worse(ours, plain, oracle, dtype, (without_residual, activation, p, affine))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("shape", "layout"), [
    ((64, 64, 33, 33), "contiguous"), ((64, 64, 33, 33), "channels_last"), ((4, 8, 368, 368), "contiguous"),
    ((700, 256, 5, 5), "contiguous"),
], ids=str)
def test_results_that_are_written_past_the_caches(shape: tuple[int, ...], layout: str, residual: bool, dtype: torch.dtype) -> None:
    """8 MiB and more on cpp, rows that begin anywhere, channels that fit in cache and not: y and all gradients."""
    if not fl.backends()["cpp"].startswith("available"):
        pytest.skip(fl.backends()["cpp"])
    values = {name: arrange(torch.randn(shape), layout).to(dtype) for name in (("x", "residual") if residual else ("x",))}
    values |= {"weight": torch.rand(shape[1]) + 0.5, "bias": torch.randn(shape[1])}
    dy = arrange(torch.randn(shape), layout).to(dtype)

    def by_torch(leaves):
        return composed(leaves, [None, None], torch.nn.SiLU(), 1.0, True)

    def by_us(leaves):
        return fl.functional.batch_norm(
            leaves["x"], None, None, leaves["weight"], leaves["bias"], True, activation="silu", residual=leaves.get("residual"))

    exact = results(by_torch, {name: value.double() for name, value in values.items()}, torch.float64, dy)
    oracle = {name: found.numpy() for name, found in exact.items()}
    assert_no_worse(results(by_us, values, dtype, dy), results(by_torch, values, torch.float32, dy), oracle, dtype, "large")
