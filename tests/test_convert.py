"""convert and revert: the same objects, state and numbers, with the other library's layers."""
from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import torch
from cases import Twice, bn_relu
from tolerances import close

import fastlayers as fl
from fastlayers import nn

T = torch.nn
DROP_IN = sorted(name for name in nn.__all__ if hasattr(T, name))


def layer(name: str) -> T.Module:
    arguments = {"Threshold": (0.1, 20.0)}.get(name, (4,) if name.endswith("Norm") or name.startswith("BatchNorm") else ())
    return getattr(T, name)(*arguments)


def inside(module: T.Module) -> dict[str, object]:
    """Everything that a module holds; of dictionaries and sets, copies."""
    return {name: value.copy() if isinstance(value, (dict, set)) else value for name, value in vars(module).items()}


def kinds(model: T.Module) -> list[type]:
    return [type(module) for module in model.modules()]


class Residual(T.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = T.Conv2d(4, 4, 3, padding=1, bias=False), T.BatchNorm2d(4)
        self.conv2, self.bn2 = T.Conv2d(4, 4, 3, padding=1, bias=False), T.BatchNorm2d(4, momentum=None)
        self.relu = T.ReLU(inplace=True)
        self.downsample = T.Sequential(T.Conv2d(4, 4, 1), T.BatchNorm2d(4))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


class Attention(T.Module):
    def __init__(self) -> None:
        super().__init__()
        one = T.TransformerEncoderLayer(6, 2, 12, dropout=0.0, activation=T.GELU(), batch_first=True)
        self.encoder = T.TransformerEncoder(one, 2)
        self.head = T.Sequential(T.Linear(6, 8), T.SiLU(), T.Dropout(0.0), T.Linear(8, 6), T.GLU())

    def forward(self, x):
        return self.head(self.encoder(x))


MODELS = {
    "resnet": (lambda: T.Sequential(
        T.Sequential(T.Conv2d(3, 4, 3), T.BatchNorm2d(4), T.ReLU(inplace=True)), T.MaxPool2d(2), Residual(), Residual(),
        T.AdaptiveAvgPool2d(1), T.Flatten(), T.Linear(4, 2)), (3, 3, 8, 8)),
    "mlp": (lambda: T.Sequential(
        T.Linear(6, 8), T.BatchNorm1d(8), T.LeakyReLU(0.2), T.Dropout(0.0), T.Linear(8, 8), T.BatchNorm1d(8, affine=False), T.PReLU(8),
        T.Dropout(0.0), T.Linear(8, 8), T.ELU(inplace=True), T.Dropout(0.0), T.GELU("tanh"), T.Dropout(0.0), T.Linear(8, 2)),
        (5, 6)),
    "lists": (lambda: T.Sequential(T.Sequential(*T.ModuleList([T.Conv1d(2, 3, 3), T.BatchNorm1d(3, track_running_stats=False)])),
                                   T.Sequential(T.Sequential(T.BatchNorm1d(3), T.Mish()), T.Hardtanh(), T.Dropout1d(0.0))), (4, 2, 9)),
    "transformer": (Attention, (2, 5, 6)),
}


def settled(name: str) -> T.Module:
    model = MODELS[name][0]().double()
    for module in model.modules():
        if isinstance(module, T.modules.batchnorm._BatchNorm):
            for value in (module.running_mean, module.running_var, module.weight, module.bias):
                if value is not None:
                    T.init.uniform_(value, 0.5, 2)
    return model


def two_steps(model: T.Module, name: str) -> list[torch.Tensor]:
    """Outputs, gradients, parameters and buffers of two steps of SGD."""
    results = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        x = torch.randn(MODELS[name][1], dtype=torch.float64, generator=torch.Generator().manual_seed(step)).requires_grad_()
        y = model(x)
        optimizer.zero_grad()
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y))
        optimizer.step()
        results += [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]
    return [*results, *(value.clone() for value in model.state_dict().values())]


@pytest.mark.parametrize("fuse", [False, True], ids=["layers", "blocks"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_numbers_and_state_are_torchs(cpu_backend: str, name: str, training: bool, fuse: bool) -> None:
    theirs = settled(name).train(training)
    ours = copy.deepcopy(theirs)
    before, state = kinds(ours), dict(ours.state_dict(keep_vars=True))
    back = fl.convert(copy.deepcopy(theirs), fuse=fuse)
    assert fl.convert(ours, fuse=fuse) is ours
    assert kinds(ours) != before
    for (key, value), (other, expected) in zip(ours.state_dict(keep_vars=True).items(), state.items(), strict=True):
        assert key == other
        assert value is expected
    again = kinds(ours)
    assert kinds(fl.convert(ours, fuse=fuse)) == again
    assert not {getattr(T, kind) for kind in DROP_IN} & set(again)
    assert fl.revert(back) is back
    assert kinds(back) == before
    expected = two_steps(theirs, name)
    for model in (ours, back):
        for value, other in zip(two_steps(model, name), expected, strict=True):
            close(value, other)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("name", DROP_IN)
def test_every_layer_there_and_back(name: str) -> None:
    """It stays the object that it is, and holds the same after both ways."""
    module = layer(name).eval()
    module.note = "mine"
    before = inside(module)
    assert fl.convert(module, fuse=True) is module
    assert type(module) is getattr(nn, name)
    assert not module.training
    fresh = getattr(nn, name)(*((0.1, 20.0) if name == "Threshold" else (4,) if "num_features" in before and "Lazy" not in name else ()))
    assert set(vars(fresh)) - {"_stopped"} <= set(vars(module)), "what its constructor would have set is there"
    assert repr(fresh) == repr(module)
    assert type(pickle.loads(pickle.dumps(module))) is type(module)
    if hasattr(module, "freeze"):
        module.freeze().unfreeze()
    assert fl.revert(module) is module
    assert type(module) is getattr(T, name)
    assert inside(module) == before


@pytest.mark.filterwarnings("ignore")  # weight_norm of old
def test_what_stays() -> None:
    """Hooks of every kind, tied weights, shared layers, attributes, flags; and layers that are not quite torch's."""
    shared, calls = T.Tanh(), []
    model = T.ModuleDict({
        "bn": T.BatchNorm1d(4), "acts": T.ModuleList([shared, T.ReLU(), shared]), "own": Twice(), "prelu": T.PReLU(4), "tied": T.PReLU(4),
        "taken": T.BatchNorm1d(4), "normed": T.utils.parametrizations.weight_norm(T.PReLU(4), dim=None),
        "old": T.PReLU(4), "patched": T.Sigmoid()})
    T.utils.weight_norm(model["old"], dim=None)
    model["tied"].weight = model["prelu"].weight
    model["taken"].activation = T.ReLU()
    model["patched"].forward = lambda x: x + 1
    bn = model["bn"]
    bn.note, bn.bias.requires_grad = {"layer": 1}, False
    bn.register_forward_hook(lambda *_: calls.append("forward"))
    bn.register_forward_pre_hook(lambda *_: calls.append("pre"))
    bn.register_full_backward_hook(lambda *_: calls.append("backward"))
    bn.register_state_dict_post_hook(lambda *_: calls.append("state"))
    bn.register_load_state_dict_post_hook(lambda *_: calls.append("load"))
    elsewhere, optimizer = [bn, shared], torch.optim.SGD(model.parameters(), lr=0.1)
    keys, before = list(model.state_dict()), kinds(model)
    calls.clear()
    fl.convert(model, fuse=True)
    assert list(model.state_dict()) == keys
    model.load_state_dict(model.state_dict())
    x = torch.randn(6, 4, requires_grad=True)
    y = model["prelu"](model["tied"](bn(x)))
    y.square().sum().backward()
    assert calls == ["state", "state", "load", "pre", "forward", "backward"]
    before_step = model["prelu"].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model["tied"].weight, before_step)
    assert [type(one) for one in elsewhere] == [nn.BatchNorm1d, nn.Tanh]
    assert model["acts"][0] is model["acts"][2] is shared
    assert bn.note == {"layer": 1}
    assert not bn.bias.requires_grad
    assert type(model["own"]) is Twice
    assert type(model["taken"]) is T.BatchNorm1d, "its activation is somebody else's to apply"
    assert type(model["normed"]).__name__ == "ParametrizedPReLU"
    assert type(model["old"]) is nn.PReLU
    torch.testing.assert_close(model["old"](x), T.functional.prelu(x, model["old"].weight))
    assert torch.equal(model["patched"](x), x + 1)
    fl.revert(model)
    assert kinds(model) == before


LACKING = {
    "activation": (lambda: nn.SReLU(), "SReLU at b"),
    "layers": (lambda: T.Sequential(T.Linear(3, 3), T.Sequential(nn.SReLU(), nn.SwiGLU())), "SReLU at b.1.0, SwiGLU at b.1.1"),
    "block": (lambda: T.Sequential(nn.BatchNorm1d(3, activation="relu")), "BatchNorm1d with activation=ReLU() at b.0"),
    "dropout": (lambda: T.Sequential(nn.ReLU(dropout=0.5)), "ReLU with dropout=0.5 at b.0"),
    "memory": (lambda: T.ModuleDict({"bn": nn.BatchNorm2d(3, memory="inplace", skip_nonfinite=True)}),
               "BatchNorm2d with skip_nonfinite=True at b.bn"),
    "frozen": (lambda: T.Sequential(nn.BatchNorm2d(3).freeze()), "BatchNorm2d with frozen=True at b.0"),
    "convention": (lambda: nn.Dropout(0.5, convention="eval"), "Dropout with convention='eval' at b"),
    "gate": (lambda: nn.GLU(activation="silu"), "GLU with activation='silu' at b"),
    "subclass": (lambda: T.Sequential(type("Own", (nn.ReLU,), {})()), "Own at b.0"),
    "statistics": (lambda: nn.FeatureNorm(3), "FeatureNorm at b"),
    "folded": (lambda: fl.fold_batch_norm(T.Sequential(T.Linear(3, 3), T.BatchNorm1d(3)).eval()), "FoldedBatchNorm at b.1"),
    "half of a block": (lambda: fl.convert(T.Sequential(*bn_relu()), fuse=True)[1:], "Absorbed at b.1"),
    "other half of a block": (lambda: fl.convert(T.Sequential(*bn_relu()), fuse=True)[:1], "BatchNorm1d with activation=ReLU() at b.0"),
    "something between": (lambda: fl.convert(T.Sequential(*bn_relu()), fuse=True).insert(1, T.Flatten()),
                          "BatchNorm1d with activation=ReLU() at b.0, Absorbed at b.2"),
    "block's new activation": (lambda: changed(nn.SReLU()), "SReLU at b.0.activation"),
}


def changed(activation: T.Module) -> T.Module:
    model = fl.convert(T.Sequential(*bn_relu()), fuse=True)
    model[0].activation = activation
    return model


@pytest.mark.parametrize("case", LACKING)
def test_revert_refuses_what_torch_lacks(case: str) -> None:
    """All of it is named; nothing has changed."""
    make, message = LACKING[case]
    model = T.ModuleDict({"a": fl.convert(T.Sequential(*bn_relu(), T.Tanh()), fuse=True), "b": make()})
    before, held = kinds(model), [inside(module) for module in model.modules()]
    with pytest.raises(ValueError, match=r"^revert: model must hold no layer that torch\.nn lacks, got ") as caught:
        fl.revert(model)
    assert str(caught.value).endswith(f", got {message}")
    assert kinds(model) == before
    assert [inside(module) for module in model.modules()] == held


@pytest.mark.filterwarnings("ignore")  # torch.ao
def test_convert_refuses() -> None:
    """What is no model; a quantized one, whose layers may meet quantized tensors; constants that a block cannot have."""
    for function in (fl.convert, fl.revert):
        with pytest.raises(TypeError, match=f"^{function.__name__}: model must be a torch.nn.Module, got list$"):
            function([T.ReLU()])
    with pytest.raises(ValueError, match=r"got SReLU$"):
        fl.revert(nn.SReLU())
    quantized = T.Sequential(torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8), T.ReLU(), torch.ao.nn.quantized.DeQuantize())
    dynamic = T.Sequential(torch.ao.nn.quantized.dynamic.Linear(3, 3), T.ReLU())
    with pytest.raises(ValueError, match=r"^convert: model must not be quantized, got Quantize at 0$"):
        fl.convert(quantized)
    assert type(quantized[1]) is T.ReLU
    assert type(fl.convert(dynamic)[1]) is nn.ReLU
    bad = T.Sequential(T.BatchNorm1d(3), T.Softshrink(-1.0))
    with pytest.raises(ValueError, match=r"^convert: lambd must be "):
        fl.convert(bad, fuse=True)
    assert kinds(bad) == [T.Sequential, T.BatchNorm1d, T.Softshrink]


@pytest.mark.parametrize("fuse", [False, True], ids=["layers", "blocks"])
def test_compiled_training(fuse: bool) -> None:
    """One graph, torch's numbers."""
    torch._dynamo.reset()
    theirs = settled("mlp")
    ours = torch.compile(fl.convert(copy.deepcopy(theirs), fuse=fuse), backend="aot_eager", fullgraph=True)
    for value, expected in zip(two_steps(ours, "mlp"), two_steps(theirs, "mlp"), strict=True):
        close(value, expected)


def test_a_compiled_model_is_compiled_again() -> None:
    """By torch.compile or by its method; after convert and after revert."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    class Net(T.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = T.Sequential(T.Linear(3, 4), T.BatchNorm1d(4), T.Tanh(), T.Dropout(0.0))

        def forward(self, x):
            return self.layers(x)

    model, x = Net(), torch.randn(5, 3)
    for way in (lambda: torch.compile(model, backend=backend, fullgraph=True), lambda: model):
        call = way()
        if call is model:
            torch._dynamo.reset()
            model.compile(backend=backend, fullgraph=True)
        for fuse in (False, True):
            graphs.clear()
            expected = call(x)
            fl.convert(call, fuse=fuse)
            torch.testing.assert_close(call(x), expected)
            assert "autograd_function_apply" in str(graphs[-1].graph)
            assert isinstance(model.layers[2], nn.Tanh) is not fuse
            fl.revert(call)
            torch.testing.assert_close(call(x), expected)


@pytest.mark.filterwarnings("ignore")  # torch.jit
def test_scripted_models_stay() -> None:
    scripted = torch.jit.script(T.Sequential(T.Linear(3, 4), T.BatchNorm1d(4), T.ReLU()))
    before = kinds(scripted)
    assert kinds(fl.convert(scripted, fuse=True)) == before
    assert kinds(fl.revert(scripted)) == before


def test_fast_path_of_transformers_stays() -> None:
    model = Attention().eval()
    x = torch.randn(2, 5, 6)
    with torch.no_grad():
        expected = model(x)
        fl.convert(model)
        assert type(model.encoder.layers[0].activation) is nn.GELU
        with mock.patch("torch._transformer_encoder_layer_fwd", wraps=torch._transformer_encoder_layer_fwd) as fast:
            torch.testing.assert_close(model(x), expected)
        assert fast.call_count == 2


def test_models_without_memory() -> None:
    with torch.device("meta"):
        model = T.Sequential(T.Linear(3, 4), *bn_relu(), T.Dropout(0.5), T.PReLU(4))
    weight = model[4].weight
    fl.convert(model, fuse=True)
    assert all(value.is_meta for value in model.state_dict().values())
    assert model[4].weight is weight
    model.to_empty(device="cpu")
    for module in model:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert model(torch.randn(5, 3)).isfinite().all()
    assert kinds(fl.revert(model)) == [T.Sequential, T.Linear, T.BatchNorm1d, T.ReLU, T.Dropout, T.PReLU]


def test_lazy_layers_become_what_they_would() -> None:
    model = fl.convert(T.Sequential(T.LazyLinear(4), T.LazyBatchNorm1d(), T.ReLU()), fuse=True)
    model(torch.randn(5, 3))
    assert [type(module) for module in model] == [T.Linear, nn.BatchNorm1d, nn.ReLU]
    fl.convert(model, fuse=True)
    assert type(model[2]) is not nn.ReLU, "its sizes are known now"
    model = fl.revert(fl.convert(T.Sequential(T.LazyBatchNorm1d(), T.ReLU())))
    model(torch.randn(5, 3))
    assert type(model[0]) is T.BatchNorm1d


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_models(dtype: torch.dtype, affine: bool) -> None:
    """Running statistics are float32 in ours, and of the weight's dtype, which torch needs, afterwards."""
    theirs = T.Sequential(T.BatchNorm2d(3, affine=affine), T.SyncBatchNorm(3, affine=affine), T.ReLU()).to(dtype).eval()
    x = torch.randn(2, 3, 4, 4).to(dtype)
    ours = fl.convert(copy.deepcopy(theirs), fuse=True)
    assert ours[0].running_mean.dtype == ours[1].running_var.dtype == torch.float32
    close(ours(x), theirs(x))
    ours[0].train()(x)
    fl.revert(ours)
    assert ours[0].running_mean.dtype == (dtype if affine else torch.float32)
    ours(x)
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.filterwarnings("ignore")  # torch.jit
@pytest.mark.parametrize("name", nn.__all__)
def test_scripting_is_refused_in_words(name: str) -> None:
    """And is for after revert(), for what torch can script of its own."""
    layer = getattr(nn, name)(*{"Threshold": (0.1, 20.0)}.get(name, (4,) if "Norm" in name and "Lazy" not in name else ()))
    with pytest.raises(RuntimeError, match=rf"^{name}: torch\.jit\.script must be given torch\.nn's layers, which fastlayers\.revert"):
        torch.jit.script(T.Sequential(T.Flatten(), layer))
    if name in DROP_IN and "Lazy" not in name and name != "SyncBatchNorm":
        torch.jit.script(fl.revert(T.Sequential(T.Flatten(), layer)))
