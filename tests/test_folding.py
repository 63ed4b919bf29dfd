"""fold_batch_norm and FeatureNorm: what inference is left with, and what goes in."""
from __future__ import annotations

import copy
import io
import sys

import pytest
import torch
from tolerances import ROUNDINGS, assert_within, close
from torch.nn.utils.prune import l1_unstructured

import fastlayers as fl
from fastlayers import nn

T = torch.nn
LAYERS = {
    "linear": (lambda: T.Linear(6, 8), 1, (5, 6)),
    "linear without bias": (lambda: T.Linear(6, 8, bias=False), 1, (5, 6)),
    "conv1d": (lambda: T.Conv1d(6, 8, 3, groups=2), 1, (2, 6, 9)),
    "conv2d": (lambda: T.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), 2, (2, 6, 9, 8)),
    "conv3d": (lambda: T.Conv3d(6, 8, 2, dilation=2), 3, (2, 6, 5, 4, 5)),
    "transposed 1d": (lambda: T.ConvTranspose1d(6, 8, 3, groups=2), 1, (2, 6, 9)),
    "transposed 2d": (lambda: T.ConvTranspose2d(6, 8, 3, stride=2, groups=2, bias=False), 2, (2, 6, 4, 5)),
    "transposed 3d": (lambda: T.ConvTranspose3d(6, 8, 2), 3, (2, 6, 3, 4, 2)),
}


def settled(norm: T.Module) -> T.Module:
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    for parameter in norm.parameters(recurse=False):
        T.init.normal_(parameter)
    return norm


@pytest.mark.parametrize("library", [torch.nn, nn], ids=["torch", "fastlayers"])
@pytest.mark.parametrize("name", LAYERS)
def test_folding_keeps_the_numbers(name: str, library) -> None:
    make, dimensions, shape = LAYERS[name]
    norm = settled(getattr(library, f"BatchNorm{dimensions}d")(8, eps=0.25, affine=name != "conv1d"))
    model = T.Sequential(make(), norm, T.ReLU()).double().eval()
    model[0].weight.requires_grad_(name != "conv2d")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fl.fold_batch_norm(model)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(folded(x), model(x))
    assert isinstance(folded[1], fl.folding.FoldedBatchNorm)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model itself is left alone"
    assert not any(module.training for module in folded.modules())
    assert {parameter.requires_grad for parameter in folded.parameters()} == {name != "conv2d"}


class Residual(T.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = T.Conv2d(4, 4, 3, padding=1, bias=False)
        self.block = settled(nn.BatchNorm2d(4, activation=nn.PReLU(4), dropout=0.3))
        self.second = T.Conv2d(4, 4, 1)
        self.end = settled(T.BatchNorm2d(4))

    def forward(self, x):
        return self.end(self.second(self.block(self.first(x), residual=x)))


def test_blocks_keep_activation_and_residual_in_one_kernel() -> None:
    model = Residual().eval()
    folded, x = fl.fold_batch_norm(model), torch.randn(2, 4, 5, 5)
    close(folded(x), model(x))
    assert type(folded) is Residual
    assert isinstance(folded.block.activation, nn.PReLU)
    program = torch.export.export(folded, (x,))
    assert [str(node.target) for node in program.graph.nodes if "fastlayers" in str(node.target)] == ["fastlayers.epilogue_forward.default"]


class Shared(T.Module):
    """The convolution's output is used twice, the second convolution twice, the third batch norm has no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = T.Conv1d(3, 3, 1), settled(nn.BatchNorm1d(3))
        self.b, self.norm_b = T.Conv1d(3, 3, 1), settled(nn.BatchNorm1d(3))
        self.c, self.norm_c = T.Conv1d(3, 3, 1), nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x):
        x = self.a(x)
        x = x + self.norm_a(x)
        x = self.norm_b(self.b(self.b(x)))
        return self.norm_c(self.c(x))


class Reading(T.Module):
    """The first layer's output is the residual too, the second's weight is used again, the third batch norm's; the fourth is another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = T.ModuleList(T.Linear(3, 3) for _ in range(4))
        self.norms = T.ModuleList(settled(kind(3)) for kind in (nn.BatchNorm1d, T.BatchNorm1d, nn.BatchNorm1d, Doubled))
        self.tied = T.Linear(3, 3, bias=False)
        self.layers[1].weight = self.tied.weight

    def forward(self, x):
        x = self.layers[0](x)
        x = self.norms[0](x, residual=x)
        x = self.norms[1](self.layers[1](x)) @ self.layers[1].weight
        x = self.norms[2](self.layers[2](x)) * self.norms[2].weight
        return self.norms[3](self.layers[3](x))


class Doubled(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2


class Renamed(T.BatchNorm1d):
    """A subclass that computes the same."""


def test_what_is_read_elsewhere_or_computes_something_else_stays() -> None:
    model, x = Reading().eval(), torch.randn(5, 3)
    folded = fl.fold_batch_norm(model)
    assert not any(isinstance(module, fl.folding.FoldedBatchNorm) for module in folded.modules())
    assert torch.equal(folded(x), model(x))
    same = T.Sequential(T.Linear(3, 3), settled(Renamed(3))).eval()
    folded = fl.fold_batch_norm(same)
    assert isinstance(folded[1], fl.folding.FoldedBatchNorm)
    torch.testing.assert_close(folded(x), same(x))
    assert torch.equal(fl.fold_batch_norm(folded)(x), folded(x)), "a folded model can be traced"


class TwoNames(T.Module):
    """One batch norm under two names, called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = T.Linear(3, 3), settled(nn.BatchNorm1d(3, activation="relu"))
        self.layers = T.ModuleList([self.layer, self.norm])

    def forward(self, x):
        return self.layers[1](self.layers[0](x))


def test_a_batch_norm_of_two_names_is_folded_under_both() -> None:
    model, x = TwoNames().eval(), torch.randn(5, 3)
    folded = fl.fold_batch_norm(model)
    assert folded.norm is folded.layers[1]
    assert isinstance(folded.norm, fl.folding.FoldedBatchNorm)
    torch.testing.assert_close(folded(x), model(x))


class Optional(T.Module):
    """The layer's output goes elsewhere too, but where an optional argument is left out; or where it is given."""

    def __init__(self, elsewhere) -> None:
        super().__init__()
        self.layer, self.norm, self.elsewhere = T.Linear(3, 3), settled(nn.BatchNorm1d(3)), elsewhere
        self.other, self.other_norm = T.Linear(3, 3), settled(nn.BatchNorm1d(3))

    def forward(self, x, shortcut=None, *, scale=None):
        x = self.other_norm(self.other(x))
        y = self.layer(x)
        z = self.norm(y) * (2.0 if scale is None else scale)
        return z + y if self.elsewhere(shortcut is None, scale is None) else z


@pytest.mark.parametrize("elsewhere", [
    lambda shortcut, scale: shortcut, lambda shortcut, scale: not shortcut, lambda shortcut, scale: shortcut and scale,
    lambda shortcut, scale: shortcut and not scale,
], ids=["without", "with", "without both", "without one"])
def test_data_may_flow_otherwise_without_an_optional_argument(elsewhere) -> None:
    """torch.fx traces one of the ways."""
    model, x = Optional(elsewhere).eval(), torch.randn(5, 3)
    folded = fl.fold_batch_norm(model)
    assert [isinstance(norm, fl.folding.FoldedBatchNorm) for norm in (folded.norm, folded.other_norm)] == [False, True]
    for given in ((), (x,)):
        for named in ({}, {"scale": 3.0}):
            torch.testing.assert_close(folded(x, *given, **named), model(x, *given, **named))


class SharedNorm(T.Module):
    """One batch norm after two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = T.Linear(3, 3), T.Linear(3, 3), settled(nn.BatchNorm1d(3))

    def forward(self, x):
        return self.norm(self.a(x)) + self.norm(self.b(x))


def hooked(norm: T.Module) -> T.Module:
    norm.register_forward_hook(lambda module, arguments, y: y + 1)
    return norm


@pytest.mark.parametrize("make", [
    SharedNorm, lambda: T.Sequential(T.Linear(3, 3), hooked(settled(nn.BatchNorm1d(3)))),
    lambda: T.Sequential(hooked(T.Linear(3, 3)), settled(nn.BatchNorm1d(3))),
    lambda: T.Sequential(T.utils.parametrizations.weight_norm(T.Linear(3, 3)), settled(nn.BatchNorm1d(3))),
], ids=["used twice", "hook on the norm", "hook on the layer", "parametrised"])
def test_what_others_have_a_say_in_stays(make) -> None:
    model, x = make().eval(), torch.randn(5, 3)
    folded = fl.fold_batch_norm(model)
    assert not any(isinstance(module, fl.folding.FoldedBatchNorm) for module in folded.modules())
    assert torch.equal(folded(x), model(x))


def test_a_batch_norm_in_training_stays_and_a_frozen_one_does_not() -> None:
    model, x = T.Sequential(T.Linear(3, 3), settled(nn.BatchNorm1d(3))).eval(), torch.randn(5, 3)
    model[1].train()
    assert type(fl.fold_batch_norm(model)[1]) is nn.BatchNorm1d
    model[1].freeze()
    folded = fl.fold_batch_norm(model)
    assert isinstance(folded[1], fl.folding.FoldedBatchNorm)
    torch.testing.assert_close(folded(x), model(x))


class Branching(T.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_folded_stays() -> None:
    model, x = Shared().eval(), torch.randn(2, 3, 4)
    folded = fl.fold_batch_norm(model)
    assert not any(isinstance(module, fl.folding.FoldedBatchNorm) for module in folded.modules())
    assert torch.equal(folded(x), model(x))
    with pytest.raises(ValueError, match="fold_batch_norm: model must be in eval mode, got training=True"):
        fl.fold_batch_norm(model.train())
    with pytest.raises(ValueError, match=r"fold_batch_norm: model must be traceable by torch\.fx, got TraceError: "):
        fl.fold_batch_norm(Branching().eval())
    others, tokens = T.Sequential(T.Linear(4, 5), settled(nn.BatchNorm1d(3))).eval(), torch.randn(2, 3, 4)
    assert torch.equal(fl.fold_batch_norm(others)(tokens), others(tokens))
    sequence = fl.fold_batch_norm(T.Sequential(T.Linear(4, 4), settled(nn.BatchNorm1d(4))).eval())
    with pytest.raises(ValueError, match="FoldedBatchNorm: x must be 2-D, got 3-D"):
        sequence(torch.randn(2, 4, 4))  # whose channels are not the Linear's features


@pytest.mark.filterwarnings("ignore")  # weight_norm of old
@pytest.mark.parametrize("hooked", [
    T.utils.weight_norm, T.utils.spectral_norm, lambda layer: l1_unstructured(layer, "weight", 9),
], ids=["weight_norm", "spectral_norm", "prune"])
def test_weights_made_by_hooks_stay(hooked) -> None:
    """Whether the model has been called before or not; batch norms after other layers are folded."""
    model = T.Sequential(hooked(T.Linear(6, 8)), settled(nn.BatchNorm1d(8)), T.Linear(8, 8), settled(nn.BatchNorm1d(8))).eval()
    x = torch.randn(5, 6)
    for _ in range(2):
        folded = fl.fold_batch_norm(model)
        assert [type(module) for module in folded] == [T.Linear, nn.BatchNorm1d, T.Linear, fl.folding.FoldedBatchNorm]
        torch.testing.assert_close(folded(x), model(x))
        assert folded[0].weight is not model[0].weight


@pytest.mark.parametrize("kind", [T.LazyBatchNorm1d, nn.LazyBatchNorm1d], ids=["torch", "fastlayers"])
def test_a_batch_norm_without_a_size_is_refused(kind) -> None:
    model = T.Sequential(T.Linear(6, 8), kind()).eval()
    with pytest.raises(ValueError, match=r"^fold_batch_norm: model must have been called once, got lazy 1\.running_mean, 1\.running_var "):
        fl.fold_batch_norm(model)
    model(torch.randn(5, 6))
    assert isinstance(fl.fold_batch_norm(model)[1], fl.folding.FoldedBatchNorm)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_folded_models_of_any_dtype(dtype: torch.dtype) -> None:
    """As near to float64 as the model itself may be, in units of the terms that are added up."""
    exact = torch.float64  # whose digits float32 has not
    model = T.Sequential(T.Linear(6, 8, dtype=exact), settled(nn.BatchNorm1d(8, dtype=exact, activation="silu"))).eval().to(dtype)
    x = torch.randn(5, 6, dtype=exact).to(dtype)
    layer, norm = (copy.deepcopy(module).double() for module in model[:2])
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    terms = (x.double().abs() @ layer.weight.abs().T + layer.bias.abs() + norm.running_mean.abs()) * scale.abs() + norm.bias.abs()
    oracle = T.functional.silu((layer(x.double()) - norm.running_mean) * scale + norm.bias)
    for one in (model, fl.fold_batch_norm(model)):
        assert_within(one(x), oracle, ROUNDINGS * torch.finfo(dtype).eps * terms, "y")


@pytest.mark.parametrize("sizes", [(100,), (1, 7, 0, 60, 32)], ids=str)
@pytest.mark.parametrize(("shape", "channel_dim"), [((4,), 1), ((4, 3, 2), 1), ((5, 4), -1)], ids=str)
def test_feature_norm_has_the_moments_of_the_whole_dataset(shape: tuple[int, ...], channel_dim: int, sizes: tuple[int, ...]) -> None:
    """Whatever the batches, far from zero too; in the state_dict; a constant feature gives 0."""
    data = torch.randn(100, *shape, dtype=torch.float64) * 3 + 1e4
    data.movedim(channel_dim, 0)[2] = 0.1  # whose sums are rounded
    layer = nn.FeatureNorm(4, channel_dim=channel_dim, dtype=torch.float64)
    assert layer.fit([(batch, None) for batch in data.split(sizes)]) is layer
    flat = data.movedim(channel_dim, 0).flatten(1)
    torch.testing.assert_close(layer.mean, flat.mean(1))
    unit = torch.finfo(torch.float64).eps
    torch.testing.assert_close(layer.var, flat.var(1, correction=0), rtol=1e4 / 3 * unit, atol=unit)  # x loses mean / deviation units
    assert layer.count == flat.size(1)
    z = layer(data).movedim(channel_dim, 0).flatten(1)
    torch.testing.assert_close(z.var(1, correction=0), torch.tensor([1.0, 1, 0, 1], dtype=torch.float64))
    assert (z[2] == 0).all()
    twin = nn.FeatureNorm(4, channel_dim=channel_dim, dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(data), layer(data))
    half = layer.float()(data.bfloat16())
    assert half.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_feature_norm_made_empty_begins_anew() -> None:
    fresh, layer = nn.FeatureNorm(4).state_dict(), nn.FeatureNorm(4, device="meta").to_empty(device="cpu")
    for _ in range(2):
        layer.reset_parameters()
        state = layer.state_dict()
        assert state.keys() == fresh.keys()
        for name, value in fresh.items():
            assert torch.equal(state[name], value), name
        layer.fit([torch.randn(8, 4)])


def test_feature_norm_refuses() -> None:
    layer = nn.FeatureNorm(4)
    for call, message in ((lambda: layer.fit([]), "FeatureNorm: loader must hold at least one sample, got none"),
                          (lambda: layer.fit([torch.randn(3, 5)]), "FeatureNorm: mean must have shape \\(5,\\)"),
                          (lambda: layer(torch.randn(3, 5)), "FeatureNorm: mean must have shape \\(5,\\)"),
                          (lambda: layer.fit([torch.randn(4)]), "FeatureNorm: x must have a channel dimension 1")):
        with pytest.raises((ValueError, RuntimeError), match=message):
            call()
    assert layer.count == 0
    layer.fit(iter([torch.randn(9, 4, 3)]))
    torch._dynamo.reset()
    x = torch.randn(2, 4)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    for bad, message in (([torch.ones(3, 2) * 1j], "loader must hold real numbers, got complex64"),
                         ([()], "loader must yield tensors, got tuple"), ([5], "loader must yield tensors, got int"),
                         (5, "loader must be iterable, got int"),
                         (torch.ones(3, 2, 2), "loader must be an iterable of batches, got a Tensor")):
        with pytest.raises((RuntimeError, TypeError), match=f"FeatureNorm: {message}"):
            nn.FeatureNorm(2).fit(bad)
    with pytest.raises(ValueError, match="FeatureNorm: loader must hold at least one sample, got none"):
        nn.FeatureNorm(0).fit([torch.ones(3, 0)])


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_feature_norm_in_a_half_model(half: torch.dtype) -> None:
    """A variance of 1e6 is infinite in float16: mean and variance stay float32, on every path."""
    data = torch.randn(200, 4) * 1000 + 3000
    layer = nn.FeatureNorm(4).fit([data])
    expected = layer(data.to(half))
    state = {name: value.to(half) if value.is_floating_point() else value for name, value in nn.FeatureNorm(4).state_dict().items()}
    assigned = nn.FeatureNorm(4)
    assigned.load_state_dict(state, assign=True)
    made = {"half": layer.to(half), "type": copy.deepcopy(layer).type(half), "constructor": nn.FeatureNorm(4, dtype=half), "load": assigned}
    for path, one in made.items():
        assert one.mean.dtype == one.var.dtype == torch.float32, path
        assert one.count.dtype == torch.int64, path
        assert torch.equal(one.fit([data])(data.to(half)), expected), path
        assert one.count == 200, path
    assert torch.equal(nn.FeatureNorm(4).fit([data]).to(half)(data.to(half)), expected)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.arange(20.0).view(10, 2))


@pytest.mark.parametrize("loader", [torch.utils.data.DataLoader(Stream(), batch_size=3), [torch.arange(20.0).view(10, 2)]],
                         ids=["no length", "length"])
def test_feature_norm_shows_a_bar_on_a_terminal(monkeypatch, loader) -> None:
    pytest.importorskip("rich", reason="the bar is drawn by rich")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert nn.FeatureNorm(2).fit(loader).count == 10
    assert "FeatureNorm" in terminal.getvalue()
    terminal.truncate(0)
    nn.FeatureNorm(2).fit(loader, progress=False)
    assert not terminal.getvalue()


@pytest.mark.parametrize("place", [0, 1])
def test_a_forward_of_an_instance_is_not_folded_away(place: int) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    plain = type(model[place]).forward
    model[place].forward = lambda x: 10 * plain(model[place], x)
    x = torch.randn(6, 4)
    assert torch.equal(fl.fold_batch_norm(model)(x), model(x))
