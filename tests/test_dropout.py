"""Dropout: the mask rule on every backend, its statistics, seeds, conventions, and what torch's modules do in corner cases."""
from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import cases
import mask_rule
import pytest
import torch
from mask_rule import kept
from tolerances import assert_within, gradient_bound, value_bound
from torch.utils.checkpoint import checkpoint

import fastlayers as fl
from fastlayers import functional as F
from fastlayers import nn, reference
from fastlayers.backends import select
from fastlayers.functional.dropout import CONVENTIONS
from fastlayers.reference.dropout import DROPOUT_STREAM, alpha_outcome, keep_scale, random_numbers, threshold

MODULES = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
FUNCTIONS = {name: getattr(F, function) for name, function in zip(
    MODULES, ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"), strict=True)}
SHAPES = {"Dropout": (4, 6, 5), "Dropout1d": (4, 6, 5), "Dropout2d": (4, 6, 5, 3), "Dropout3d": (4, 6, 2, 3, 2), "AlphaDropout": (4, 6, 5),
          "FeatureAlphaDropout": (4, 6, 5)}
CPP = pytest.mark.skipif(not fl.backends()["cpp"].startswith("available"), reason=fl.backends()["cpp"])


# The mask rule

def test_masks_follow_the_rule(backend: str) -> None:
    """200 random seeds, probabilities, shapes, layouts and dtypes, elements and channels."""
    for case in mask_rule.random_cases():
        assert torch.equal(mask_rule.by_backend(case), mask_rule.by_rule(case)), case


@CPP
@pytest.mark.parametrize("threads", [1, 4])
def test_masks_for_any_number_of_threads(threads: int) -> None:
    """The cases, and a tensor that several threads share, against one thread's bits."""
    before = torch.get_num_threads()
    large = mask_rule.MaskCase(5, 0.3, (3, 7, 123, 57), "channels_last", True, torch.float32)
    try:
        torch.set_num_threads(threads)
        with fl.backend("cpp"):
            for case in mask_rule.random_cases():
                assert torch.equal(mask_rule.by_backend(case), mask_rule.by_rule(case)), case
            for case in (large, large._replace(by_channel=False)):
                with fl.backend("reference"):
                    expected = mask_rule.by_backend(case)
                assert torch.equal(mask_rule.by_backend(case), expected)
    finally:
        torch.set_num_threads(before)


@CPP
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_masks_on_every_instruction_set(capability: str, tmp_path: Path) -> None:
    from fastlayers import _C

    if ["baseline", "avx2", "avx512"].index(capability) > ["baseline", "avx2", "avx512"].index(_C.cpu_capability()):
        pytest.skip(f"this processor has no {capability}")
    file = tmp_path / "masks.pt"
    subprocess.run([sys.executable, mask_rule.__file__, str(file)], check=True, timeout=300,
                   env={**os.environ, "FASTLAYERS_CPU_CAPABILITY": capability})
    for case, mask in zip(mask_rule.random_cases(), torch.load(file), strict=True):
        assert torch.equal(mask, mask_rule.by_rule(case)), case


@pytest.mark.parametrize("first", [0, 3, 2**32 - 5, 2**33 + 5, 2**35 - 100, 2**40 + 1])
def test_far_elements(backend: str, first: int) -> None:
    """Elements that no test could allocate, where the counter's high word begins to count and beyond."""
    for seed, p in ((1234, 0.5), (-1, 0.1)):
        mask = F.dropout_mask((300,), p, seed, first=first)
        assert mask.tolist() == kept(first, 300, seed, p)


def test_known_answers(backend: str) -> None:
    assert mask_rule.philox((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)) == [
        0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    for p, seed, bits in ((0.5, 1234, "10111001110001101011010111000001"), (0.1, 0x123456789ABCDEF, "11111011010101111111111111111011")):
        assert "".join(str(int(keep)) for keep in F.dropout_mask((32,), p, torch.tensor(seed))) == bits


def test_mask_is_the_one_of_dropout(backend: str) -> None:
    for p in (0.0, 0.3, 1.0):
        y = F.dropout(torch.ones(3, 100), p, seed=7)
        assert torch.equal(y != 0, F.dropout_mask((3, 100), p, 7))
    assert F.dropout_mask((0, 3), 0.5, 7).shape == (0, 3)
    assert F.dropout_mask((), 0.5, 7).shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("by_channel", [False, True])
def test_more_than_2_to_the_31_elements(by_channel: bool) -> None:
    """bfloat16 on cpp, forward and backward, looked at near the end."""
    shape = (2, 2**15 + 1, 2**15)
    x = torch.ones(shape, dtype=torch.bfloat16, requires_grad=True)
    y = F.dropout1d(x, 0.5, seed=9) if by_channel else F.dropout(x, 0.5, seed=9)
    (dx,) = torch.autograd.grad(y, x, y.detach())
    y = y.detach()
    assert torch.equal(dx[-1, -200:], 2 * y[-1, -200:])
    del x, dx
    channels = shape[0] * shape[1]
    if by_channel:
        assert (y[-1, -50:, -1] != 0).tolist() == kept(channels - 50, 50, 9, 0.5)
        assert torch.equal(y[-1, -50:], y[-1, -50:, :1].expand(50, shape[2]))
    else:
        assert (y.flatten()[-100:] != 0).tolist() == kept(y.numel() - 100, 100, 9, 0.5)
        assert (y.flatten()[2**31 - 50:2**31 + 50] != 0).tolist() == kept(2**31 - 50, 100, 9, 0.5)


# The kernels

PLAIN = (
    ((3, 5, 4, 7), "contiguous", torch.float32), ((3, 8, 4, 7), "channels_last", torch.bfloat16), ((2, 3, 8), "contiguous", torch.float64),
    ((5, 1, 33), "contiguous", torch.float16), ((5, 1), "contiguous", torch.float32), ((2, 2, 4100), "contiguous", torch.float32),
    ((3, 4, 1, 2), "channels_last", torch.float32),
)
KERNEL_CASES = [
    *(cases.Case("identity", shape, layout, dtype, affine=False, residual=False, p=0.3) for shape, layout, dtype in PLAIN),
    cases.Case("prelu", (3, 6, 5, 4), "contiguous", torch.float32, p=0.3),
    cases.Case("prelu", (3, 6, 5, 4), "channels_last", torch.bfloat16, p=0.3),
    cases.Case("silu", (3, 6, 9), p=1.0),
]


@pytest.mark.parametrize(("by_channel", "outcome"), [(False, alpha_outcome(0.3)), (True, (1.0, 0.0, 0.0)), (True, (0.5, 2.0, -1.0))],
                         ids=["elements, alpha", "channels, eval", "channels, shifted"])
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_kernels_against_the_oracle(backend: str, case: cases.Case, by_channel: bool, outcome) -> None:
    """residual_after, sample and outcome of the kernel interface, both directions."""
    inputs = cases.make_inputs(case)
    wide = inputs.double()
    after = cases.arrange(torch.randn(case.shape, dtype=torch.float64), case.layout).to(case.dtype)
    sample = inputs.x.numel() // case.shape[0] if by_channel else 0
    kernels = select(inputs.x)
    y = kernels.epilogue_forward(inputs.x, *inputs.epilogue, after, sample, outcome)
    want = reference.epilogue_forward(wide.x, *wide.epilogue, after.double(), sample, outcome)
    scale, steepest = outcome[0], 1.2  # of identity, prelu and silu, as are their slopes'
    size = wide.x.abs() * 1.5 + 3 + (0 if inputs.residual is None else wide.residual.abs())
    assert (y.shape, y.stride(), y.dtype) == (inputs.x.shape, inputs.x.stride(), inputs.x.dtype)
    assert_within(y, want, value_bound(inputs.row, inputs.x, want, size + after.double().abs(), max(scale, 1), steepest), "y")
    mask = (True, False, False, False, False)
    got = kernels.epilogue_backward(inputs.dy, inputs.x, *inputs.epilogue, False, mask, sample, outcome)[0]
    want = reference.epilogue_backward(wide.dy, wide.x, *wide.epilogue, False, mask, sample, outcome)[0]
    assert_within(got, want, gradient_bound(inputs.row, inputs.x, want, wide.dy * scale, size, 1.5, steepest), "dx")


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_residual_after(backend: str, p: float) -> None:
    """y = dropout(act(x + bias)) + residual_after next to the epilogue's own order, with gradients for all of them."""
    x, before, after = (torch.randn(4, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    y = F.bias_activation(x, bias, "tanh", residual=before, dropout=p, seed=3, residual_after=after)
    multiplier = F.dropout_mask(x.shape, p, 3) * keep_scale(p)
    want = torch.tanh(x + bias[:, None] + before) * multiplier + after
    torch.testing.assert_close(y, want)
    dy = torch.randn_like(y)
    leaves = (x, bias, before, after)
    for got, expected in zip(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(want, leaves, dy), strict=True):
        torch.testing.assert_close(got, expected)
    only, = torch.autograd.grad(F.dropout(x.detach(), p, seed=3, residual_after=after), after, dy)
    assert torch.equal(only, dy)
    torch.testing.assert_close(F.dropout(x, p, seed=3, residual_after=after), x * multiplier + after)
    torch.testing.assert_close(nn.Dropout(0.5).eval()(x, after), x + after)


def test_second_derivatives(backend: str) -> None:
    if backend == "triton":
        pytest.skip("gradcheck evaluates hundreds of times; the second derivative goes through the reference formula anyway")
    x, after = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for function in (lambda x, after: F.feature_alpha_dropout(torch.tanh(x) * after, 0.4, True, seed=1),
                     lambda x, after: F.bias_activation(x, None, "silu", dropout=0.4, seed=1, residual_after=after),
                     lambda x, after: F.dropout1d(x * after, 0.4, seed=1)):
        assert torch.autograd.gradcheck(function, (x, after))
        assert torch.autograd.gradgradcheck(function, (x, after))


# Statistics

@pytest.mark.parametrize("p", [2**-16, 1 / 512, 0.1, 0.5, 0.9, 1 - 2**-16])
def test_keep_rate(p: float) -> None:
    """Within five standard deviations of what p says."""
    n = 2**22
    share = F.dropout_mask((n,), p, 2024).double().mean().item()
    assert abs(share - (1 - p)) <= 5 * math.sqrt(p * (1 - p) / n)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two centred vectors, in standard deviations of that of independent draws."""
    return (torch.dot(a, b) / (a.norm() * b.norm())).item() * math.sqrt(a.numel())


def centred(kept_ones: torch.Tensor) -> torch.Tensor:
    return kept_ones.float() - kept_ones.float().mean()


def test_no_correlation() -> None:
    """Between lags 1 to 64, rows, columns, neighbouring seeds, and the streams of forward and RReLU: below five standard deviations."""
    n = 2**20
    for p in (0.1, 0.5):
        long = centred(F.dropout_mask((n + 64,), p, 99))
        mask, square = long[:n], long[:n].view(1024, 1024)
        found = {f"lag {lag}": correlation(mask, long[lag:n + lag]) for lag in range(1, 65)}
        found |= {f"rows {k}": correlation(square[:-k].flatten(), square[k:].flatten()) for k in (1, 2, 8, 32)}
        found |= {f"columns {k}": correlation(square[:, :-k].flatten(), square[:, k:].flatten()) for k in (1, 2, 8, 32)}
        for seed in (98, 100, 99 + 2**32, 99 - 2**63):
            found[f"seed {seed}"] = correlation(mask, centred(F.dropout_mask((n,), p, seed)))
        found["stream 1"] = correlation(mask, centred(random_numbers(0, n, torch.tensor(99), DROPOUT_STREAM + 1) >= threshold(p)))
        assert {name: value for name, value in found.items() if abs(value) > 5} == {}


@pytest.mark.parametrize("p", [2**-16, 1 / 512, 0.1, 0.3, 0.5, 0.9, 1 - 2**-16])
def test_mean_is_exact(p: float) -> None:
    """Over all 65,536 numbers E[y] = x, in exact arithmetic but for the rounding of the scale; alpha dropout keeps mean and variance."""
    q = Fraction(threshold(p), 65536)
    assert abs(Fraction(keep_scale(p)) * (1 - q) - 1) <= Fraction(1, 2**52)
    scale, shift, dropped = alpha_outcome(p)
    probability = float(q)
    mean = (1 - probability) * shift + probability * dropped
    variance = (1 - probability) * (scale**2 + shift**2) + probability * dropped**2 - mean**2  # of x with mean 0 and variance 1
    assert mean == pytest.approx(0, abs=1e-9)
    assert variance == pytest.approx(1, abs=1e-9)


def test_both_conventions_agree_in_expectation() -> None:
    """The mean over masks is y of evaluation: x where scaled in training, x (1 - p) where scaled in evaluation."""
    x, samples, p = torch.tensor([1.0, -2.0, 0.5]), 2**17, 0.3
    for convention in CONVENTIONS:
        layer = nn.Dropout(p, convention=convention)
        mean = layer(x.expand(samples, 3)).double().mean(0)
        expected = layer.eval()(x).double()
        kept_value = layer.train()(torch.ones(64)).max().item()
        deviation = x.abs() * kept_value * math.sqrt(p * (1 - p) / samples)
        assert ((mean - expected).abs() <= 5 * deviation).all(), convention
    assert torch.equal(nn.Dropout(p, convention="eval").eval()(x), x * (1 - threshold(p) / 65536))
    assert torch.equal(F.dropout(x, 0.3, seed=1, convention="eval"), torch.where(F.dropout_mask((3,), 0.3, 1), x, 0))
    channels = nn.Dropout2d(0.5, convention="eval")
    assert set(channels(torch.ones(8, 8, 2, 2)).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(channels.eval()(torch.ones(1, 2, 2, 2)), torch.full((1, 2, 2, 2), 0.5))
    assert "convention='eval'" in repr(channels)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = torch.randn(2**20)
    for p in (0.1, 0.5):
        y = F.alpha_dropout(x, p, True)
        assert abs(y.mean()) < 5e-3
        assert abs(y.var() - 1) < 2e-2


# Seeds

def training_layers():
    return [(name, getattr(nn, name)(0.4), torch.randn(SHAPES[name])) for name in MODULES]


@pytest.mark.parametrize(("name", "layer", "x"), training_layers(), ids=MODULES)
def test_seeds_come_from_torch(name: str, layer: torch.nn.Module, x: torch.Tensor) -> None:
    """manual_seed repeats a mask, two calls differ, fork_rng leaves no trace, a generator of one's own and a seed do as they say."""
    x = x.repeat(4, *[1] * (x.dim() - 1))
    torch.manual_seed(1)
    first, other = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, other)
    with torch.random.fork_rng():
        layer(x)
    assert torch.equal(other, layer(x))
    state = torch.get_rng_state()
    function = FUNCTIONS[name]
    by_generator = [function(x, 0.4, True, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*by_generator)
    assert torch.equal(function(x, 0.4, True, seed=5), function(x, 0.4, True, seed=torch.tensor(5)))
    layer.eval()(x)
    layer.train()
    assert torch.equal(state, torch.get_rng_state()), "nothing was drawn from torch's own generator"


@pytest.mark.parametrize("make", [
    lambda: nn.Dropout(1.0), lambda: nn.SiLU(dropout=1.0), lambda: nn.GLU(1, dropout=1.0),
    lambda: nn.BatchNorm1d(4, activation="relu", dropout=1.0),
], ids=["Dropout", "SiLU", "GLU", "BatchNorm1d"])
def test_nothing_is_drawn_where_all_is_dropped(backend: str, make) -> None:
    layer, x = make(), torch.randn(6, 4, requires_grad=True)
    state = torch.get_rng_state()
    y = layer(x)
    assert torch.equal(state, torch.get_rng_state())
    assert not y.any()
    assert not torch.autograd.grad(y.sum(), x)[0].any()


@pytest.mark.parametrize("name", MODULES)
def test_backward_uses_the_mask_of_its_own_forward(name: str) -> None:
    """Checkpointed, reentrant or not; the same layer twice before any backward; a channels_last gradient; 8 bytes saved."""
    layer, x = getattr(nn, name)(0.4), torch.randn(SHAPES[name], requires_grad=True)

    def multiplier(y: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)[0]

    def twice(t: torch.Tensor) -> torch.Tensor:
        return layer(t) + 2 * layer(t)

    kept_tensors = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept_tensors.append(t) or t, lambda t: t):
        first = layer(x)
    second = layer(x)
    assert [(t.dtype, t.numel()) for t in kept_tensors] == [(torch.int64, 1)]
    expected = [multiplier(first), multiplier(second)]
    assert not torch.equal(*expected)
    torch.manual_seed(3)
    want, = torch.autograd.grad(twice(x).sum(), x)
    for reentrant in (True, False):
        torch.manual_seed(3)
        x.grad = None
        checkpoint(twice, x * 1, use_reentrant=reentrant).sum().backward()
        assert torch.equal(x.grad, want)
    last = torch.ones_like(first).movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(torch.autograd.grad(first, x, last, retain_graph=True)[0], expected[0])
    dropped = expected[0] == 0
    if "Alpha" not in name:
        assert torch.equal(dropped, first == 0)


@pytest.mark.parametrize("name", MODULES)
def test_compiled(name: str) -> None:
    """One graph, new masks at every call, the mask of its own forward in backward."""
    torch._dynamo.reset()
    layer = torch.compile(getattr(nn, name)(0.5), fullgraph=True)
    x = torch.randn(4, *SHAPES[name], requires_grad=True).flatten(0, 1).detach().requires_grad_()
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    gradient, = torch.autograd.grad(first.sum(), x)
    scale = alpha_outcome(0.5)[0] if "Alpha" in name else 2.0
    kept_values = (first - x * scale - (alpha_outcome(0.5)[1] if "Alpha" in name else 0)).abs() < 1e-5
    assert torch.equal(gradient != 0, kept_values)


def test_compiled_functions() -> None:
    torch._dynamo.reset()
    x, after = torch.randn(4, 6, 5), torch.randn(4, 6, 5)

    def function(x, after, seed):
        y = F.bias_activation(x, None, "relu", dropout=0.3, seed=seed, residual_after=after)
        return F.dropout(y, 0.2, seed=seed, residual_after=after), F.dropout_mask((2, 3), 0.5, seed)

    compiled = torch.compile(function, fullgraph=True)
    for expected, got in zip(function(x, after, torch.tensor(3)), compiled(x, after, torch.tensor(3)), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", MODULES)
def test_functorch_randomness(name: str) -> None:
    """torch.vmap's "error", "same" and "different", and grad under vmap, as with torch.nn's modules."""
    layer, x = getattr(nn, name)(0.5), torch.randn(3, *SHAPES[name])
    for module in (getattr(torch.nn, name)(0.5), layer):
        with pytest.raises(RuntimeError, match="randomness"):
            torch.vmap(module)(x)
    repeated = x[:1].expand_as(x)
    same = torch.vmap(layer, randomness="same")(repeated)
    assert torch.equal(same[0], same[1])
    different = torch.vmap(layer, randomness="different")(repeated)
    assert not torch.equal(different[0], different[1])
    torch.manual_seed(1)
    same = torch.vmap(layer, randomness="same")(x)
    torch.manual_seed(1)
    torch.testing.assert_close(same[2], layer(x[2]))
    fixed = torch.vmap(lambda t: FUNCTIONS[name](t, 0.5, True, seed=4))(x)
    torch.testing.assert_close(fixed[1], FUNCTIONS[name](x[1], 0.5, True, seed=4))
    gradients = torch.vmap(torch.func.grad(lambda t: FUNCTIONS[name](t, 0.5, True, seed=4).sum()))(x)
    assert torch.equal(gradients[0], gradients[1])
    scale = alpha_outcome(0.5)[0] if "Alpha" in name else 2.0
    torch.testing.assert_close(gradients.unique(), torch.tensor([0.0, scale]))


# Beside torch

@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, torch.tensor(0.5)], ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 2), (2, 1, 2, 1, 2, 2), (0, 3, 4), (2, 0, 3)],
                         ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_shapes_and_dtypes_as_torch(name: str, shape: tuple[int, ...], p: float) -> None:
    """Accepted and refused alike, warned of alike, the same shape and dtype, the same tensor handed back; integers too."""
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        results = []
        for kind in (torch.nn, nn):
            x = torch.ones(shape, dtype=dtype)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    y = getattr(kind, name)(p)(x)
                    results.append((y.shape, y.dtype, y is x, bool(y.numel() and (y == 0).all()) if p in (0, 1) else None, len(caught) > 0))
                except RuntimeError:
                    results.append(RuntimeError)
        assert results[1] == results[0], dtype


@pytest.mark.parametrize("name", MODULES)
def test_bad_probabilities(name: str) -> None:
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
            getattr(nn, name)(p)
    for kind in (torch.nn, nn):  # NaN passes torch's constructor and fails in forward, in its kernels
        layer = getattr(kind, name)(math.nan)
        for x in (torch.ones(SHAPES[name]), torch.ones(0, *SHAPES[name][1:])):
            with pytest.raises(RuntimeError, match="between 0 and 1, "):
                layer(x)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_torchs(name: str) -> None:
    ours, theirs = getattr(nn, name)(0.3, True), getattr(torch.nn, name)(0.3, True)
    assert isinstance(ours, type(theirs))
    assert (ours.p, ours.inplace) == (0.3, True)
    assert repr(ours) == repr(theirs)
    x = torch.randn(SHAPES[name])
    view = x.clone()
    assert ours(view) is view
    assert not torch.equal(view, x)
    assert ours.eval()(x) is x
    leaf = x.clone().requires_grad_()
    ours.train()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        ours(leaf)
    y = ours(leaf * 1)
    gradient, = torch.autograd.grad(y.sum(), leaf)
    assert 0 < (gradient == 0).sum() < gradient.numel()


def test_infinities_and_nan_as_torch() -> None:
    x = torch.tensor([math.inf, math.nan, -math.inf, 1.0])
    for ours, theirs in ((F.dropout, torch.dropout), (F.alpha_dropout, torch.alpha_dropout)):
        assert torch.equal(ours(x, 1.0, True).isnan(), theirs(x, 1.0, True).isnan())
        y = ours(x.repeat(64), 0.5, True, seed=1).view(64, 4)
        assert y[:, 1].isnan().all()
        assert 0 < y[:, 0].isnan().sum() < 64, "a dropped infinity is NaN, a kept one is itself"


@pytest.mark.parametrize(("call", "kind", "message"), [
    (lambda x: F.dropout(x, convention="both"), ValueError, "dropout: convention must be one of train, eval, got 'both'"),
    (lambda x: nn.Dropout1d(convention="both"), ValueError, "Dropout1d: convention must be one of train, eval, got 'both'"),
    (lambda x: F.dropout1d(x[0, 0]), RuntimeError, r"dropout1d: x must be 2-D or 3-D, got 1-D of shape \(5,\)"),
    (lambda x: F.feature_alpha_dropout(x[0, 0], training=True), RuntimeError, "feature_alpha_dropout: x must be at least 2-D, got 1-D"),
    (lambda x: F.dropout(x, residual_after=x[0]), RuntimeError, "dropout: residual_after must have the shape of x"),
    (lambda x: F.dropout(x, training=False, residual_after=x.double()), RuntimeError, "dropout: residual_after must have the dtype of x"),
    (lambda x: F.dropout(x, generator=3), TypeError, "dropout: generator must be a torch.Generator, got int"),
    (lambda x: F.dropout(x, seed=3, generator=torch.Generator()), ValueError,
     "dropout: generator must be None where seed is given, got both"),
    (lambda x: F.dropout_mask((3,), 0.5, 1, first=-1), ValueError, "dropout_mask: first must be at least 0, got -1"),
    (lambda x: F.dropout_mask((3,), 0.5, 1, first=1.5), TypeError, "dropout_mask: first must be a whole number, got float"),
    (lambda x: F.dropout_mask(3, 0.5, 1), TypeError, "dropout_mask: shape must be a sequence of whole numbers, got 3"),
    (lambda x: F.dropout_mask((2, 3.0), 0.5, 1), TypeError,
     r"dropout_mask: shape must be a sequence of whole numbers, got \(2, 3.0\)"),
    (lambda x: F.dropout_mask((-1, -3), 0.5, 1), ValueError, r"dropout_mask: shape must hold numbers at least 0, got \(-1, -3\)"),
    (lambda x: F.dropout_mask((3,), 1.5, 1), ValueError, "dropout_mask: p must be between 0 and 1, got 1.5"),
])
def test_refusals(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + message):
        call(torch.ones(2, 3, 5))


@CPP
def test_the_extension_checks_samples() -> None:
    from fastlayers import _C

    x = torch.ones(2, 3, 4)
    arguments = (x, None, None, None, None, None, torch.tensor(1), "identity", (), 0.5, 1)
    for sample in (-1, 5, 8, 36):
        with pytest.raises(ValueError, match="sample must be"):
            _C.epilogue_forward(*arguments, None, sample)
    with pytest.raises(ValueError, match="residual_after must have"):
        _C.epilogue_forward(*arguments, torch.ones(2, 3, 5))


@pytest.mark.parametrize("layer", [F.dropout2d, F.dropout3d, fl.nn.Dropout2d(), torch.nn.Sequential(fl.nn.Dropout3d())],
                         ids=["2d", "3d", "Dropout2d", "in a Sequential"])
def test_a_warning_names_the_line_that_called(layer) -> None:
    with pytest.warns(UserWarning, match="x must be .*-D") as caught:
        layer(torch.ones(2, 3))
    assert [warning.filename for warning in caught] == [__file__]
