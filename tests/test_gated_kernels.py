"""The kernels of gated units on every backend: every activation as a gate, every shape and layout, against float64."""
from __future__ import annotations

from dataclasses import dataclass

import cases
import pytest
import torch
from tolerances import assert_within, gradient_bound, moved, rounding, steepest, sum_bound, unit, value_bound

from fastlayers import functional as F
from fastlayers import reference
from fastlayers.backends import select
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
