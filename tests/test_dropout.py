"""Dropout: seeds, conventions, and what torch's modules do in corner cases."""
from __future__ import annotations

import math
import warnings

import pytest
import torch
from cases import needs_cpp
from torch.utils.checkpoint import checkpoint

import fastlayers as fl
from fastlayers import functional as F
from fastlayers import nn
from fastlayers.reference.dropout import alpha_outcome

MODULES = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
FUNCTIONS = {name: getattr(F, function) for name, function in zip(
    MODULES, ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"), strict=True)}
SHAPES = {"Dropout": (4, 6, 5), "Dropout1d": (4, 6, 5), "Dropout2d": (4, 6, 5, 3), "Dropout3d": (4, 6, 2, 3, 2), "AlphaDropout": (4, 6, 5),
          "FeatureAlphaDropout": (4, 6, 5)}


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
    (lambda x: F.dropout(x.long(), 0.5, False, convention="eval"), RuntimeError,
     "dropout: x must be float32, bfloat16, float16 or float64, got int64"),
    (lambda x: F.dropout(x, generator=3), TypeError, "dropout: generator must be a torch.Generator, got int"),
    (lambda x: F.dropout(x.to("meta"), generator=torch.Generator()), RuntimeError,
     "dropout: generator must be on meta like x, got one on cpu"),
    (lambda x: F.dropout(x, seed=3, generator=torch.Generator()), ValueError,
     "dropout: generator must be None where seed is given, got both"),
    (lambda x: F.dropout_mask((3,), 0.5, 1, first=-1), ValueError, f"dropout_mask: first must be between 0 and {2**63 - 4}, got -1"),
    (lambda x: F.dropout_mask((3,), 0.5, 1, first=2**63), ValueError,
     f"dropout_mask: first must be between 0 and {2**63 - 4}, got {2**63}"),
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


@needs_cpp
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


@pytest.mark.parametrize(("p", "training", "convention"), [(1.0, True, "train"), (0.5, False, "eval"), (0.5, True, "train")])
def test_a_bad_residual_leaves_x_alone(p: float, training: bool, convention: str) -> None:
    x = torch.ones(4)
    with pytest.raises(RuntimeError, match=r"^dropout: residual_after must have the shape of x"):
        F.dropout(x, p, training, True, convention=convention, residual_after=torch.ones(5))
    assert x.tolist() == [1.0] * 4


def test_in_place_under_autocast_x_keeps_its_dtype() -> None:
    """It would be a copy else, and x left as it was."""
    x, residual = torch.ones(4, dtype=torch.bfloat16), torch.ones(4)
    with torch.autocast("cpu"):
        with pytest.raises(RuntimeError, match=r"^dropout: residual_after must have the dtype of x, bfloat16, got float32$"):
            F.dropout(x, 0.5, inplace=True, residual_after=residual)
        assert F.dropout(x, 0.5, residual_after=residual).dtype == torch.float32


def test_a_mask_lies_where_its_seed_does() -> None:
    with torch.device("meta"):
        assert F.dropout_mask((8,), 0.5, torch.tensor(1234, device="cpu")).device.type == "cpu"
        assert F.dropout_mask((8,), 0.5, 1234).device.type == "meta"


def test_slopes_are_drawn_anew_beside_a_dropout_that_is_off() -> None:
    """Even where it would drop all, whatever the numbers."""
    x, layer = -torch.ones(64), fl.nn.RReLU()
    first, second = (F.bias_activation(x[None], None, layer, dropout=1.0, training=False) for _ in range(2))
    assert not torch.equal(first, second)


def test_a_scalar_is_dropped_by_its_own_generator() -> None:
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(5)
    before = generator.get_state()
    F.dropout(torch.ones(()), generator=generator)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(before, generator.get_state())


def test_a_block_drops_while_training_alone() -> None:
    x = torch.randn(64, 3)
    assert torch.equal(F.bias_activation(x, None, dropout=0.5, training=False), x)
    assert not torch.equal(F.bias_activation(x, None, dropout=0.5), x)


@pytest.mark.parametrize("training", [True, False])
def test_inplace_returns_x_itself(training: bool) -> None:
    """One sample without its batch too, and with a residual where nothing is dropped."""
    x, residual = torch.ones(3, 4), torch.full((3, 4), 2.0)
    assert F.dropout1d(x, 0.5, training, inplace=True) is x
    x = torch.ones(3, 4)
    y = F.dropout(x, 0.5, training, inplace=True, residual_after=residual, seed=1)
    assert y is x
    assert torch.equal(x, F.dropout(torch.ones(3, 4), 0.5, training, residual_after=residual, seed=1))
