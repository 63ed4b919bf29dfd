"""Gated units: every activation as a gate, on every backend, against float64, torch.nn.GLU and the composition."""
from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import cases
import pytest
import torch
from tolerances import assert_within, gradient_bound, moved, rounding, steepest, sum_bound, unit, value_bound

import fastlayers as fl
from fastlayers import functional as F
from fastlayers import nn, reference
from fastlayers.backends import select
from fastlayers.nn.activations import from_name
from fastlayers.reference import activations
from fastlayers.reference.dropout import mask_like, multiplier_like
from fastlayers.reference.dtypes import accumulate_dtype
from fastlayers.reference.epilogue import activation_arguments
from fastlayers.reference.gated import empty_halved
from fastlayers.specs import ACTIVATIONS

ROWS = [row for row in ACTIVATIONS.values() if not row.random]
INPUT_ROUNDING = 1 / 8  # b is exact: half a unit of it, where a pre-activation has four


@dataclass(frozen=True)
class Case:
    """One call of gated_forward and gated_backward."""

    activation: str
    shape: tuple[int, ...]
    dim: int
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    gate_first: bool = False
    p: float = 0.25

    def __str__(self) -> str:
        parts = [self.activation, "x".join(map(str, self.shape)), f"dim{self.dim}", self.layout, str(self.dtype).removeprefix("torch.")]
        return "-".join(parts + ["gate_first"] * self.gate_first + [f"p{self.p}"] * (self.p > 0))


EVERY_ROW = [Case(row.name, (2, 4, 32), dim, dtype) for row in ROWS for dtype in cases.DTYPES for dim in (1, 2)]
EVERY_ROW += [Case(row.name, (4, 3, 5), 0, gate_first=True, p=0.0) for row in ROWS]
SHAPES = (
    [((2, 2), 1), ((1, 6), 1), ((5, 2), 1), ((4, 6), 0), ((3, 2, 5), 1), ((7, 16), 1), ((3, 254), 1), ((2, 8, 7, 7), 1), ((129, 10), 1)]
    + [((1, size), 1) for size in (8190, 8192, 8194, 200006)] + [((40, 16, 6, 8), 1), ((4098, 2), 1), ((2, 4096), 1), ((3, 4100), 1)]
    + [((0, 4), 1), ((3, 0), 1), ((2, 4, 0), 1), ((8,), 0)]
)
EVERY_SHAPE = (
    [Case(name, shape, dim, dtype, gate_first=name == "prelu") for shape, dim in SHAPES
     for name, dtype in (("silu", torch.bfloat16), ("prelu", torch.float32))]
    + [Case("silu", (4, 6, 2, 8), dim, dtype, layout, p=p) for dim in range(4) for dtype in (torch.float32, torch.float16)
       for layout, p in (("channels_last", 0.25), ("permuted", 0.0))]
    + [Case("sigmoid", (4, 16, 3, 3), 1, dtype, "channels_last", p=p) for dtype in (torch.float64, torch.bfloat16) for p in (0.0, 1.0)]
)


@dataclass
class Inputs:
    """The tensors of a case as kernels take them, and its factors in float64."""

    x: torch.Tensor
    dy: torch.Tensor
    rest: tuple
    """Everything after x in the arguments of gated_forward."""

    def wide(self) -> Inputs:
        """The same numbers in float64, for the oracle."""
        parameters, *rest = self.rest
        return Inputs(self.x.double(), self.dy.double(), (parameters if parameters is None else parameters.double(), *rest))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor, list]:
        """(a, b, the activation's arguments)."""
        parameters, _, name, constants, _, dim, gate_first = self.rest
        a, b = self.x.tensor_split(2, dim)
        a, b = (b, a) if gate_first else (a, b)
        return a, b, activation_arguments(b, parameters, name, constants, None, dim)


def make_inputs(case: Case) -> Inputs:
    """Random tensors for a case, spread over [-4, 4]."""
    row = ACTIVATIONS[case.activation]
    x = cases.arrange(torch.randn(case.shape, dtype=torch.float64) * 2, case.layout).to(case.dtype)
    y = empty_halved(x, case.dim)
    dy = torch.empty_like(y).copy_(torch.randn(y.shape, dtype=torch.float64))
    constants = tuple(float(constant.default) for constant in row.constants)
    seed = torch.tensor(0x123456789ABCDEF) if case.p else None
    return Inputs(x, dy, (cases.learnable(row, 1, accumulate_dtype(x)), seed, row.name, constants, case.p, case.dim, case.gate_first))


def curves(wide: Inputs, narrow: Inputs) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """(f(b), [(how large, how steep) df/db and each df/d(parameter) are within what rounding may move b by])."""
    _, b, arguments = wide.factors()
    name, reach = wide.rest[2], moved(narrow.x, b.abs() * INPUT_ROUNDING)
    count = 1 + (0 if wide.rest[0] is None else wide.rest[0].size(0))

    def slope(z: torch.Tensor, k: int) -> torch.Tensor:
        return activations.function(name, "derivative")(z, *arguments)[k] + torch.zeros_like(z)

    def bend(z: torch.Tensor, k: int) -> torch.Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad((slope(z, k) + 0 * z).sum(), z)[0]

    shapes = [(steepest(lambda z, k=k: slope(z, k), b, reach), steepest(lambda z, k=k: bend(z, k), b, reach)) for k in range(count)]
    return activations.function(name)(b, *arguments), shapes


@pytest.mark.parametrize("case", EVERY_ROW + EVERY_SHAPE, ids=str)
def test_kernels(backend: str, case: Case) -> None:
    """y, dx and the gradient of the learnable parameters; the input is left alone."""
    inputs = make_inputs(case)
    wide, x, row, kernels = inputs.wide(), inputs.x, ACTIVATIONS[case.activation], select(inputs.x)
    before = x.clone()
    y = kernels.gated_forward(x, *inputs.rest)
    mask = (True, bool(row.learnables))
    dx, dparameters = kernels.gated_backward(inputs.dy, x, *inputs.rest, mask)
    assert torch.equal(x, before)
    assert (y.shape, y.stride(), y.dtype) == (inputs.dy.shape, inputs.dy.stride(), x.dtype)
    assert (dx.shape, dx.stride(), dx.dtype) == (x.shape, x.stride(), x.dtype)
    want_y, (want_dx, want_dparameters) = reference.gated_forward(wide.x, *wide.rest), reference.gated_backward(
        wide.dy, wide.x, *wide.rest, mask)
    a, b, _ = wide.factors()
    f, shapes = curves(wide, inputs)
    multiplier, eps = multiplier_like(wide.dy, case.p, inputs.rest[1]), unit(x)
    f_bound = value_bound(row, b.to(accumulate_dtype(x)), f, b.abs() * INPUT_ROUNDING, 1.0, shapes[0][0])
    if case.dtype == torch.float64:  # the oracle rounds too: tanhshrink's subtracts what is of b's size
        f_bound = f_bound + eps / 2 * b.abs()
    tiny = torch.finfo(accumulate_dtype(x)).tiny

    def product_bound(factor: torch.Tensor, oracle: torch.Tensor) -> torch.Tensor:
        return factor.abs() * f_bound + 3 * eps * oracle.abs() + tiny + rounding(oracle, x.dtype)

    gradient = wide.dy * multiplier
    halves = want_dx.tensor_split(2, case.dim)
    want_da, want_db = halves[::-1] if case.gate_first else halves
    db_bound = gradient_bound(row, x, want_db, gradient * a, b.abs() * INPUT_ROUNDING, 1.0, shapes[0][1])
    bounds = [product_bound(gradient, want_da), db_bound]
    assert_within(y, want_y, product_bound(a * multiplier, want_y), "y")
    assert_within(dx, want_dx, torch.cat(bounds[::-1] if case.gate_first else bounds, case.dim), "dx")
    assert (dparameters is None) == (want_dparameters is None)
    if dparameters is not None:
        assert dparameters.shape == inputs.rest[0].shape
        by_torch = reference.gated_backward(inputs.dy, x, *inputs.rest, mask)[1].double()
        for k, (large, steep) in enumerate(shapes[1:]):
            terms = (eps * (gradient * a).abs() * (8 * large + 4 * steep * b.abs() + 4)).sum() + tiny
            error = (by_torch[k] - want_dparameters[k]).abs()
            assert_within(dparameters[k], want_dparameters[k], sum_bound(x, error, terms), f"dparameters[{k}]")


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_only_what_is_asked_for(backend: str, wanted: tuple[bool, bool]) -> None:
    """A frozen input or frozen parameters: None in their place, the other gradient as it is with both."""
    inputs = make_inputs(Case("prelu", (3, 6, 16), 1))
    kernels = select(inputs.x)
    both = kernels.gated_backward(inputs.dy, inputs.x, *inputs.rest, (True, True))
    got = kernels.gated_backward(inputs.dy, inputs.x, *inputs.rest, wanted)
    for value, want, asked in zip(got, both, wanted, strict=True):
        assert torch.equal(value, want) if asked else value is None


@pytest.mark.parametrize("offset", [1, 3])
def test_unaligned_storage(backend: str, offset: int) -> None:
    """A view that starts in the middle of a block of memory computes the same bits as a tensor of its own."""
    block = torch.randn(offset + 6 * 48).bfloat16()
    inner = block[offset:].view(6, 48)
    rest = (None, torch.tensor(7), "silu", (), 0.3, 1, False)
    dy = torch.randn(6 * 24 + offset).bfloat16()[offset:].view(6, 24)
    kernels = select(inner)
    assert torch.equal(kernels.gated_forward(inner, *rest), kernels.gated_forward(inner.clone(), *rest))
    assert torch.equal(kernels.gated_backward(dy, inner, *rest, (True, False))[0],
                       kernels.gated_backward(dy.clone(), inner.clone(), *rest, (True, False))[0])


@pytest.mark.parametrize(("shape", "dim"), [((3, 10, 7), 1), ((5, 48), 1), ((2, 4100), 1)], ids=str)
def test_masks_are_numbered_over_y(backend: str, shape: tuple[int, ...], dim: int) -> None:
    for x in (torch.ones(shape), cases.arrange(torch.ones(shape), "permuted").bfloat16()):
        y = F.glu(x, dim, "identity", dropout=0.3, seed=99)
        assert torch.equal(y != 0, mask_like(y, 0.3, torch.tensor(99)))


def test_non_finite_values_propagate(backend: str) -> None:
    """As in torch: NaN stays, an infinite factor times 0 is NaN; in backward, where a is finite, for torch's relu drops even NaN."""
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1.0])
    x = torch.cartesian_prod(special, special)  # (a, b)
    finite = x[:, 0].isfinite()
    for name in ("sigmoid", "relu"):
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        y, want = F.glu(leaves[0], 1, name), leaves[1][:, :1] * getattr(torch, name)(leaves[1][:, 1:])
        torch.testing.assert_close(y, want, equal_nan=True)
        ours, theirs = (torch.autograd.grad(result[finite].sum(), leaf)[0] for result, leaf in zip((y, want), leaves, strict=True))
        torch.testing.assert_close(ours[finite], theirs[finite], equal_nan=True)


@pytest.fixture(params=["reference", "cpp"])
def cpu_backend(request: pytest.FixtureRequest):
    """The backends that run whole tensors quickly here."""
    if not fl.backends()[request.param].startswith("available"):
        pytest.skip(fl.backends()[request.param])
    with fl.backend(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_is_the_composition(cpu_backend: str, row, dtype: torch.dtype) -> None:
    """a * activation(b) and dropout out of single layers, for half types from the same values in float32 and rounded once.

    Forward has the composition's very bits on cpp; the reference is PyTorch, whose vector and scalar code differ in the last one.
    """
    wide = torch.promote_types(dtype, torch.float32)
    gate = from_name("test", row.text).to(dtype)
    twin = copy.deepcopy(gate).to(wide)
    eps, wide_eps = torch.finfo(dtype).eps, torch.finfo(wide).eps
    for dim, layout, p in ((-1, "contiguous", 0.0), (1, "channels_last", 0.3), (0, "permuted", 0.3)):
        x = cases.arrange(torch.randn(4, 6, 3, 10) * 2, layout).to(dtype)
        leaves = [x.clone().requires_grad_(), x.to(wide, copy=True).requires_grad_()]
        y = F.glu(leaves[0], dim, gate, dropout=p, seed=5)
        a, b = leaves[1].chunk(2, dim)
        want = a * twin(b)
        want = want * F.dropout(torch.ones_like(want), p, seed=5) if p else want
        if cpu_backend == "cpp":
            assert torch.equal(y, want.to(dtype))
        else:
            torch.testing.assert_close(y, want.to(dtype), rtol=4 * eps, atol=4 * wide_eps)
        dy = torch.randn_like(y)
        y.backward(dy)
        want.backward(dy.to(wide))
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad.to(dtype), rtol=max(eps, 64 * wide_eps), atol=64 * wide_eps)
        for ours, theirs in zip(gate.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad.to(dtype), rtol=max(2 * eps, 64 * wide_eps), atol=1024 * wide_eps)
            ours.grad = theirs.grad = None


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced", "expanded"])
@pytest.mark.parametrize("dim", [0, 1, -2, -1])
def test_is_torchs_glu(cpu_backend: str, dim: int, layout: str) -> None:
    """torch.nn.GLU's numbers for any strides; memory format in is memory format out."""
    x = torch.randn(4, 6, 2, 8)
    if layout == "sliced":
        x = torch.randn(8, 6, 4, 8)[::2, :, 1:3]
    elif layout == "expanded":
        x = torch.randn(4, 1, 1, 8).expand(4, 6, 2, 8)
    else:
        x = cases.arrange(x, layout)
    leaves = [x.detach().requires_grad_() for _ in range(2)]
    ours, theirs = nn.GLU(dim)(leaves[0]), torch.nn.GLU(dim)(leaves[1])
    assert isinstance(nn.GLU(dim), torch.nn.GLU)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    dy = torch.randn(ours.shape)
    ours.backward(dy)
    theirs.backward(dy)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-5, atol=1e-6)
    if layout == "channels_last":
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_named_units(cpu_backend: str) -> None:
    """Those of Shazeer's paper, in both layouts."""
    x = torch.randn(5, 12)
    a, b = x.chunk(2, -1)
    for kind, function in ((nn.SwiGLU, torch.nn.functional.silu), (nn.GEGLU, torch.nn.functional.gelu), (nn.ReGLU, torch.relu)):
        torch.testing.assert_close(kind()(x), a * function(b), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(kind(gate_first=True)(x), function(a) * b, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(kind(0)(x.t()), (a * function(b)).t(), rtol=1e-6, atol=1e-6)
    with pytest.raises(TypeError, match=r"^SwiGLU.__init__\(\) got an unexpected keyword argument 'activation'$"):
        nn.SwiGLU(activation="relu")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_gradcheck(cpu_backend: str, row) -> None:
    """First and second derivatives in float64, parameters included, with the same mask at every call."""
    layer = nn.GLU(1, activation=row.text, gate_first=cpu_backend == "cpp", dropout=0.2).double()
    x = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    values = [(value.detach() + 0.3).requires_grad_() for _, value in layer.named_parameters()]

    def function(x, *values):
        torch.manual_seed(3)
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values))


@pytest.mark.parametrize(("make", "extra"), [(nn.GLU, 0), (lambda: nn.SwiGLU(dropout=0.1), 8), (lambda: nn.GLU(activation="prelu"), 4)],
                         ids=["GLU", "SwiGLU(dropout)", "GLU(prelu)"])
def test_only_the_input_is_saved(cpu_backend: str, make, extra: int) -> None:
    x, kept = torch.randn(16, 64, requires_grad=True), {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        make()(x)
    assert sum(kept.values()) == 4 * x.numel() + extra
    assert x.untyped_storage().data_ptr() in kept, "x itself, no copy"


def test_second_call_before_backward_and_evaluation(cpu_backend: str) -> None:
    layer = nn.SwiGLU(dropout=0.5)
    x = torch.randn(4, 64, requires_grad=True)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    for y in (second, first):
        grad, = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad[:, :32] == 0, y == 0)
    assert torch.equal(layer.eval()(x), nn.SwiGLU()(x))


def test_state_and_representation() -> None:
    assert list(nn.GLU().state_dict()) == []
    assert repr(nn.GLU(1)) == repr(torch.nn.GLU(1))
    assert repr(nn.GLU(activation="leaky_relu(0.2)", dropout=0.1)) == "GLU(dim=-1, activation='leaky_relu(0.2)', dropout=0.1)"
    assert repr(nn.SwiGLU(gate_first=True)) == "SwiGLU(dim=-1, gate_first=True)"
    learnable = nn.GLU(activation="swish")
    assert list(learnable.state_dict()) == ["activation.beta"]
    learnable(torch.randn(3, 4)).sum().backward()
    assert learnable.activation.beta.grad is not None
    assert torch.equal(nn.GLU(activation=torch.nn.Tanh())(torch.ones(1, 2)), nn.GLU(activation="tanh")(torch.ones(1, 2)))


@pytest.mark.parametrize("name", ["prelu"])
def test_parameter_gradients_do_not_depend_on_threads(name: str) -> None:
    x, dy = torch.randn(100, 4000), torch.randn(100, 2000)
    rest = (torch.tensor([[0.25]]), None, name, (), 0.0, 1, False)
    cpp = pytest.importorskip("fastlayers._C", reason="the C++ extension is not built")
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(cpp.gated_backward(dy, x, *rest, (True, True))[1])
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_compiles_with_dynamic_shapes_of_any_strides() -> None:
    """Sizes stay symbolic from the first call on; x contiguous, transposed, sliced, expanded."""
    torch._dynamo.reset()
    layer = nn.GLU(1, activation="gelu", gate_first=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for x in (torch.randn(3, 8), torch.randn(6, 5).t(), torch.randn(14, 4)[::2], torch.randn(6).expand(9, 6),
              torch.randn(4, 6, 4).transpose(0, 1)):
        leaves = [x.detach().requires_grad_() for _ in range(2)]
        got, want = compiled(leaves[0]), layer(leaves[1])
        got.sum().backward()
        want.sum().backward()
        assert got.stride() == want.stride()
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_inductor() -> None:
    torch._dynamo.reset()
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), nn.SwiGLU(gate_first=True), torch.nn.Linear(8, 4))
    x = torch.randn(5, 8)
    torch.testing.assert_close(torch.compile(net, fullgraph=True)(x), net(x))


X = torch.randn(4, 6)
REFUSED = [
    (lambda: F.glu(torch.randn(4, 3)), RuntimeError, "glu: x must have an even size along dim -1, got shape (4, 3)"),
    (lambda: nn.SwiGLU(0)(torch.randn(3, 4)), RuntimeError, "glu: x must have an even size along dim 0, got shape (3, 4)"),
    (lambda: F.glu(torch.tensor(1.0)), RuntimeError, "glu: x must have a dimension to be cut in two, got a 0-d tensor"),
    (lambda: F.glu(X, 2), IndexError, "glu: dim must be between -2 and 1 for x of shape (4, 6), got 2"),
    (lambda: F.glu(X.to(torch.int32)), RuntimeError, "glu: x must be float32, bfloat16, float16 or float64, got int32"),
    (lambda: F.glu([1.0]), TypeError, "glu: x must be a Tensor, got list"),
    (lambda: F.glu(X, dropout=1.5), ValueError, "glu: dropout must be between 0 and 1, got 1.5"),
    (lambda: F.glu(X, dropout=0.5, seed=1.5), TypeError, "glu: seed must be a 0-d int64 tensor or an int, got float"),
    (lambda: nn.GLU(dropout=-1), ValueError, "GLU: dropout must be between 0 and 1, got -1"),
    (lambda: nn.GLU(activation="swisch"), ValueError, "GLU: activation must be one of "),
    (lambda: nn.GLU(activation=3), TypeError, "GLU: activation must be a name or an activation module, got int"),
    (lambda: nn.GLU(activation=nn.SiLU(dropout=0.5)), ValueError,
     "GLU: activation must have no dropout of its own beside the block's, got SiLU(dropout=0.5)"),
    (lambda: F.glu(X, activation=nn.PReLU(3)), RuntimeError, "glu: weight must hold 1 value, a gate has no channels, got 3"),
    (lambda: F.glu(X, activation=nn.PReLU().double()), RuntimeError, "glu: weight must be float32 for x of float32, got float64"),
    (lambda: nn.GLU(activation="rrelu"), ValueError, "GLU: activation must not draw random numbers, got rrelu in training"),
    (lambda: F.glu(X, activation=nn.RReLU()), ValueError, "glu: activation must not draw random numbers, got rrelu in training"),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=[message[:60] for _, _, message in REFUSED])
def test_refusal(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + re.escape(message)):
        call()


def test_refuses_where_torch_does_and_with_its_kind_of_error() -> None:
    for x, dim in ((torch.randn(4, 3), -1), (torch.tensor(1.0), 0), (X, 2)):
        with pytest.raises((RuntimeError, IndexError)) as theirs:
            torch.nn.functional.glu(x, dim)
        with pytest.raises(theirs.type):
            F.glu(x, dim)


def test_the_extension_checks_for_itself() -> None:
    """Whoever calls the C++ entry points past the Python layer is refused too, not crashed."""
    cpp = pytest.importorskip("fastlayers._C", reason="the C++ extension is not built")
    plain = (None, None, "relu", (), 0.0, 1, False)
    for bad in (
        lambda: cpp.gated_forward(torch.randn(4, 3), *plain),
        lambda: cpp.gated_forward(torch.tensor(1.0), *plain[:5], 0, False),
        lambda: cpp.gated_forward(X, *plain[:5], 2, False),
        lambda: cpp.gated_forward(X[:, ::2], *plain),
        lambda: cpp.gated_forward(X.int(), *plain),
        lambda: cpp.gated_forward(X, torch.ones(1, 6), None, "prelu", (), 0.0, 1, False),
        lambda: cpp.gated_forward(X, None, torch.tensor(1.0), *plain[2:]),
        lambda: cpp.gated_backward(torch.ones(4, 6), X, *plain, (True, False)),
        lambda: cpp.gated_backward(torch.ones(3, 4).t(), X, *plain, (True, False)),
        lambda: cpp.gated_backward(torch.ones(4, 3).double(), X, *plain, (True, False)),
    ):
        with pytest.raises((RuntimeError, ValueError, TypeError), match="must"):
            bad()
