"""Activations as users meet them: arguments, learnable and random ones, in place, gradients of parameters, beside torch's own."""
from __future__ import annotations

import inspect
import pickle

import cases
import pytest
import torch
from tolerances import close

import fastlayers as fl
from fastlayers import functional as F
from fastlayers import nn
from fastlayers.reference.activations import function
from fastlayers.reference.dropout import ACTIVATION_STREAM, DROPOUT_STREAM, random_numbers
from fastlayers.specs import ACTIVATIONS

ROWS = list(ACTIVATIONS.values())
LEARNABLE = [row for row in ROWS if row.learnables]
RANDOM = [row for row in ROWS if row.random]
SEED = torch.tensor(0x123456789ABCDEF)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_function_module_and_name_are_one(backend: str, row) -> None:
    """The class, the function, the name in a block and the module in a block compute the same bits; so does a zero dropout."""
    x = torch.randn(6, 4, 5)
    module = cases.module(row.module, **dict([row.keyword] if row.keyword else ())).eval()
    y = module(x)
    values = [*(getattr(module, one.name) for one in row.learnables), *(getattr(module, one.name) for one in row.constants)]
    function = getattr(F, ROWS_BY_MODULE[row.module][0].name)
    assert torch.equal(function(x, *values, *([row.keyword[1]] if row.keyword else [])), y)
    assert torch.equal(F.bias_activation(x, None, module), y)
    if not row.learnables:
        assert torch.equal(F.bias_activation(x, None, row.text, training=False), y)
        assert torch.equal(F.bias_activation(x, torch.zeros(4), row.text, training=False), y)
    assert type(module).__name__ == row.module


ROWS_BY_MODULE: dict[str, list] = {}
for _row in ROWS:
    ROWS_BY_MODULE.setdefault(_row.module, []).append(_row)


@pytest.mark.parametrize("name", [name for name in ROWS_BY_MODULE if hasattr(torch.nn, name)])
def test_arguments_are_torchs(name: str) -> None:
    """The class is torch's, and has torch's attributes."""
    theirs, ours = getattr(torch.nn, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert vars(cases.module(name)).keys() >= vars(theirs(**required(name))).keys()


def torch_function_name(module: str) -> str:
    """What torch.nn.functional calls the function of this class, if it has it."""
    return fl.specs.TORCH_NAMES.get(ROWS_BY_MODULE[module][0].name, ROWS_BY_MODULE[module][0].name)


@pytest.mark.parametrize("name", [
    name for name in ROWS_BY_MODULE if inspect.isfunction(getattr(torch.nn.functional, torch_function_name(name), None))])
def test_arguments_of_functions_are_torchs(name: str) -> None:
    """In torch's order, with torch's defaults; torch's functions in C++ do not tell theirs."""
    function_name = torch_function_name(name)
    function = getattr(torch.nn.functional, function_name)
    x = torch.randn(5, 4)
    positional = [parameter for parameter in inspect.signature(function).parameters.values()][1:]
    given = [p.default if p.default is not p.empty else required(name)[p.name] for p in positional]
    torch.testing.assert_close(getattr(F, function_name)(x.clone(), *given), function(x.clone(), *given))


@pytest.mark.parametrize("name", F.__all__)
def test_functions_are_pickled_by_name(name: str) -> None:
    """A model keeps its activation function as an attribute, and is saved or sent to another process."""
    function = getattr(F, name)
    assert pickle.loads(pickle.dumps(function)) is function


def required(name: str) -> dict[str, float]:
    return {constant.name: constant.default for constant in ROWS_BY_MODULE[name][0].constants if constant.required}


IN_TORCH = [row for row in ROWS if hasattr(torch.nn, row.module) and not row.learnables]
IN_PLACE = [row for row in IN_TORCH if "inplace" in inspect.signature(getattr(torch.nn, row.module).__init__).parameters]


@pytest.mark.parametrize("row", [row for row in IN_TORCH if row not in IN_PLACE and hasattr(F, row.name)], ids=lambda row: row.name)
def test_nothing_is_in_place_that_is_not_in_torch(row) -> None:
    assert "inplace" not in getattr(F, row.name).__doc__
    with pytest.raises(TypeError, match="inplace"):
        getattr(F, row.name)(torch.ones(3), inplace=True)


@pytest.mark.parametrize("row", IN_PLACE, ids=lambda row: row.name)
def test_inplace_is_torchs(row) -> None:
    """Where torch works in place, so do the class and the function: the same tensor comes back, and gradients flow."""
    x = torch.randn(3, 4)
    expected = getattr(torch.nn, row.module)(**required(row.module)).eval()(x)
    for call in (getattr(nn, row.module)(**required(row.module), inplace=True).eval(),
                 lambda t: getattr(F, row.name)(t, **required(row.module), inplace=True)):
        leaf = x.clone().requires_grad_()
        given = leaf * 1
        y = call(given)
        assert y.data_ptr() == given.data_ptr()
        torch.testing.assert_close(y, expected)
        y.sum().backward()
        assert leaf.grad is not None


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_random_slopes_are_the_same_in_place(cpu_backend: str, dtype: torch.dtype) -> None:
    results = []
    for call in (nn.RReLU(), nn.RReLU(inplace=True), lambda x: F.rrelu(x, training=True, inplace=True)):
        leaf = torch.linspace(-2, 1, 24, dtype=dtype).requires_grad_()
        torch.manual_seed(3)
        given = leaf * 1
        y = call(given)
        assert (y is given) == (len(results) > 0)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
    for actual in results[1:]:
        assert all(map(torch.equal, actual, results[0]))


@pytest.mark.parametrize("name", ["prelu", "softplus", "relu", "gelu", "silu", "mish", "elu"])
def test_autocast_casts_as_torchs(name: str) -> None:
    weight = (torch.full((1,), 0.2),) if name == "prelu" else ()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = torch.randn(4, 6).to(dtype)
        weights = [w.to(torch.float64 if dtype == torch.float64 else torch.float32) for w in weight]
        with torch.autocast("cpu", torch.bfloat16):
            ours = getattr(F, name)(x, *weights)
            theirs = getattr(torch.nn.functional, name)(x, *weights)
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("row", [row for row in ROWS if row.saturates], ids=lambda row: row.name)
def test_half_types_keep_what_the_flat_end_loses(cpu_backend: str, row, dtype: torch.dtype) -> None:
    """Near an asymptote y has lost x; the gradient has not, alone and after a bias."""
    x = torch.linspace(-12, 4, 129).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    layer, info = cases.module(row.module), torch.finfo(dtype)
    want, = torch.autograd.grad(layer(wide).sum(), wide)
    for y in (layer(x), F.bias_activation(x[None], torch.zeros(129, dtype=dtype), layer)):
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0].double(), want, rtol=info.eps, atol=info.eps * info.tiny)


@pytest.mark.parametrize(("name", "alpha", "x"), [
    *(("soft_exponential", alpha, v / alpha) for alpha in (1e-5, 1e-10, 1e-18) for v in (-50.0, -9.0, -1.5, -0.5, 0.5, 3.0)),
    *(("snake", alpha, x) for alpha in (1e-5, 1e-15, -1e-20, 1e-38, -1e-40) for x in (-30.0, 0.5, 1e-3)),
])
def test_gradients_of_small_parameters(backend: str, name: str, alpha: float, x: float) -> None:
    """Nothing overflows or underflows on the way to a gradient that float32 has, within twice the budget of the derivative in x."""
    budget = 2 * ACTIVATIONS[name].derivative_ulp * torch.finfo(torch.float32).eps
    x, alpha = torch.tensor([x]), torch.tensor([alpha], requires_grad=True)
    _, slope = function(name, "derivative")(x.double(), alpha.detach().double())
    gradient, = torch.autograd.grad(getattr(F, name)(x, alpha).sum(), alpha)
    torch.testing.assert_close(gradient, slope.float(), rtol=budget, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_bounds_that_half_types_round(backend: str, dtype: torch.dtype) -> None:
    """-0.7 and 0.3 become numbers on either side of themselves; what Hardtanh clips has no gradient all the same."""
    for bounds in ((-0.7, 0.3), (-0.3, 0.7), (0.1, 0.6)):
        x = torch.linspace(-2, 2, 129).to(dtype).requires_grad_()
        y, expected = F.hardtanh(x, *bounds), torch.nn.functional.hardtanh(x, *bounds)
        assert torch.equal(y, expected)
        assert torch.equal(*(torch.autograd.grad(result.sum(), x)[0] for result in (y, expected)))


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("row", LEARNABLE, ids=lambda row: row.name)
def test_parameter_gradients_beside_autograd(backend: str, row, columns: int) -> None:
    """One value or one per channel, for every number of hinges where a row has several: what autograd makes of the formula."""
    for repeats in range(1, row.repeats.most + 1) if row.repeats else (None,):
        keywords = {"num_parameters": columns} | ({row.repeats.name: repeats} if repeats else {})
        module = cases.module(row.module, **keywords)
        x = torch.randn(3, 4, 50)
        y = module(x)
        y.backward(torch.ones_like(y))
        twin = cases.module(row.module, **keywords).double()
        with fl.backend("reference"):
            twin(x.double()).sum().backward()
        for ours, oracle in zip(module.parameters(), twin.parameters(), strict=True):
            assert ours.grad.shape == ours.shape
            close(ours.grad, oracle.grad.float())


@pytest.mark.parametrize("shape", [(1, 100), (3, 4, 7, 7), (5, 7)], ids=str)
def test_what_lies_beside_a_tensor_does_not_count(backend: str, shape: tuple[int, ...]) -> None:
    """Lanes without an element compute at 0, where soft_exponential has no value for alpha = -1.5: sums must not see it."""
    x = torch.rand(shape) + 5
    for per_channel in (False, True):
        module = nn.SoftExponential(num_parameters=shape[1] if per_channel else 1)
        twin = nn.SoftExponential(num_parameters=shape[1] if per_channel else 1).double()
        torch.nn.init.constant_(module.alpha, -1.5)
        torch.nn.init.constant_(twin.alpha, -1.5)
        module(x).sum().backward()
        with fl.backend("reference"):
            twin(x.double()).sum().backward()
        close(module.alpha.grad, twin.alpha.grad.float())


def test_learnable_activations_learn(backend: str) -> None:
    """soft_exponential leaves alpha = 0, where it starts; apl leaves a = 0."""
    for name, target in (("SoftExponential", lambda x: torch.exp(0.5 * x) / 0.5 - 1.5), ("APL", lambda x: x.abs())):
        torch.manual_seed(0)
        module = getattr(nn, name)()
        x = torch.randn(512, 1)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        losses = []
        for _ in range(60 if backend == "triton" else 200):
            loss = (module(x) - target(x)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.2 * losses[0], name


# Random activations

def test_slopes_are_drawn_from_the_seed(backend: str) -> None:
    """lower + (upper - lower) (number + 1/2) / 65536 with the numbers of stream 1, in any layout; backward draws the same ones."""
    for layout in ("contiguous", "channels_last", "permuted"):
        x = cases.arrange(-torch.ones(3, 5, 4, 7), layout).requires_grad_()
        y = F.rrelu(x, 0.1, 0.4, training=True, seed=SEED)
        numbers = random_numbers(0, x.numel(), SEED, ACTIVATION_STREAM).as_strided(x.size(), x.stride())
        slopes = 0.1 + (0.4 - 0.1) * (numbers.double() + 0.5) / 65536
        close(-y.detach(), slopes.float())
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], -y.detach())


def test_slopes_and_masks_are_independent() -> None:
    """Two streams of one seed: no correlation, beyond five standard deviations, at any lag up to 8."""
    count = 1 << 18
    draws = [random_numbers(0, count, SEED, stream).double() for stream in (DROPOUT_STREAM, ACTIVATION_STREAM)]
    mask, slope = ((draw - draw.mean()) / draw.std() for draw in draws)
    for lag in range(9):
        correlation = (mask[lag:] * slope[:count - lag]).mean().abs()
        assert correlation < 5 / count**0.5


def test_random_activation_with_dropout_in_a_block(backend: str) -> None:
    """Batch norm, random slopes and dropout from one seed are the composition of the three."""
    x = torch.randn(8, 4, 5, 5)
    block = F.batch_norm(x, None, None, training=True, activation=nn.RReLU(), dropout=0.25, seed=SEED)
    normalised = F.batch_norm(x, None, None, training=True)
    alone = F.rrelu(normalised, training=True, seed=SEED)
    close(block, F.dropout(alone, 0.25, seed=SEED))


@pytest.mark.parametrize("row", RANDOM, ids=lambda row: row.name)
def test_evaluation_draws_nothing(backend: str, row) -> None:
    """The mean slope, and torch's generator is left alone; a training pass moves it."""
    module = getattr(nn, row.module)()
    block = nn.BatchNorm1d(4, activation=getattr(nn, row.module)())
    x = torch.randn(16, 4)
    for layer in (module, block):
        layer.eval()
        before = torch.get_rng_state()
        first = layer(x)
        assert torch.equal(first, layer(x))
        assert torch.equal(torch.get_rng_state(), before)
        layer.train()
        assert not torch.equal(layer(x), layer(x))
        assert not torch.equal(torch.get_rng_state(), before)
    mean = sum(constant.default for constant in row.constants) / 2
    assert torch.equal(module.eval()(x), torch.where(x > 0, x, x * mean))


def test_random_slopes_cover_their_range() -> None:
    """Uniform in [lower, upper] as torch draws them: mean, deviation, extremes; positive inputs pass."""
    x = torch.cat([-torch.ones(100_000), torch.ones(10)])
    slopes = -F.rrelu(x, 0.1, 0.4, training=True)[:-10]
    assert torch.equal(F.rrelu(x, 0.1, 0.4, training=True)[-10:], torch.ones(10))
    assert 0.1 <= slopes.min() < 0.1005
    assert 0.3995 < slopes.max() <= 0.4
    assert abs(slopes.mean() - 0.25) < 5 * 0.3 / 12**0.5 / 100_000**0.5
    assert abs(slopes.std() - 0.3 / 12**0.5) < 1e-3


def test_random_activation_keeps_a_seed_and_x() -> None:
    kept = []
    x = torch.randn(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        nn.RReLU()(x)
    assert sorted(tensor.numel() * tensor.element_size() for tensor in kept) == [8, 4000]


def test_dropout_takes_the_place_of_inplace() -> None:
    """As in a module: the mask needs a tensor of its own."""
    x = torch.ones(64)
    assert 0 < (fl.functional.relu(x, inplace=True, dropout=0.5) == 0).sum() < 64
    assert (x == 1).all()
    assert fl.functional.relu(x, inplace=True, dropout=0.0) is x


def test_parameters_without_a_dimension_are_one_value() -> None:
    x = torch.randn(4, 3)
    for compute, values in ((fl.functional.prelu, [0.25]), (fl.functional.srelu, [-1.0, 0.1, 1.0, 0.5])):
        scalars, vectors = ([torch.tensor(value).view(shape) for value in values] for shape in ((), (1,)))
        assert torch.equal(compute(x, *scalars), compute(x, *vectors))
