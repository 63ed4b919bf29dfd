"""Gated units as users meet them, beside torch.nn.GLU and the composition: numbers, gradients, what is saved, what is refused."""
from __future__ import annotations

import copy
import re

import cases
import pytest
import torch
from tolerances import close

from fastlayers import functional as F
from fastlayers import nn
from fastlayers.measure import saved_bytes
from fastlayers.nn.activations import from_name
from fastlayers.specs import ACTIVATIONS

ROWS = [row for row in ACTIVATIONS.values() if not row.random]


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_is_the_composition(cpu_backend: str, row, dtype: torch.dtype) -> None:
    """a * activation(b) and dropout out of single layers, for half types from the same values in float32 and rounded once.

    Forward has the composition's very bits on cpp; the reference is PyTorch, whose vector and scalar code differ in the last one.
    """
    wide = torch.promote_types(dtype, torch.float32)
    gate = from_name("test", row.text).to(dtype)
    twin = copy.deepcopy(gate).to(wide)
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
            close(y, want.to(dtype))
        dy = torch.randn_like(y)
        y.backward(dy)
        want.backward(dy.to(wide))
        close(leaves[0].grad, leaves[1].grad.to(dtype))
        for ours, theirs in zip(gate.parameters(), twin.parameters(), strict=True):
            close(ours.grad, theirs.grad.to(dtype))
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
    close(ours, theirs)
    dy = torch.randn(ours.shape)
    ours.backward(dy)
    theirs.backward(dy)
    close(leaves[0].grad, leaves[1].grad)
    if layout == "channels_last":
        assert ours.is_contiguous(memory_format=torch.channels_last)


def test_named_units(cpu_backend: str) -> None:
    """Those of Shazeer's paper, in both layouts."""
    x = torch.randn(5, 12)
    a, b = x.chunk(2, -1)
    for kind, function in ((nn.SwiGLU, torch.nn.functional.silu), (nn.GEGLU, torch.nn.functional.gelu), (nn.ReGLU, torch.relu)):
        close(kind()(x), a * function(b))
        close(kind(gate_first=True)(x), function(a) * b)
        close(kind(0)(x.t()), (a * function(b)).t())
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


@pytest.mark.parametrize(("make", "extra"), [(nn.GLU, 0), (lambda: nn.SwiGLU(dropout=0.1), 8), (lambda: nn.GLU(activation="prelu"), 0)],
                         ids=["GLU", "SwiGLU(dropout)", "GLU(prelu)"])
def test_only_the_input_is_saved(cpu_backend: str, make, extra: int) -> None:
    """Beside the parameters, which are there anyway: x and the seed of a dropout."""
    layer, x = make(), torch.nn.Parameter(torch.randn(16, 64))
    assert saved_bytes(lambda: layer(x), layer) == 4 * x.numel() + extra
    layer.register_parameter("x", x)
    assert saved_bytes(lambda: layer(x), layer) == extra, "x itself, no copy"


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
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(cpp.gated_backward(dy, x, *rest, (True, True))[1])
    finally:
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
