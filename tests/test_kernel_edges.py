"""Kernels where inputs are out of the ordinary: storage that is not aligned, numbers that are not finite or nearly so, no gradient of x."""
from __future__ import annotations

import math

import cases
import pytest
import torch

import fastlayers
from fastlayers import reference
from fastlayers.backends import select
from fastlayers.reference.dtypes import accumulate_dtype

EPS = 1e-5


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize(("offset", "count"), [(1, 63), (3, 1000), (5, 4099)])
def test_unaligned_storage(backend: str, offset: int, count: int, dtype: torch.dtype) -> None:
    """A view that starts in the middle of a block of memory computes the same bits as a tensor of its own."""
    block = torch.randn(offset + count).to(dtype)
    arguments = (None, None, None, None, None, torch.tensor(7), "silu", (), 0.3, 0)
    inner = block[offset:]
    kernels = select(inner)
    assert torch.equal(kernels.epilogue_forward(inner, *arguments), kernels.epilogue_forward(inner.clone(), *arguments))


@pytest.mark.parametrize("offset", [1, 3])
def test_unaligned_storage_under_autograd(backend: str, offset: int) -> None:
    """x begins where no vector does, in memory that a longer tensor holds: the same bits as of a copy that begins at one.

    Triton, which compiles for the one and for the other, takes the terms of a sum in another order.
    """
    block, dy = torch.randn(offset + 2 * 7 * 9), torch.randn(2, 7, 9)
    unaligned = block[offset:].view(2, 7, 9)
    layer = fastlayers.nn.PReLU(7)
    results = []
    for x in (unaligned, unaligned.clone()):
        x = x.detach().requires_grad_()
        bias, slope = (torch.linspace(-1, 1, 7).requires_grad_() for _ in range(2))
        y = [fastlayers.functional.bias_activation(x, bias, layer, dropout=0.25, seed=7), fastlayers.nn.SiLU()(x),
             fastlayers.functional.batch_norm(x, None, None, slope, bias, True, activation="silu")]
        results.append([*y, *torch.autograd.grad(sum((part * dy).sum() for part in y), (x, bias, slope, layer.weight))])
    for got, want in zip(*results, strict=True):
        if backend == "triton":
            torch.testing.assert_close(got, want)
        else:
            assert torch.equal(got, want)


def test_non_finite_values_propagate(backend: str) -> None:
    """NaN and infinities come through as in torch: a dropped infinity is NaN, for dropout multiplies by the mask."""
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0] * 8)
    arguments = (None, None, None, None, None, torch.tensor(1234), "identity", (), 0.5, 0)
    got, want = select(x).epilogue_forward(x, *arguments), reference.epilogue_forward(x, *arguments)
    assert torch.equal(got.nan_to_num(nan=5.0), want.nan_to_num(nan=5.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["relu", "hardswish", "hardsigmoid", "hardtanh", "relu6", "softshrink", "hardshrink", "threshold",
                                  "leaky_relu", "elu", "selu", "celu"])
def test_gradients_that_are_not_finite_pass_as_in_torch(backend: str, name: str, dtype: torch.dtype) -> None:
    """Those that torch masks come to 0, alone, behind a bias and in a gate; the others are multiplied by their slopes."""
    row = cases.ACTIVATIONS[name]
    constants = tuple(float(constant.default) for constant in row.constants)
    text = f"{name}({', '.join(map(str, constants))})" if constants else name
    x = torch.linspace(-9, 9, 94).to(dtype).view(2, 47).requires_grad_()  # no kink, and not hardswish's flat -1.5
    dy = torch.tensor([math.inf, math.nan, -math.inf, 2.0]).repeat(47)[:94].view(2, 47).to(dtype)
    twin, bias, functional = getattr(torch.nn.functional, name), torch.zeros(47, dtype=dtype), fastlayers.functional
    pairs = [(getattr(functional, name)(x, *constants), twin(x, *constants)),
             (functional.bias_activation(x, bias, text, scale=bias + 1), twin((x * (bias + 1) + bias), *constants)),
             (functional.batch_norm(x, bias, bias + 1, activation=text, eps=1e-30), twin(x, *constants))]
    if name == "relu":
        both = torch.cat([torch.ones_like(x), x], 1)
        pairs.append((functional.glu(both, activation=text), twin(x)))
    for got, want in pairs:
        (found,), (expected,) = (torch.autograd.grad(y, x, dy) for y in (got, want))
        torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize(("name", "alpha"), [(row.name, None) for row in cases.ACTIVATIONS.values() if not row.random] + [
    ("snake", 0.0), ("snake", 30.0), ("soft_exponential", -1.0), ("soft_exponential", 0.0), ("soft_exponential", 1.0)])
def test_far_ends(backend: str, name: str, alpha: float | None, dtype: torch.dtype) -> None:
    """At infinities, NaN, the largest and other large numbers y and gradients are finite, infinite of a sign, or NaN as the reference's."""
    sizes = (math.inf, torch.finfo(dtype).max, 1e4, 100, 20, 6)
    x = torch.tensor([[math.nan, *sizes, *(-size for size in sizes)]], dtype=torch.float64).to(dtype)
    row, wide = cases.ACTIVATIONS[name], accumulate_dtype(x)
    parameters = cases.learnable(row, x.size(1), wide)
    if alpha is not None:
        parameters = torch.full_like(parameters, alpha)
    constants = tuple(float(constant.default) for constant in row.constants)
    rest = (None, None, None, None, parameters, None, name, constants, 0.0, 1)
    found = []
    for kernels in (select(x), reference):
        gradients = kernels.epilogue_backward(torch.ones_like(x), x, *rest, False, (True, False, False, False, parameters is not None))
        values = (kernels.epilogue_forward(x, *rest), gradients[0], gradients[4] if name != "snake" else None)  # x cos(alpha x)
        found.append([torch.where(value.isfinite(), 0, value) for value in values if value is not None])
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("name", "alpha", "x", "dtype"), [
    ("snake", 1.0, 3e38, torch.bfloat16), ("soft_exponential", 3.0, 28.375, torch.bfloat16), ("soft_exponential", 3.0, 29.8, torch.float32),
])
def test_nothing_overflows_on_the_way(backend: str, name: str, alpha: float, x: float, dtype: torch.dtype) -> None:
    """y and the gradient of alpha are near the largest number, what they are made of is beyond it."""
    found = []
    for wide in (dtype, torch.float64):
        values = torch.tensor([[x]], dtype=dtype).to(wide)
        parameters = torch.full((1, 1), alpha, dtype=accumulate_dtype(values))
        rest = (None, None, None, None, parameters, None, name, (), 0.0, 1)
        kernels = reference if wide == torch.float64 else select(values)
        gradients = kernels.epilogue_backward(torch.ones_like(values), values, *rest, False, (False, False, False, False, True))
        found.append((kernels.epilogue_forward(values, *rest), gradients[4]))
    (y, to_alpha), (expected, to_alpha_expected) = found
    if name == "snake":  # at this x float32 does not know the phase
        torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=0)
        assert to_alpha.isfinite().all()
        return
    torch.testing.assert_close(y.double(), expected, rtol=alpha * x * torch.finfo(dtype).eps, atol=0)  # what rounding alpha x makes of exp
    if to_alpha_expected.abs() < torch.finfo(torch.float32).max:
        torch.testing.assert_close(to_alpha.double(), to_alpha_expected, rtol=alpha * x * 2**-20, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_backward_without_dx(backend: str, layout: str) -> None:
    """Frozen layers before this one: the gradients of its own parameters are those they are with dx."""
    inputs = cases.make_inputs(cases.Case("prelu", (4, 6, 5, 3), layout))
    mean, m2 = reference.batch_norm_statistics(inputs.x, 1)
    arguments = (inputs.dy, inputs.x, mean, torch.rsqrt(m2 / 60 + EPS), inputs.scale, inputs.shift, inputs.residual, inputs.parameters,
                 inputs.seed, "prelu", (), 0.25, True, 1)
    kernels = select(inputs.x)
    alone = kernels.batch_norm_backward(*arguments, (False, False, True, True, True))
    assert alone[0] is None
    for got, want in zip(alone[2:], kernels.batch_norm_backward(*arguments, (True, False, True, True, True))[2:], strict=True):
        assert torch.equal(got, want)
