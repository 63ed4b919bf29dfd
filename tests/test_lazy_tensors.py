"""Tensors that do not hold in memory what they stand for: lazily negated, lazily zero, or batched by autograd's own vmap."""
from __future__ import annotations

import pytest
import torch
from tolerances import close
from torch import Tensor

import fastlayers as fl
from fastlayers import nn

BLOCK = {"activation": "softplus", "memory": "inplace"}
LAYERS = {
    "relu": nn.ReLU, "silu": nn.SiLU, "prelu": lambda: nn.PReLU(6), "apl": lambda: nn.APL(num_parameters=6), "rrelu": nn.RReLU,
    "dropout": lambda: nn.Dropout(0.4), "alpha dropout": lambda: nn.AlphaDropout(0.4), "gelu, dropout": lambda: nn.GELU(dropout=0.3),
    "batch norm": lambda: nn.BatchNorm1d(6), "block": lambda: nn.BatchNorm1d(6, activation=nn.PReLU(6), dropout=0.2),
    "in place": lambda: nn.BatchNorm1d(6, **BLOCK), "evaluated": lambda: nn.BatchNorm1d(6).eval(), "gated": nn.SwiGLU,
}
ORDERS = {"contiguous": lambda x: x, "transposed": lambda x: x.t().contiguous().t()}


def negated(x: Tensor) -> Tensor:
    """x, as the lazy negation of -x: what ``z.conj().imag`` is of a complex z."""
    return torch._neg_view(-x)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_batched_gradients(backend: str, make, order) -> None:
    """is_grads_batched, which jacobian(vectorize=True) and gradcheck are made of, is a loop over gradients, expanded ones too."""
    layer = make().double()
    x = order(torch.randn(4, 6, dtype=torch.float64)).requires_grad_()
    y = layer(x)
    leaves = [x, *layer.parameters()]
    for gradients in (torch.randn(3, *y.shape, dtype=torch.float64), torch.randn(3, 1, 1, dtype=torch.float64).expand(3, *y.shape)):
        expected = [torch.autograd.grad(y, leaves, gradient, retain_graph=True) for gradient in gradients]
        actual = torch.autograd.grad(y, leaves, gradients, is_grads_batched=True, retain_graph=True)
        for got, *wanted in zip(actual, *expected, strict=True):
            close(got, torch.stack(wanted))


@pytest.mark.parametrize("make", [nn.SiLU, nn.SwiGLU, LAYERS["evaluated"]], ids=["silu", "gated", "batch norm"])
def test_vectorised_jacobian_and_hessian(cpu_backend: str, make) -> None:
    layer, x = make().double(), torch.randn(4, 6, dtype=torch.float64)
    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    close(jacobian(layer, x, vectorize=True), jacobian(layer, x))
    energy = lambda x: layer(x).exp().sum()  # noqa: E731
    close(hessian(energy, x, vectorize=True), hessian(energy, x))
    assert torch.autograd.gradcheck(layer, x.requires_grad_(), check_batched_grad=True)


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_negated_and_zero_tensors(backend: str, make) -> None:
    """As input, as gradient, and as parameter a lazily negated tensor is what it stands for; a lazily zero one is zero."""
    layer = make().double()
    x, dy = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 3 if make is nn.SwiGLU else 6, dtype=torch.float64)

    def run(x: Tensor, dy: Tensor, wrap=lambda value: value) -> list[Tensor]:
        torch.manual_seed(3)
        values = {name: value.detach().requires_grad_() for name, value in layer.named_parameters()}
        buffers = {name: value.clone() for name, value in layer.named_buffers()}
        x = x.requires_grad_()
        y = torch.func.functional_call(layer, ({name: wrap(value) for name, value in values.items()}, buffers), (wrap(x),))
        return [y, *torch.autograd.grad(y, [x, *values.values()], dy)]

    expected, zero = run(x, dy), run(x, torch.zeros_like(dy))
    for given in ((x, negated(dy)), (negated(x), dy), (x, dy, negated)):
        for actual, want in zip(run(*given), expected, strict=True):
            close(actual, want)
    for actual, want in zip(run(x, torch._efficientzerotensor(dy.shape, dtype=dy.dtype)), zero, strict=True):
        close(actual, want)


def test_negated_residuals_and_seeds(backend: str) -> None:
    x, residual = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    dropout = lambda x, residual: fl.functional.dropout(x, 0.3, seed=4, residual_after=residual)  # noqa: E731
    for layer in (nn.BatchNorm1d(4, activation="tanh").double(), dropout):
        close(layer(x, negated(residual)), layer(x, residual))
    seed = torch.tensor(-77)
    assert torch.equal(fl.functional.dropout(x, 0.3, seed=negated(seed)), fl.functional.dropout(x, 0.3, seed=seed))


def test_the_real_and_imaginary_parts_of_a_conjugate(cpu_backend: str) -> None:
    """Where lazily negated tensors come from."""
    weight = torch.tensor([0.25 + 0.25j]).conj().imag
    assert fl.functional.prelu(torch.tensor([-2.0, 3.0]), weight).tolist() == [0.5, 3.0]
    z = torch.randn(4, 6, dtype=torch.complex64)
    torch.testing.assert_close(nn.SiLU()(z.conj().imag), torch.nn.functional.silu(-z.imag))


@pytest.mark.parametrize("name", ["SGD", "Adam", "Lion"])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}, {"ema_decay": 0.5}], ids=str)
def test_optimizers(backend: str, name: str, options: dict) -> None:
    """Gradients, parameters and states that are lazily negated or zero: three steps as with those they stand for."""
    def steps(gradients: list[Tensor], p: Tensor, state=lambda value: value) -> Tensor:
        p = p.requires_grad_()
        optimizer = getattr(fl.optim, name)([p], lr=0.1, **options)
        for gradient in gradients:
            p.grad = gradient
            optimizer.step()
            for key, value in optimizer.state[p].items():
                optimizer.state[p][key] = state(value) if value.dim() else value
        return p.detach().clone()

    start, gradients = torch.randn(5), [*torch.randn(3, 5)]
    expected = steps(gradients, start.clone())
    assert not torch.equal(expected, start)
    assert torch.equal(steps([negated(gradient) for gradient in gradients], start.clone()), expected)
    assert torch.equal(steps(gradients, negated(start)), expected)
    assert torch.equal(steps(gradients, start.clone(), negated), expected)
    zeros = [torch.zeros(5)] * 3
    assert torch.equal(steps([torch._efficientzerotensor(5)] * 3, start.clone()), steps(zeros, start.clone()))
