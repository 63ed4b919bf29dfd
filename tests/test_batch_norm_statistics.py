"""Batch norm's state: when running statistics move, in which dtype, and when they do not."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from cases import state
from tolerances import close
from torch.utils.checkpoint import checkpoint

import fastlayers as fl
from fastlayers import nn


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], exact: bool = True) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        close(value, expected[name], 0.0 if exact else 1.0, name)


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


@pytest.mark.parametrize(("options", "change"), [
    (options, change) for options in OPTIONS for change in CHANGES
    if change != "reset" or options.get("track_running_stats", True)], ids=str)
def test_flags_changed_later_mean_what_they_mean_in_torch(cpu_backend: str, options: dict, change: str) -> None:
    """Train twice, evaluate, train again: the same numbers and buffers as torch's layer, or an error where torch has one."""
    theirs = torch.nn.BatchNorm1d(3, **{name: value for name, value in options.items() if name != "bias"})
    ours = nn.BatchNorm1d(3, **options)
    if "bias" in options:  # torch before 2.13 does not know the argument
        theirs.bias = None
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
            assert isinstance(results[1], type(results[0])), results
            return
        close(results[1], results[0])
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


@pytest.mark.parametrize("strided", ["mean", "var"])
def test_running_statistics_of_any_strides_move(backend: str, strided: str) -> None:
    """Each by itself: kernels take those without gaps as they are, and a copy of the others."""
    x, mean, var = torch.randn(6, 4), torch.zeros(4), torch.ones(4)
    expected = mean.clone(), var.clone()
    torch.nn.functional.batch_norm(x, *expected, training=True)
    gaps = torch.stack([mean if strided == "mean" else var] * 2, 1)[:, 0]
    given = (gaps, var) if strided == "mean" else (mean, gaps)
    fl.functional.batch_norm(x, *given, training=True)
    assert_same(dict(zip("mv", given, strict=True)), dict(zip("mv", expected, strict=True)), exact=False)


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


def test_layers_without_bias() -> None:
    """Lazy ones too, loaded before their first input or not; reset_parameters() resets what there is."""
    full, x = nn.BatchNorm1d(5, bias=False), torch.randn(3, 5)
    expected, state = full(x), full.state_dict()
    assert list(state) == ["weight", "running_mean", "running_var", "num_batches_tracked"]
    lazy, loaded = nn.LazyBatchNorm1d(bias=False), nn.LazyBatchNorm1d(bias=False)
    loaded.load_state_dict(state)
    for layer in (lazy, loaded):
        assert torch.equal(layer(x), expected)
        assert list(layer.state_dict()) == list(state)
        assert type(layer) is nn.BatchNorm1d
    lazy.weight.data.fill_(3)
    lazy.reset_parameters()
    for name, start in (("weight", 1), ("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
        assert (getattr(lazy, name) == start).all(), name
    with_bias = nn.BatchNorm1d(2)
    with_bias.bias.data.fill_(3)
    with_bias.reset_parameters()
    assert (with_bias.bias == 0).all()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("how", "reentrant"), [
    ("eager", True), ("eager", False), ("compiled inside", True), ("compiled inside", False),
    ("compiled around", False)])  # torch.compile takes no reentrant one
def test_checkpointing_moves_running_statistics_once(cpu_backend: str, how: str, reentrant: bool, momentum: float | None) -> None:
    """torch moves them twice; the second forward, in backward, must also compute the same gradients."""
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


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.float64], ids=str)
def test_a_count_of_another_dtype_counts_on(cpu_backend: str, dtype: torch.dtype, momentum: float | None) -> None:
    """As torch's: a module cast as a whole, or torch.func.functional_call with cast buffers, has one."""
    layers = nn.BatchNorm1d(3, momentum=momentum), torch.nn.BatchNorm1d(3, momentum=momentum)
    for x in torch.randn(3, 8, 3):
        for layer in layers:
            layer.num_batches_tracked = layer.num_batches_tracked.to(dtype)
            layer(x)
    ours, theirs = layers
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 3
    assert ours.num_batches_tracked.dtype == dtype
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_freeze_survives_train(cpu_backend: str) -> None:
    layer = nn.BatchNorm1d(3, activation="relu", dropout=0.5)
    layer(torch.randn(9, 3))
    assert layer.freeze() is layer
    before, x = state(layer), torch.randn(500, 3)
    y = layer.train()(x)
    assert_same(state(layer), before)
    z = layer.eval()(x)
    close(z, torch.relu(torch.nn.functional.batch_norm(x, layer.running_mean, layer.running_var)))
    assert torch.equal(y[y != 0], 2 * z[y != 0])
    assert 0.4 < (y[z > 0] == 0).float().mean() < 0.6, "dropout goes on as train() says"
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


def test_averaged_models_leave_frozen_statistics_alone() -> None:
    """update_bn resets the running statistics of every layer and calls the model; a frozen layer would be left with mean 0, variance 1."""
    model = torch.nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, activation="relu"))
    model(torch.randn(9, 3) + 5)
    before, x = state(model[0].freeze()), torch.randn(20, 3) + 2
    torch.optim.swa_utils.update_bn([x], model)
    assert_same(state(model[0]), before)
    close(model[1].running_mean, model[0](x).mean(0))
    model[0].reset_parameters()  # which makes anew what to_empty() has left
    assert model[0].running_mean.tolist() == [0, 0, 0]
    model[0].unfreeze()(x)
    model[0].reset_running_stats()
    assert model[0].num_batches_tracked == 0


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


def test_running_statistics_stay_wide_in_half_models() -> None:
    """In bfloat16 torch's running mean sticks at 2.0 for a true mean of 3.0 where momentum is 0.01."""
    ours, theirs = (kind(1, momentum=0.01).bfloat16() for kind in (nn.BatchNorm1d, torch.nn.BatchNorm1d))
    for _ in range(1200):
        for layer in (ours, theirs):
            layer(torch.tensor([[2.0], [4.0]], dtype=torch.bfloat16))
    assert theirs.running_mean.item() == 2.0
    assert ours.running_mean.dtype == torch.float32
    torch.testing.assert_close(ours.running_mean, torch.tensor([3.0]), rtol=1e-4, atol=0)
    before = nn.BatchNorm1d(2)
    before.running_mean.fill_(1 + 2**-20)
    assert torch.equal(before.half().running_mean, torch.full((2,), 1 + 2**-20)), "never rounded on the way"


def test_buffers_may_have_become_attributes(cpu_backend: str) -> None:
    """Code that swaps tensors deletes a buffer and sets an attribute."""
    layers = nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    x = torch.randn(6, 3)
    for layer in layers:
        mean = layer.running_mean
        del layer.running_mean
        layer.__dict__["running_mean"] = mean
    close(*(layer(x) for layer in layers))
    close(*(layer.running_mean for layer in layers))


def test_statistics_of_one_channel_may_have_a_stride_of_0(backend: str) -> None:
    """All of it is in memory, though expand() made it."""
    mean, var = torch.zeros(()).expand(1), torch.ones(()).expand(1)
    x = torch.randn(50, 1) + 3
    fl.functional.batch_norm(x, mean, var, training=True, momentum=1.0)
    close(mean, x.mean(0))
    close(var, x.var(0))
