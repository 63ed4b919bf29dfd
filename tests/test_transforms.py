"""torch.func (functional_call, grad, vmap, jvp and what is stacked of them) and forward_ad, through every layer, eager and compiled."""
from __future__ import annotations

import cases
import pytest
import torch
from tolerances import close
from torch.autograd import forward_ad

import fastlayers as fl
from fastlayers import nn
from fastlayers.specs import ACTIVATIONS

LAYERS = {
    "silu": nn.SiLU,
    "prelu": lambda: nn.PReLU(3),
    "dropout": lambda: nn.Dropout(0.4),
    "gelu, dropout": lambda: nn.GELU(dropout=0.3),
    "batch norm": lambda: nn.BatchNorm1d(3),
    "block": lambda: nn.BatchNorm1d(3, activation=nn.PReLU(3), dropout=0.2),
    "not affine": lambda: nn.BatchNorm1d(3, affine=False, activation="relu"),
}


def settled(make, training: bool = False) -> torch.nn.Module:
    """The layer with running statistics that are not those of a new one."""
    layer = make()
    for _ in range(3):
        layer(torch.randn(16, 3) * 2 + 1)
    return layer.train(training)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_gradients_per_sample_in_eval(make) -> None:
    """vmap(grad(functional_call)) over samples is a loop over samples with autograd."""
    layer = settled(make)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())
    x = torch.randn(5, 4, 3)

    def loss(parameters, x):
        return torch.func.functional_call(layer, (parameters, buffers), (x,)).square().sum()

    values = {name: value.detach() for name, value in parameters.items()}
    weights, inputs = torch.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(None, 0))(values, x)
    for k in range(5):
        leaf = x[k].clone().requires_grad_()
        expected = torch.autograd.grad(layer(leaf).square().sum(), [leaf, *parameters.values()])
        for actual, want in zip((inputs[k], *(weights[name][k] for name in parameters)), expected, strict=True):
            close(actual, want)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_forward_mode_and_hessian(make) -> None:
    layer = settled(make).double()
    x, direction = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    _, slope = torch.func.jvp(layer, (x,), (direction,))
    _, expected = torch.autograd.functional.jvp(lambda x: layer(x), x, direction)
    torch.testing.assert_close(slope, expected)
    curvature = torch.func.hessian(lambda x: layer(x).square().sum())(x)
    torch.testing.assert_close(curvature, torch.autograd.functional.hessian(lambda x: layer(x).square().sum(), x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [*LAYERS.values(), nn.SwiGLU], ids=[*LAYERS, "gated"])
def test_dual_numbers(make, training: bool) -> None:
    """torch.autograd.forward_ad without torch.func: the slope along a direction, for parameters too, and the same masks."""
    layer = (make() if make is nn.SwiGLU else settled(make, training)).double()
    x, direction = torch.randn(4, 6 if make is nn.SwiGLU else 3, 2, dtype=torch.float64).unbind(-1)
    torch.manual_seed(7)
    value, expected = torch.autograd.functional.jvp(lambda x: layer(x), x, direction)
    torch.manual_seed(7)
    with forward_ad.dual_level():
        y, slope = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction)))
    torch.testing.assert_close(y, value)
    torch.testing.assert_close(slope, expected)
    for name, parameter in layer.named_parameters():
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(parameter.detach(), torch.ones_like(parameter))}
            torch.manual_seed(7)
            slope = forward_ad.unpack_dual(torch.func.functional_call(layer, dual, (x,))).tangent
        torch.manual_seed(7)
        _, expected = torch.autograd.functional.jvp(
            lambda value, name=name: torch.func.functional_call(layer, {name: value}, (x,)), parameter.detach(), torch.ones_like(parameter))
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(("row", "keywords"), [
    *(pytest.param(row, dict([row.keyword] if row.keyword else ()), id=row.name) for row in ACTIVATIONS.values()),
    pytest.param(ACTIVATIONS["binary_step"], {"straight_through": 1}, id="straight through")])
def test_the_derivative_at_kinks_and_nan(row, keywords: dict[str, object]) -> None:
    """It is that of the kernels, for x and for learnable parameters: a transform differentiates the formula, clamp and all."""
    layer = cases.module(row.module, **keywords).double().eval()
    values = {name: value.detach() for name, value in layer.named_parameters()}
    kinks = [float(kink) for kink in row.kinks_with([value.flatten()[0] for value in values.values()])]
    apply = lambda values, x: torch.func.functional_call(layer, values, (x,))  # noqa: E731
    for x in torch.tensor([*kinks, 0.3, torch.nan], dtype=torch.float64).split(1):
        leaf = x.clone().requires_grad_()
        expected, *of_parameters = torch.autograd.grad(layer(leaf).sum(), [leaf, *layer.parameters()])
        traced, = torch.autograd.grad(torch.jit.trace(layer, torch.randn(1, dtype=x.dtype))(leaf).sum(), leaf)
        direct = torch.func.grad(lambda x: layer(x).sum())(x)
        batched = torch.vmap(torch.func.grad(lambda x: layer(x).sum()))(x[None])[0]
        _, forward = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
        for slope in (direct, traced, batched, forward):
            torch.testing.assert_close(slope, expected, equal_nan=True)
        if not x.isnan():
            slopes = torch.func.grad(lambda values, x=x: apply(values, x).sum())(values)
            for slope, want in zip(slopes.values(), of_parameters, strict=True):
                torch.testing.assert_close(slope, want)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_dual_numbers_skip_nonfinite(momentum: float | None) -> None:
    layer, twin = (nn.BatchNorm1d(3, momentum=momentum, skip_nonfinite=True) for _ in range(2))
    good, bad = torch.randn(2, 4, 3)
    bad[1, 2] = float("inf")
    with forward_ad.dual_level():
        for x in (bad, good):
            layer(forward_ad.make_dual(x, torch.ones_like(x)))
    twin(good)
    for actual, expected in zip(layer.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_without_statistics_there_are_none_to_skip() -> None:
    xs = torch.randn(5, 4, 3)
    plain, skipping = (torch.vmap(lambda x, skip=skip: fl.functional.batch_norm(x, None, None, training=True, skip_nonfinite=skip))(xs)
                       for skip in (False, True))
    assert torch.equal(plain, skipping)


def test_statistics_keep_their_dtype() -> None:
    given = torch.randn(8, 3).bfloat16(), torch.zeros(3).bfloat16(), torch.ones(3).bfloat16()
    _, *alone = fl.functional.batch_norm_and_statistics(*given)
    _, *mapped = torch.vmap(fl.functional.batch_norm_and_statistics)(*(value[None] for value in given))
    assert {value.dtype for value in (*alone, *mapped)} == {torch.bfloat16}


@pytest.mark.parametrize("place", [1, 2])
def test_gradients_flow_through_y_alone(place: int) -> None:
    x, mean, var = torch.randn(4, 3), torch.zeros(3), torch.ones(3)
    gradient = torch.func.grad(lambda x: fl.functional.batch_norm_and_statistics(x, mean, var)[place].sum())(x)
    assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_masks_under_grad_are_those_without(layout: str) -> None:
    x = torch.randn(6, 3) if layout == "contiguous" else torch.randn(3, 6).t()
    gradient = torch.func.grad(lambda x: fl.functional.dropout(x, 0.5, seed=5).sum())(x)
    assert torch.equal(gradient != 0, fl.functional.dropout(torch.ones_like(x), 0.5, seed=5) != 0)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_vmap_draws_a_mask_for_each_or_one_for_all(dim: int) -> None:
    x, layer = torch.ones(64, 64, 64), nn.SiLU(dropout=0.5)
    different = torch.vmap(layer, in_dims=dim, randomness="different")(x)
    same = torch.vmap(layer, in_dims=dim, randomness="same")(x)
    assert torch.equal(same, same[:1].expand_as(same))
    assert not torch.equal(different[0], different[1])
    for masks in (different, same):
        assert abs((masks == 0).float().mean() - 0.5) < 0.02
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(layer, in_dims=dim)(x)


@pytest.mark.parametrize("momentum", [0.2, None])
@pytest.mark.parametrize("dim", [0, 2])
def test_training_under_vmap_returns_statistics(dim: int, momentum: float | None) -> None:
    """An ensemble: each model's batch moves its own statistics, as a loop over the models does; gradients too."""
    x, residual = torch.randn(5, 8, 3).movedim(0, dim), torch.randn(8, 3)
    state = [torch.randn(5, 3), torch.rand(5, 3) + 0.5, torch.arange(5)]
    weight = torch.rand(5, 3) + 0.5

    def step(x, mean, var, count, weight):
        return fl.functional.batch_norm_and_statistics(
            x, mean, var, weight, None, momentum, activation="gelu", residual=residual, num_batches_tracked=count)

    def loss(weight, x, *state):
        y, *new = step(x, *state, weight)
        return y.square().sum(), new

    results = torch.vmap(step, in_dims=(dim, 0, 0, 0, 0))(x, *state, weight)
    gradients, _ = torch.vmap(torch.func.grad(loss, has_aux=True), in_dims=(0, dim, 0, 0, 0))(weight, x, *state)
    for k in range(5):
        own, leaf = [value[k].clone() for value in state], weight[k].clone().requires_grad_()
        y = fl.functional.batch_norm(x.movedim(dim, 0)[k], own[0], own[1], leaf, None, True, momentum, activation="gelu", residual=residual,
                                     num_batches_tracked=own[2])
        gradient, = torch.autograd.grad(y.square().sum(), leaf)
        for actual, want in zip((*(result[k] for result in results), gradients[k]), (y, *own, gradient), strict=True):
            close(actual, want)
    single = step(x.movedim(dim, 0)[0], *[value[0] for value in state], weight[0])
    for actual, want in zip(single, results, strict=True):
        close(actual, want[0])


def test_the_functional_form_of_an_empty_batch() -> None:
    """Counted; nothing moves: under vmap as without."""
    def step(x, mean, var, count):
        return fl.functional.batch_norm_and_statistics(x, mean, var, num_batches_tracked=count)

    x, state = torch.zeros(2, 0, 3), (torch.randn(2, 3), torch.rand(2, 3), torch.tensor([0, 4]))
    _, *moved = torch.vmap(step)(x, *state)
    _, *alone = step(x[0], *[value[0] for value in state])
    for new, single, expected in zip(moved, alone, (*state[:2], state[2] + 1), strict=True):
        assert torch.equal(new, expected)
        assert torch.equal(single, expected[0])


def test_the_functional_form_changes_nothing() -> None:
    state = [torch.zeros(3), torch.ones(3), torch.tensor(4)]
    results = fl.functional.batch_norm_and_statistics(torch.randn(8, 3), *state[:2], num_batches_tracked=state[2])
    assert [value.tolist() for value in state] == [[0.0] * 3, [1.0] * 3, 4]
    assert results[3] == 5
    assert len(fl.functional.batch_norm_and_statistics(torch.randn(8, 3), *state[:2])) == 3


@pytest.mark.parametrize("make", [nn.SiLU, LAYERS["not affine"], lambda: nn.BatchNorm1d(3, activation="gelu")],
                         ids=["silu", "not affine", "block"])
def test_transforms_compile(make) -> None:
    """torch.compile around grad and vmap(grad) traces the same formulas; around the layer alone it still takes the kernels."""
    layer, x = settled(make), torch.randn(5, 4, 3)
    loss = lambda x: layer(x).square().sum()  # noqa: E731
    for function, given in ((torch.func.grad(loss), x[0]), (torch.vmap(torch.func.grad(loss)), x)):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x, function=function: function(x), fullgraph=True, backend="aot_eager")
        close(compiled(given), function(given))


@pytest.mark.parametrize("make", [nn.SiLU, lambda: nn.GELU(dropout=0.3), lambda: nn.BatchNorm1d(3)], ids=["silu", "gelu", "batch norm"])
def test_a_tensor_that_outlived_its_transform(backend: str, make) -> None:
    """It holds no memory that a kernel could read, and stands for what it was made of."""
    kept, x, layer = [], torch.randn(4, 3, dtype=torch.float64), make().double()
    torch.func.grad(lambda x: kept.append(x) or x.sum())(x)
    torch.manual_seed(5)
    expected = layer(x)
    torch.manual_seed(5)
    close(layer(kept[0]), expected)
