"""torch.compile, torch.export and opcheck: every kernel is one node, without graph breaks."""
from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import re

import cases
import conftest
import pytest
import torch
from tolerances import close
from torch.utils._pytree import tree_map_only

import fastlayers as fl
from fastlayers import activation_argument, nn
from fastlayers.nn import activations
from fastlayers.reference.gated import empty_halved
from fastlayers.specs import ACTIVATIONS

MODULES = {
    **{name: lambda name=name: cases.module(name) for name in nn.__all__ if not re.search("Norm|GLU|^Dropout1d$", name)},
    "ReLU(dropout)": lambda: nn.ReLU(dropout=0.2),
    "PReLU(4)": lambda: nn.PReLU(4),
    "APL(4, 3 hinges)": lambda: cases.module("APL", num_parameters=4, num_hinges=3),
    "GLU": lambda: nn.GLU(1),
    "GLU(PReLU, dim 0)": lambda: nn.GLU(0, activation="prelu"),
    "SwiGLU(dropout)": lambda: nn.SwiGLU(1, gate_first=True, dropout=0.2),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "BatchNorm2d(relu, dropout)": lambda: nn.BatchNorm2d(4, activation="relu", dropout=0.1),
    "BatchNorm2d(PReLU, momentum=None)": lambda: nn.BatchNorm2d(4, momentum=None, activation=nn.PReLU(4)),
    "BatchNorm2d(SReLU, dropout)": lambda: nn.BatchNorm2d(4, activation=cases.module("SReLU", num_parameters=4), dropout=0.1),
    "BatchNorm2d(RReLU)": lambda: nn.BatchNorm2d(4, activation=nn.RReLU()),
    "BatchNorm2d(no affine, no statistics)": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False, activation="silu"),
}


def train(module: torch.nn.Module, call, x: torch.Tensor) -> list[torch.Tensor]:
    """Two training steps and one evaluation: outputs, gradients, buffers. The eager run and the compiled one draw the same seeds."""
    results = []
    for training in (True, True, False):
        module.train(training)
        torch.manual_seed(5)
        leaf = x.clone().requires_grad_()
        y = call(leaf)
        y.sum().backward()
        results += [y.detach(), leaf.grad, *[p.grad.clone() for p in module.parameters()], *[b.clone() for b in module.buffers()]]
        module.zero_grad()
    return results


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_fullgraph(make, layout: str) -> None:
    """Forward and backward compile without a graph break and compute what eager mode does, running statistics included."""
    torch._dynamo.reset()
    x = cases.arrange(torch.randn(6, 4, 3, 5), layout)
    eager, compiled = make(), make()
    compiled.load_state_dict(eager.state_dict())
    eager_results = train(eager, eager, x)
    # aot_eager traces forward and backward as inductor does, and draws random seeds from torch's generator as eager mode does
    compiled_results = train(compiled, torch.compile(compiled, fullgraph=True, backend="aot_eager"), x)
    for expected, actual in zip(eager_results, compiled_results, strict=True):
        close(actual, expected)
        assert actual.stride() == expected.stride()


@pytest.mark.parametrize("name", ["BatchNorm2d(relu, dropout)", "BatchNorm2d(SReLU, dropout)"])
def test_batch_norm_of_triton_trains_compiled(name: str) -> None:
    """Its sums of a channel lie in one tensor, which results of an op may not."""
    torch._dynamo.reset()
    with conftest.running_on("triton") as device:
        x, eager, compiled = torch.randn(6, 4, 3, 5, device=device), MODULES[name]().to(device), MODULES[name]().to(device)
        compiled.load_state_dict(eager.state_dict())
        results = train(eager, eager, x), train(compiled, torch.compile(compiled, fullgraph=True, backend="aot_eager"), x)
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("text", ["leaky_relu(0.3)", "celu(alpha=2)", "threshold(0.1, 2)", "rrelu", "elu"])
def test_names_compile_before_anything_ran(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An activation by name, with constants or drawn, in a process in which its row has never been looked at."""
    torch._dynamo.reset()
    name = text.partition("(")[0]
    fresh = dataclasses.replace(ACTIVATIONS[name])
    monkeypatch.setitem(ACTIVATIONS, name, fresh)
    if name in activation_argument._DEFAULTS:
        monkeypatch.setitem(activation_argument._DEFAULTS, name, activation_argument._DEFAULTS[name]._replace(row=fresh))
    x = torch.randn(6, 4)

    def call(x: torch.Tensor) -> torch.Tensor:
        return fl.functional.bias_activation(x, None, text, seed=5 if name == "rrelu" else None)

    y = torch.compile(call, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(y, call(x))


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_dispatch_modes_see_operators(make) -> None:
    """make_fx records what runs: a kernel called directly would leave its result in the graph as a constant."""
    from torch.fx.experimental.proxy_tensor import make_fx

    module = make().eval()
    x, other = torch.randn(2, 6, 4, 3, 5)

    def gradient(x: torch.Tensor) -> torch.Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(module(leaf).square().sum(), leaf)[0]

    for call in (module, gradient):
        torch.testing.assert_close(make_fx(call)(x)(other), call(other))


@pytest.mark.parametrize("make", [
    lambda: nn.BatchNorm1d(4, activation="relu"), lambda: nn.SiLU(), lambda: nn.SReLU(), lambda: nn.GLU(), lambda: nn.Dropout(0.5),
])
@pytest.mark.parametrize("gradients", [False, True])
def test_jit_trace(make, gradients: bool) -> None:
    """What TensorBoard's add_graph and torch.jit.save ask for: torch's operators alone, also in a file, for any size of the batch."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), make()).eval()
    x, other, file = torch.randn(6, 4), torch.randn(9, 4), io.BytesIO()
    with torch.set_grad_enabled(gradients):
        torch.jit.save(torch.jit.trace(module, x), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    kinds = {node.kind() for node in loaded.inlined_graph.nodes()}
    assert all(re.match("aten::|prim::(?!Python)", kind) for kind in kinds), kinds
    torch.testing.assert_close(loaded(other), module(other))


CHANGING = {
    "LeakyReLU": nn.LeakyReLU, "ELU": nn.ELU, "Softplus": nn.Softplus, "Hardtanh": lambda value: nn.Hardtanh(-value, value),
    "RReLU": lambda value: nn.RReLU(value / 2, value), "RReLU in evaluation": lambda value: nn.RReLU(value / 2, value).eval(),
    "SiLU(dropout)": lambda value: nn.SiLU(dropout=value), "GLU": lambda value: nn.GLU(activation=nn.CELU(value), dropout=value),
    "BatchNorm1d": lambda value: nn.BatchNorm1d(4, value, value, activation=nn.Threshold(value, 0.5), dropout=value),
    "Dropout": nn.Dropout, "Dropout that scales in evaluation": lambda value: nn.Dropout(value, convention="eval").eval(),
    "AlphaDropout": nn.AlphaDropout, "FeatureAlphaDropout": nn.FeatureAlphaDropout, "Dropout1d": nn.Dropout1d,
}


@pytest.mark.parametrize("make", CHANGING.values(), ids=CHANGING)
def test_a_constant_that_changes(make) -> None:
    """From the second value on torch.compile keeps a number symbolic."""
    torch._dynamo.reset()
    x, results = torch.randn(6, 4), []
    for value in (0.1, 0.2, 0.3):
        eager = make(value)
        for call in (eager, torch.compile(make(value).train(eager.training), fullgraph=True, backend="aot_eager")):
            torch.manual_seed(5)
            leaf = x.clone().requires_grad_()
            y = call(leaf)
            results.append([y, *torch.autograd.grad(y.square().sum(), leaf)])
        torch.testing.assert_close(*results[-2:])


def test_a_layer_that_warns_compiles() -> None:
    y = torch.compile(nn.Dropout2d(0.5), fullgraph=True, backend="aot_eager")(torch.ones(6, 4, 5))
    assert set(y.unique().tolist()) == {0.0, 2.0}


def test_selective_checkpointing() -> None:
    """Kernels whose results are kept, and kernels that run again, draw the same mask and move running statistics once."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    def kept(context, op, *args, **kwargs) -> CheckpointPolicy:
        chosen = op is torch.ops.fastlayers.epilogue_forward.default
        return CheckpointPolicy.MUST_SAVE if chosen else CheckpointPolicy.PREFER_RECOMPUTE

    results = []
    for selective in (False, True):
        torch.manual_seed(3)
        net = torch.nn.Sequential(nn.BatchNorm2d(4, activation="silu"), nn.GELU(dropout=0.3), nn.PReLU())
        x = torch.randn(6, 4, 3, 5, requires_grad=True)
        y = checkpoint(net, x, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(kept)) if selective else net(x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, *[p.grad for p in net.parameters()], *net.buffers()])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_inductor_and_dynamic_batch() -> None:
    """The default compiler, with a batch size that changes."""
    torch._dynamo.reset()
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16, activation="gelu", dropout=0.2), torch.nn.Linear(16, 4), nn.SiLU())
    compiled = torch.compile(net, fullgraph=True, dynamic=True)
    for batch in (16, 24, 7):
        compiled(torch.randn(batch, 8)).square().mean().backward()
    net.eval()
    x = torch.randn(5, 8)
    torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.parametrize("make", [
    nn.SiLU, lambda: nn.PReLU(3), lambda: nn.Dropout(0.3), lambda: nn.BatchNorm1d(3, activation=nn.PReLU(3), dropout=0.1),
    lambda: nn.BatchNorm1d(3, activation="gelu").eval(),
], ids=["silu", "prelu", "dropout", "block", "evaluation"])
def test_dynamic_shapes_of_any_strides(make) -> None:
    """Sizes stay symbolic from the first call on; x transposed, sliced, expanded."""
    layer = make()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for x in (torch.randn(3, 5).t(), torch.randn(14, 3)[::2], torch.randn(3).expand(9, 3), torch.randn(3, 6, 4).transpose(0, 1)):
        torch.manual_seed(1)
        wanted = layer(x.detach().requires_grad_())
        torch.manual_seed(1)
        got = compiled(x.detach().requires_grad_())
        got.sum().backward()
        assert got.stride() == wanted.stride()
        if getattr(layer, "dropout", 0) == 0 and not isinstance(layer, nn.Dropout):  # compiled and eager code draw different seeds
            torch.testing.assert_close(got, wanted)


def test_compiled_dropout_draws_new_masks() -> None:
    torch._dynamo.reset()
    layer = torch.compile(nn.Dropout(0.5), fullgraph=True)
    x = torch.ones(1000, requires_grad=True)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    assert torch.equal(torch.autograd.grad(first.sum(), x)[0], first)


def test_export() -> None:
    """An exported program holds each kernel as one node, and leaves the running statistics alone in eval mode."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, activation="relu"), nn.SiLU()).eval()
    x = torch.randn(2, 3, 8, 8)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))
    names = [str(node.target) for node in program.graph.nodes if "fastlayers" in str(node.target)]
    assert names == ["fastlayers.epilogue_forward.default"] * 2
    assert not program.graph_signature.buffers_to_mutate


class _Everything(torch.nn.Module):
    """Every op that has a derivative, with and without scale, residuals and learnable parameters."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm, self.prelu = nn.BatchNorm2d(6, activation="silu", dropout=dropout), nn.PReLU(6)
        self.rest = torch.nn.Sequential(nn.GELU(dropout=dropout), nn.SReLU(), nn.Dropout2d(dropout), nn.GLU(1, activation="swish"))

    def forward(self, x):
        y = self.prelu(self.norm(x, residual=x))
        y = fl.functional.bias_activation(y, self.norm.bias, "tanh", scale=self.norm.weight, residual=x, residual_after=x)
        return self.rest(fl.functional.bias_activation(y, None, residual=x))


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_exported_programs_train(dropout: float, training: bool) -> None:
    """As stages of a pipeline do: gradients and running statistics are those of the model."""
    net = _Everything(dropout).train(training)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(0.5, 1.5)
    x = torch.randn(4, 6, 5, 5, requires_grad=True)
    exported, results = torch.export.export(copy.deepcopy(net), (x.detach(),)).module(), []
    for one in (net, exported):
        torch.manual_seed(1)
        y = one(x)
        parameters = [one.get_parameter(name) for name, _ in net.named_parameters()]
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *parameters]), *(one.get_buffer(n) for n, _ in net.named_buffers())])
    for ours, exports in zip(*results, strict=True):
        torch.testing.assert_close(exports, ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("make", [lambda: nn.BatchNorm2d(6, activation="silu"), nn.GELU, lambda: nn.GLU(1), lambda: nn.PReLU(6)],
                         ids=["batch norm", "gelu", "glu", "prelu"])
def test_exported_programs_take_x_and_gradients_of_any_strides(make, layout: str, dtype: torch.dtype) -> None:
    """sum()'s, which are one number, and those of a layer that computes in the other order of memory; exported for contiguous x."""
    net, x = make().to(dtype), cases.arrange(torch.randn(4, 6, 5, 5, dtype=dtype), layout).requires_grad_()
    exported = torch.export.export(copy.deepcopy(net), (x.detach().contiguous(),)).module()
    expected = net(x)
    dy = torch.randn(expected.shape, dtype=dtype)
    for given in (torch.ones(()).expand(dy.shape), dy, dy.to(memory_format=torch.channels_last), torch.cat([dy, dy], -1)[..., ::2]):
        ours, exports = (torch.autograd.grad(y, x, given, retain_graph=True)[0] for y in (expected, exported(x)))
        torch.testing.assert_close(exports, ours)


def _arguments(dtype: torch.dtype, layout: str):
    inputs = cases.make_inputs(cases.Case("prelu", (4, 6, 5, 3), layout, dtype))
    rstd = inputs.scale.abs()
    running = [torch.zeros_like(rstd), torch.ones_like(rstd), torch.tensor(0)]
    shared = (inputs.residual, inputs.parameters, inputs.seed, "prelu", (), 0.25)
    affine = (inputs.scale, inputs.shift)
    every, some = (True,) * 5, (True, False, False, True, False)
    yield "epilogue_forward", (inputs.x, *inputs.epilogue)
    yield "epilogue_backward", (inputs.dy, inputs.x, *inputs.epilogue, False, every)
    yield "epilogue_backward", (inputs.dy, inputs.x, *inputs.epilogue, False, some)
    sample = inputs.x.numel() // inputs.x.size(0)
    yield "epilogue_forward", (inputs.x, *inputs.epilogue, inputs.residual, sample, [0.5, 2.0, -1.0])
    yield "epilogue_backward", (inputs.dy, inputs.x, *inputs.epilogue, False, every, sample, [0.5, 2.0, -1.0])
    yield "dropout_mask", (5, 7, inputs.seed, 0.25)
    yield "epilogue_inverse", (inputs.x, *inputs.epilogue[:5], "prelu", (), 1)
    yield "batch_norm_statistics", (inputs.x, 1)
    yield "batch_norm_forward", (inputs.x, *affine, *running, *shared, True, 0.1, 1e-5, 1)
    yield "batch_norm_forward", (inputs.x, None, None, None, None, None, *shared, True, None, 1e-5, 1)
    yield "batch_norm_backward", (inputs.dy, inputs.x, inputs.mean, rstd, *affine, *shared, True, 1, every)
    yield "batch_norm_backward", (inputs.dy, inputs.x, inputs.mean, rstd, None, None, *shared, False, 1, some)
    gated = (inputs.parameters[:, :1], inputs.seed, "prelu", (), 0.25, 1, True)
    yield "gated_forward", (inputs.x, *gated)
    dy = torch.empty_like(empty_halved(inputs.x, 1)).normal_()
    yield "gated_backward", (dy, inputs.x, *gated, (True, True))
    yield "gated_backward", (dy, inputs.x, None, None, "silu", (), 0.0, 1, False, (True, False))
    grads = [inputs.dy, inputs.dy.flatten()[:7].clone()]
    params, moments = [grad.clone() for grad in grads], [torch.zeros_like(grad) for grad in grads + grads]
    yield "gradient_norm", (grads,)
    yield "optimizer_step", (
        "adamw", params, grads, moments, [torch.zeros(()), torch.ones(())], [], [grad.float() for grad in grads],
        [1e-3, 0.1, 0.9, 0.999, 1e-8], [False, False], [torch.tensor(0.1), None, None, None, None], None, None,
        torch.tensor([4.0, 0.0], dtype=torch.float64), torch.tensor(5), 1.0, 0.9)
    yield "batch_norm_backward_input", (inputs.dy, inputs.x, inputs.mean, rstd, *affine, *shared, 1, rstd, rstd)


OPCHECKS = [
    *itertools.product(["reference", "cpp"], ["contiguous", "channels_last"], [torch.float32, torch.bfloat16]),
    *[(name, *case) for name in ("triton", "cuda") for case in (("contiguous", torch.float32), ("channels_last", torch.bfloat16))],
]


@pytest.mark.parametrize(("name", "layout", "dtype"), OPCHECKS, ids=str)
def test_opcheck(name: str, layout: str, dtype: torch.dtype) -> None:
    """Schema, fake kernel and tracing of every op, on every backend."""
    with conftest.running_on(name) as device:
        for op, arguments in _arguments(dtype, layout):
            arguments = tree_map_only(torch.Tensor, lambda x: x.to(device), arguments)
            torch.library.opcheck(getattr(torch.ops.fastlayers, op).default, arguments)


def test_every_op_is_checked() -> None:
    checked = {op for op, _ in _arguments(torch.float32, "contiguous")}
    from fastlayers.reference import __all__ as interface

    assert checked == set(interface)
    assert all(hasattr(torch.ops.fastlayers, op) for op in interface)


@pytest.mark.parametrize("layer", [
    nn.ReLU(), nn.LeakyReLU(0.2), nn.SiLU(), nn.PReLU(16), nn.Dropout(0.3), nn.AlphaDropout(0.3), nn.RReLU(), nn.PReLU(16, dropout=0.3),
    nn.BatchNorm1d(16), nn.BatchNorm1d(16, activation=nn.PReLU(16), dropout=0.3), nn.BatchNorm1d(16).freeze(),
], ids=repr)
def test_compiled_autograd_takes_the_nodes_of_an_eager_forward(layer) -> None:
    from torch._dynamo import compiled_autograd

    model, x = torch.nn.Sequential(torch.nn.Linear(8, 16), layer), torch.randn(4, 8)
    torch.manual_seed(3)
    expected = torch.autograd.grad(model(x).square().sum(), [p for p in model.parameters() if p.requires_grad])
    torch.manual_seed(3)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        model(x).square().sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_every_activation_class_compiles_in_one_process() -> None:
    """torch.compile gives up a code object after eight recompilations, and with fullgraph=True says so."""
    torch._dynamo.reset()
    for name in activations.__all__:
        layer, x = cases.module(name).eval(), torch.randn(4, 8)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))


class Chosen(torch.nn.Module):
    """A layer of rows whose number only the data say, as where experts are given the tokens that are theirs."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return self.layer(x[chosen])


@pytest.mark.parametrize("training", [True, False])
def test_dropout_of_rows_whose_number_only_the_data_say(training: bool) -> None:
    x, chosen = torch.randn(10, 4), torch.arange(10) > 3
    for layer in (nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.SiLU(dropout=0.5)):
        module = Chosen(layer).train(training)
        exported = torch.export.export(module, (x, chosen)).module()
        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
            compiled = torch.compile(module, fullgraph=True)
            for run in (exported, compiled):
                torch.manual_seed(3)
                y = run(x, chosen)
                assert y.shape == (6, 4)
                assert run(x, torch.arange(10) < 0).shape == (0, 4)
                if not training:
                    torch.testing.assert_close(y, module(x, chosen))
