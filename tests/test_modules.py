"""fastlayers.nn beside torch.nn: same arguments, state, numbers and gradients; and what modules are besides: copies, names."""
from __future__ import annotations

import copy
import io
import pickle
import re

import cases
import pytest
import torch
from tolerances import close
from torch.testing._internal.common_modules import module_db

import fastlayers as fl
from fastlayers import nn

TORCH_TABLE = sorted({info.module_cls.__name__ for info in module_db if info.module_cls.__module__.startswith("torch.nn.modules")}
                     & set(nn.__all__))
BATCH_NORMS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}


def torch_samples(name: str):
    """torch's own table of constructor arguments and inputs for this module, on float32."""
    for info in module_db:
        if info.module_cls is getattr(torch.nn, name):
            for training in (True, False):
                for sample in info.module_inputs_func(info, "cpu", torch.float32, True, training):
                    yield training, sample


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("name", TORCH_TABLE)
def test_torch_module_table(cpu_backend: str, name: str, dtype: torch.dtype) -> None:
    """torch's module table, train and eval: outputs, gradients and buffers after two steps are torch's, for half types torch's in
    float32 from the same rounded values (torch's own half sums are coarser)."""
    wide = torch.promote_types(dtype, torch.float32)
    seen = 0
    for training, sample in torch_samples(name):
        if name == "RReLU" and training:
            continue  # slopes drawn otherwise than torch draws them: tests/test_activations.py
        arguments = sample.constructor_input
        theirs = getattr(torch.nn, name)(*arguments.args, **arguments.kwargs).to(dtype).to(wide).train(training)
        ours = getattr(nn, name)(*arguments.args, **arguments.kwargs).to(dtype).train(training)
        assert isinstance(ours, type(theirs))
        ours.load_state_dict(theirs.state_dict())
        x = sample.forward_input.args[0].detach().to(dtype)
        for _ in range(2):
            results = []
            for module in (theirs, ours):
                leaf = x.to(wide if module is theirs else dtype).clone().requires_grad_()
                y = module(leaf.clone())  # a copy: some samples work in place
                y.backward(torch.linspace(-1, 1, y.numel()).to(dtype).view(y.shape).to(y.dtype))
                results.append([t.to(dtype) for t in (y, leaf.grad, *[parameter.grad for parameter in module.parameters()])])
            for expected, actual in zip(*results, strict=True):
                close(actual, expected, 8 if "BatchNorm" in name else 2)
        for (key, expected), actual in zip(theirs.state_dict().items(), ours.state_dict().values(), strict=True):
            assert actual.dtype == (expected.dtype if key.startswith("running") or not expected.is_floating_point() else dtype)
            close(actual.to(expected.dtype), expected)
        seen += 1
    assert seen


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (4, 6, 5, 3), (4, 6, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_batch_norm_block_is_the_composition(cpu_backend: str, shape, layout: str, training: bool) -> None:
    """dropout(relu(bn(x) + residual)) out of torch's layers, with the mask of the seed; memory format in is memory format out."""
    theirs = getattr(torch.nn, BATCH_NORMS[len(shape)])(6).train(training)
    torch.nn.init.uniform_(theirs.weight)
    torch.nn.init.uniform_(theirs.bias)
    running = [theirs.running_mean.clone(), theirs.running_var.clone()]
    x, residual, dy = (view(torch.randn(shape), layout) for _ in range(3))
    seed = torch.tensor(11)
    leaves = [[view(tensor.clone(), layout).requires_grad_() for tensor in (x, residual)] for _ in range(2)]
    y = fl.functional.batch_norm(
        leaves[0][0], *running, theirs.weight, theirs.bias, training, activation="relu", residual=leaves[0][1],
        dropout=0.2, seed=seed)
    own = torch.autograd.grad(y, [*leaves[0], theirs.weight, theirs.bias], dy)
    z = torch.relu(theirs(leaves[1][0]) + leaves[1][1])
    multiplier = fl.functional.dropout(torch.ones_like(y), 0.2, training, seed=seed)
    expected = torch.autograd.grad(z * multiplier, [*leaves[1], theirs.weight, theirs.bias], dy)
    close(y, z * multiplier, 2)
    for actual, wanted in zip(own, expected, strict=True):
        close(actual, wanted, 16)
    close(running[0], theirs.running_mean)
    close(running[1], theirs.running_var)
    assert y.stride() == torch.relu(leaves[0][0]).stride(), "memory format in is memory format out"


def view(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "sliced":
        wide = torch.randn(x.size(0), x.size(1) + 3, *x.shape[2:])
        wide[:, 1:1 + x.size(1)] = x
        return wide[:, 1:1 + x.size(1)]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return cases.arrange(x, layout)


LEARNABLE = [row.module for row in fl.specs.ACTIVATIONS.values() if row.learnables]
MODULES = {
    **{name: lambda name=name: cases.module(name) for name in nn.__all__ if not re.search("Norm|GLU|^Dropout([23]d)?$", name)},
    **{f"{name}(4)": lambda name=name: cases.module(name, num_parameters=4) for name in LEARNABLE},
    "APL(4 channels, 3 hinges)": lambda: cases.module("APL", num_parameters=4, num_hinges=3),
    "SoftExponential(alpha < 0)": lambda: cases.module("SoftExponential", alpha=-0.3),
    "BinaryStep(straight through)": lambda: nn.BinaryStep(False, dropout=0.3),
    "GELU(tanh, dropout)": lambda: nn.GELU("tanh", dropout=0.3),
    "Sigmoid(dropout)": lambda: nn.Sigmoid(dropout=0.3),
    "Dropout": lambda: nn.Dropout(0.4),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm1d(silu, dropout)": lambda: nn.BatchNorm1d(4, activation="silu", dropout=0.2),
    "BatchNorm1d(PReLU)": lambda: nn.BatchNorm1d(4, activation=nn.PReLU(4)),
    "BatchNorm1d(SReLU)": lambda: nn.BatchNorm1d(4, activation=cases.module("SReLU", num_parameters=4), dropout=0.2),
    "BatchNorm1d(RReLU)": lambda: nn.BatchNorm1d(4, activation=nn.RReLU(), dropout=0.2),
    "BatchNorm1d(no affine)": lambda: nn.BatchNorm1d(4, affine=False, activation="tanh"),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_gradcheck(cpu_backend: str, make, training: bool) -> None:
    """First and second derivatives in float64, parameters included, with the same mask at every call."""
    module = make().double().train(training)
    x = (torch.randn(5, 4, 3, dtype=torch.float64) + 0.05 * torch.sign(torch.randn(5, 4, 3))).requires_grad_()
    names = [name for name, _ in module.named_parameters()]
    values = [value.detach().clone().requires_grad_() for _, value in module.named_parameters()]
    buffers = {name: value.clone() for name, value in module.named_buffers()}

    def function(x, *values):
        torch.manual_seed(3)
        state = dict(zip(names, values, strict=True)) | {name: value.clone() for name, value in buffers.items()}
        return torch.func.functional_call(module, state, (x,))

    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values))


def test_gradcheck_with_residual(cpu_backend: str) -> None:
    x, residual = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    layer = nn.BatchNorm1d(4, activation="gelu", dropout=0.2, track_running_stats=False).double()

    def function(x, residual):
        torch.manual_seed(3)
        return layer(x, residual)

    assert torch.autograd.gradcheck(function, (x, residual))
    assert torch.autograd.gradgradcheck(function, (x, residual))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["identity", "silu", "sigmoid"])
def test_gradcheck_of_bias_and_activation(cpu_backend: str, activation: str, dropout: float) -> None:
    """What is kept for backward is x, y or nothing, and with a scale x whatever the activation."""
    x, residual = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def function(x, bias, scale, residual):
        return fl.functional.bias_activation(
            x, bias, activation, scale=scale, residual=residual, residual_after=residual, dropout=dropout, seed=5, channel_dim=-1)

    assert torch.autograd.gradcheck(function, (x, bias, scale, residual))
    assert torch.autograd.gradcheck(lambda x, bias, residual: function(x, bias, None, residual), (x, bias, residual))


def test_seeds_come_from_torch(cpu_backend: str) -> None:
    """manual_seed repeats a mask, two calls differ, checkpointing recomputes the same one."""
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(1000, requires_grad=True)
    layer = nn.SiLU(dropout=0.5)
    torch.manual_seed(1)
    first, other = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    expected, = torch.autograd.grad(layer(x).sum(), x)
    for reentrant in (True, False):
        torch.manual_seed(1)
        x.grad = None
        checkpoint(lambda t: layer(t).sum(), x * 1, use_reentrant=reentrant).backward()
        assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("name", [name for name in nn.__all__ if not name.startswith("Lazy")])  # nor are torch's copied before an input
def test_modules_copy_pickle_and_print(name: str) -> None:
    module = cases.module(name)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    module.load_state_dict(torch.load(file, weights_only=True))
    assert type(module).__doc__
    assert type(module).__module__.startswith("fastlayers.nn")


def test_a_layer_of_torch_may_become_one_of_ours() -> None:
    """By its class alone, as users of torch.nn's lazy layers are used to."""
    x, layer = torch.randn(8, 4), torch.nn.BatchNorm1d(4)
    expected = layer(x)
    layer.__class__ = nn.BatchNorm1d
    close(layer(x), expected)
    assert repr(layer) == repr(nn.BatchNorm1d(4))
    layer.activation = "relu"
    close(layer(x), expected.relu())


def test_inplace_is_honoured() -> None:
    """Pretrained networks rely on nn.ReLU(inplace=True) changing its input."""
    for layer in (nn.ReLU(inplace=True), nn.LeakyReLU(0.1, True), nn.SiLU(inplace=True)):
        x = torch.randn(10)
        assert layer(x) is x
    x = torch.randn(100)
    assert nn.Dropout(0.5, inplace=True)(x) is x
    assert (x == 0).any()


def test_scalars_and_empty_tensors(cpu_backend: str) -> None:
    for name in nn.__all__:
        if re.search("Norm|GLU|[123]d$|FeatureAlphaDropout", name):  # they need dimensions to be channels, or halves
            continue
        layer = cases.module(name)
        assert layer(torch.tensor(0.5)).shape == ()
        for shape in ((0,), (3, 0, 2)):
            x = torch.empty(shape, requires_grad=True)
            layer(x).sum().backward()
            assert x.grad.shape == shape
    empty = torch.empty(0, 4, requires_grad=True)
    layer, theirs = nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4)
    for module in (layer, theirs):
        module(empty).sum().backward()
    assert torch.equal(layer.num_batches_tracked, theirs.num_batches_tracked)
    close(layer.running_mean, theirs.running_mean)
    close(layer.running_var, theirs.running_var)


@pytest.mark.parametrize("make", [nn.ReLU, nn.PReLU, nn.Identity, nn.Dropout, lambda: nn.BatchNorm1d(3)])
def test_forward_takes_torchs_name(cpu_backend: str, make) -> None:
    assert make()(input=torch.randn(4, 3)).shape == (4, 3)


@pytest.mark.parametrize(("name", "arguments"), [
    ("relu", {}), ("prelu", {"weight": torch.ones(1)}), ("dropout", {"p": 0.0}), ("glu", {}),
    ("threshold", {"threshold": 0.1, "value": 0.0}),
    ("batch_norm", {"running_mean": None, "running_var": None, "training": True}),
])
def test_functions_take_torchs_name(name: str, arguments: dict) -> None:
    x = torch.randn(4, 6)
    close(getattr(fl.functional, name)(input=x, **arguments), getattr(torch.nn.functional, name)(input=x, **arguments))
    with pytest.raises(TypeError):
        getattr(fl.functional, name)(**arguments)


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Identity(dropout=0.5).eval(), nn.Dropout(0.5).eval(), nn.Dropout(0.0)])
def test_what_changes_nothing_hands_back_anything(layer) -> None:
    for x in (torch.randn(3), torch.arange(3), torch.ones(2, dtype=torch.complex64)):
        assert layer(x) is x


def test_an_empty_batch_counts_only_in_training_and_gives_every_gradient(cpu_backend: str) -> None:
    layer = nn.BatchNorm1d(3, activation=nn.PReLU(3))
    layer(torch.randn(0, 3)).sum().backward()
    assert layer.num_batches_tracked == 1
    assert all(torch.equal(p.grad, torch.zeros(3)) for p in layer.parameters())
    batches = torch.tensor(0)
    fl.functional.batch_norm(torch.randn(0, 3), torch.zeros(3), torch.ones(3), num_batches_tracked=batches)
    assert batches == 0


@pytest.mark.parametrize("affine", [False, True])
def test_a_batch_without_channels(cpu_backend: str, affine: bool) -> None:
    layer = nn.BatchNorm1d(0, affine=affine)
    x = torch.randn(5, 0, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (5, 0)
    assert layer.num_batches_tracked == 1
    with pytest.raises(ValueError, match="more than 1 value"):
        layer(torch.randn(1, 0))


def test_numpy_numbers_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert torch.equal(fl.functional.dropout(torch.ones(64), numpy.float32(0.5), seed=numpy.int64(7)),
                       fl.functional.dropout(torch.ones(64), 0.5, seed=7))
    x = torch.randn(4, 6)
    for one in (numpy.int64(0), torch.tensor(0)):
        assert torch.equal(fl.functional.glu(x, one), fl.functional.glu(x, 0))
        assert torch.equal(fl.functional.bias_activation(x, torch.ones(4), channel_dim=one), x + 1)


@pytest.mark.parametrize("call", [
    lambda x, r: nn.BatchNorm1d(6)(x, residual=r), lambda x, r: fl.functional.dropout(x, 0.5, residual_after=r, seed=1),
    lambda x, r: fl.functional.bias_activation(x, None, "silu", residual=r, residual_after=r),
], ids=["batch norm", "dropout", "bias_activation"])
def test_residuals_are_promoted_under_autocast(cpu_backend: str, call) -> None:
    """Beside a float32 shortcut the layer before runs in bfloat16: torch's addition gives float32; each gradient has its own dtype."""
    x, residual = torch.randn(4, 6).bfloat16().requires_grad_(), torch.randn(4, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = call(x, residual)
    assert y.dtype == torch.float32
    close(y, call(x.float(), residual))
    dx, dresidual = torch.autograd.grad(y.sum(), [x, residual])
    assert (dx.dtype, dresidual.dtype) == (torch.bfloat16, torch.float32)
    with pytest.raises(RuntimeError, match="must have the dtype of x"):
        call(x, residual)
