"""Batch norm's numbers: hard inputs, every combination with residual, activation and dropout, the same bits on every run."""
from __future__ import annotations

import copy
from itertools import product

import extended
import pytest
import torch
from cases import DTYPES, arrange, state

import fastlayers as fl
from fastlayers import nn
from fastlayers.backends import select


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
def test_an_infinite_element_makes_the_running_mean_infinite(backend: str, shape: tuple[int, ...], layout: str) -> None:
    """As torch's on CPUs."""
    x, running = arrange(torch.randn(shape), layout), [torch.zeros(3), torch.ones(3)]
    x[0, 1], x[-1, 2] = torch.inf, -torch.inf
    y = fl.functional.batch_norm(x, *running, training=True)
    assert running[0].isposinf().tolist() == [False, True, False]
    assert running[0].isneginf().tolist() == [False, False, True]
    assert y.isnan().movedim(1, 0).flatten(1).all(1).tolist() == running[1].isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)], ids=str)
def test_statistics_of_nothing(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    mean, m2 = select(x).batch_norm_statistics(x, 1)
    assert mean.isnan().tolist() == [True] * 3
    assert m2.tolist() == [0.0] * 3


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
    ((8, 512, 7, 7), "contiguous"), ((3, 512, 7, 7), "contiguous"), ((128, 1500), "contiguous"), ((8, 1100, 7, 7), "channels_last"),
], ids=str)
@pytest.mark.parametrize(("activation", "p"), [("prelu", 0.1), ("silu", 0.0)])
def test_the_same_bits_for_any_number_of_threads_and_every_run(
    shape: tuple[int, ...], layout: str, activation: str, p: float, dtype: torch.dtype
) -> None:
    if not fl.backends()["cpp"].startswith("available"):
        pytest.skip(fl.backends()["cpp"])
    x, dy = (arrange(torch.randn(shape), layout).to(dtype) for _ in range(2))
    following = nn.PReLU(shape[1]) if activation == "prelu" else activation
    layer = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](shape[1], activation=following, dropout=p)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4, 16, 2, 1):
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
    ((700, 256, 5, 5), "contiguous"), ((4, 1100, 25, 25), "channels_last"),
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
