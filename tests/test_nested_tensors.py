"""Jagged nested tensors, element by element as their values; layouts that no kernel walks are refused."""
from __future__ import annotations

import pytest
import torch

import fastlayers as fl
from fastlayers import nn

LAYERS = {
    "relu": nn.ReLU, "silu": nn.SiLU, "prelu": nn.PReLU, "rrelu": nn.RReLU, "gelu, dropout": lambda: nn.GELU(dropout=0.3),
    "dropout": nn.Dropout, "not in place": lambda: nn.Dropout(0.3, inplace=True), "alpha dropout": nn.AlphaDropout,
    "evaluated": lambda: nn.Dropout(0.3, convention="eval").eval(),
}


def jagged(values: torch.Tensor) -> torch.Tensor:
    return torch.nested.nested_tensor_from_jagged(values, torch.tensor([0, 2, 5]))


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_jagged_as_its_values(backend: str, make) -> None:
    """Forward and backward, and the result goes together with the input."""
    layer, values, dy = make(), torch.randn(5, 4), torch.randn(5, 4)
    results = []
    for wrap, unwrap in ((lambda x: x, lambda y: y), (jagged, lambda y: y.values())):
        torch.manual_seed(3)
        leaf = values.clone().requires_grad_()
        x = wrap(leaf * 1)
        y = layer(x)
        unwrap(y + (0 if x is y else x.detach())).backward(dy)
        results.append((unwrap(y).detach(), leaf.grad))
    for actual, expected in zip(*reversed(results), strict=True):
        assert torch.equal(actual, expected)


def test_jagged_transposed_and_with_gaps() -> None:
    """Transposed, and a view of part of every row: as torch's own."""
    x = jagged(torch.randn(5, 4)).transpose(1, 2)
    narrow = torch.nested.narrow(torch.randn(2, 5, 4), 1, torch.tensor([0, 1]), torch.tensor([2, 3]), layout=torch.jagged)
    for given in (x, narrow):
        for actual, expected in zip(nn.SiLU()(given).unbind(), torch.nn.functional.silu(given).unbind(), strict=True):
            torch.testing.assert_close(actual, expected)


def test_jagged_residual() -> None:
    x, residual = jagged(torch.randn(5, 4)), torch.randn(5, 4)
    residual = torch.nested.nested_tensor_from_jagged(residual, x.offsets())
    y = fl.functional.dropout(x, 0.3, seed=4, residual_after=residual)
    assert torch.equal(y.values(), fl.functional.dropout(x.values(), 0.3, seed=4, residual_after=residual.values()))


@pytest.mark.parametrize("convert", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.to_mkldnn],
                         ids=["sparse_coo", "sparse_csr", "mkldnn"])
@pytest.mark.parametrize("layer", [nn.ReLU(), nn.GELU(dropout=0.1), nn.Dropout(), nn.BatchNorm1d(4), nn.GLU()], ids=repr)
def test_other_layouts_are_refused(cpu_backend: str, layer, convert) -> None:
    with pytest.raises(RuntimeError, match=r"x must be dense, got a (sparse_coo|sparse_csr|mkldnn) tensor of shape \(3, 4\)"):
        layer(convert(torch.randn(3, 4)))


@pytest.mark.parametrize("layer", [nn.GELU(dropout=0.1), nn.Dropout(), nn.BatchNorm1d(4), nn.GLU(), nn.PReLU()], ids=repr)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_that_are_not_jagged_are_refused(layer) -> None:
    with pytest.raises(RuntimeError, match=r"x must be dense or jagged, got a nested tensor of layout torch\.strided$"):
        layer(torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)]))


REFUSED = {
    "batch norm": (nn.BatchNorm1d(4), "batch_norm: x must be dense, got a jagged tensor"),
    "gated": (nn.GLU(), "glu: x must be dense, got a jagged tensor"),
    "channels": (nn.PReLU(4), "PReLU: weight must hold 1 value, a jagged x has no channels, got 4"),
    "whole channels": (nn.Dropout1d(), "dropout1d: x must be dense, got a jagged tensor"),
}


@pytest.mark.parametrize(("layer", "message"), REFUSED.values(), ids=REFUSED)
def test_what_needs_channels_is_refused(layer, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        layer(jagged(torch.randn(5, 4)))
