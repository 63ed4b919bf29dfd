"""What layers keep for backward, whose mask and backend a backward uses, and what hooks on saved tensors may do."""
from __future__ import annotations

import pytest
import torch

import fastlayers as fl
from fastlayers import nn
from fastlayers.measure import saved_bytes


@pytest.mark.parametrize(("make", "bytes_per_element"), [
    (lambda: nn.BatchNorm2d(8, activation="relu", dropout=0.1), 4),
    (lambda: nn.BatchNorm2d(8, activation="relu", dropout=0.1).bfloat16(), 2),
    (lambda: nn.Dropout(0.1), 0),
    (lambda: nn.ReLU(), 4),
    (lambda: nn.SiLU(), 4),
    (lambda: nn.BatchNorm2d(8, affine=False).eval(), 0),
], ids=["bn+relu+dropout", "bn+relu+dropout bf16", "dropout", "relu keeps y", "silu", "bn eval frozen"])
def test_saved_bytes(cpu_backend: str, make, bytes_per_element: int) -> None:
    """What backward keeps, parameters, per-channel vectors and the seed aside."""
    module = make()
    dtype = next(iter([*module.parameters(), torch.empty(0)])).dtype
    x = torch.randn(4, 8, 16, 16, dtype=dtype, requires_grad=True)
    assert saved_bytes(lambda: module(x * 1), module) - bytes_per_element * x.numel() <= 8 + 4 * 8 * 8


def test_dropout_keeps_a_seed_only(cpu_backend: str) -> None:
    kept = []
    x = torch.randn(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        nn.Dropout(0.5)(x)
    assert [(tensor.dtype, tensor.numel()) for tensor in kept] == [(torch.int64, 1)]


def test_backward_uses_the_mask_of_its_own_forward(cpu_backend: str) -> None:
    """Two calls before any backward; a channels_last gradient for a contiguous x."""
    layer = nn.Dropout(0.5)
    x = torch.ones(4, 3, 5, 5, requires_grad=True)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    grad, = torch.autograd.grad(first, x, torch.ones_like(first).contiguous(memory_format=torch.channels_last))
    assert torch.equal(grad, first)
    assert torch.equal(torch.autograd.grad(second, x, torch.ones_like(second))[0], second)


@pytest.mark.parametrize("make", [
    lambda: nn.SiLU(dropout=0.5), lambda: nn.RReLU(), lambda: nn.SwiGLU(1, dropout=0.5),
    lambda: nn.BatchNorm2d(6, activation="silu", dropout=0.5), lambda: nn.BatchNorm2d(6, activation="leaky_relu", memory="inplace"),
], ids=["silu+dropout", "rrelu", "swiglu+dropout", "bn+silu+dropout", "bn inplace"])
def test_hooks_on_saved_tensors_may_change_their_strides(backend: str, make) -> None:
    """save_on_cpu(pin_memory=True) gives back contiguous tensors; masks follow the memory order that x had."""
    module, results = make(), []
    x = torch.randn(2, 6, 3, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    dy = torch.randn_like(module(x))
    for pack in (lambda tensor: tensor, lambda tensor: tensor.clone(memory_format=torch.contiguous_format)):
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = module(x)
        results.append(torch.autograd.grad(y, [x, *module.parameters()], dy))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("call", [
    lambda x, r: nn.BatchNorm1d(4)(x, residual=r),
    lambda x, r: nn.BatchNorm1d(4).eval()(x, residual=r),
    lambda x, r: fl.functional.bias_activation(x, torch.ones(4, requires_grad=True), "identity", residual=r),
    lambda x, r: fl.functional.bias_activation(x, None, "identity", scale=torch.ones(4, requires_grad=True), residual=r),
], ids=["batch norm", "evaluation", "bias", "scale"])
def test_a_gradient_that_does_not_change_is_handed_on(cpu_backend: str, call) -> None:
    """As by torch's addition: the residual's, and without a scale x's, is dy itself where nothing but sums comes after."""
    x, residual = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    dy = torch.randn(6, 4)
    y = call(x, residual)
    dx, dresidual = torch.autograd.grad(y, [x, residual], dy)
    assert dresidual.data_ptr() == dy.data_ptr()
    again = torch.autograd.grad(call(x, residual), [x, residual], dy, create_graph=True)
    for actual, expected in zip(again, (dx, dresidual), strict=True):
        torch.testing.assert_close(actual.detach(), expected)
    assert torch.equal(torch.autograd.grad(call(x, residual), residual, dy)[0], dy), "alone, without x's"


def test_backward_runs_on_the_backend_of_its_forward() -> None:
    x = torch.randn(10, requires_grad=True)
    with fl.backend("reference"):
        y = nn.SiLU()(x)
    assert y.grad_fn.kernels.__name__ == "fastlayers.reference"
    y.sum().backward()


def test_results_are_not_their_input(backend: str) -> None:
    """A kernel's result is its own memory, also of the identity: y += 1 leaves x alone."""
    x = torch.randn(4, 3)
    for y in (fl.functional.bias_activation(x, None), fl.functional.bias_activation(x, None, residual=None, dropout=0.5, training=False)):
        assert y.data_ptr() != x.data_ptr()
        assert torch.equal(y, x)
