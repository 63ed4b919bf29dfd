"""What batch norm keeps for backward: nothing that follows from what another layer keeps."""
from __future__ import annotations

import pytest
import torch
from cases import ACTIVATIONS, arrange
from tolerances import close

import fastlayers as fl
from fastlayers import nn
from fastlayers.measure import saved_bytes

INVERTIBLE = [name for name, row in ACTIVATIONS.items() if row.invertible != "never"]


def blocks(name: str, channels: int, **options) -> list[nn.BatchNorm2d]:
    """The same block twice, without and with memory="inplace"."""
    made = []
    for memory in ("default", "inplace"):
        torch.manual_seed(3)
        block = nn.BatchNorm2d(channels, activation=name, memory=memory, **options)
        if block.affine:
            torch.nn.init.uniform_(block.weight, 0.5, 2)
            torch.nn.init.uniform_(block.bias, -1, 1)
        made.append(block)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("training", "with_residual", "affine"), [(True, False, True), (True, True, True), (False, True, True),
                                                                 (True, False, False), (False, False, False)])
@pytest.mark.parametrize("name", INVERTIBLE)
def test_inplace_gradients(cpu_backend: str, name: str, training: bool, with_residual: bool, affine: bool, layout: str, dtype) -> None:
    """The gradients of the block that keeps x, to within the rounding of y: 2 units of the dtype for each term of a mean or sum."""
    x, residual, dy = (arrange(torch.randn(6, 5, 7, 7), layout).to(dtype) for _ in range(3))
    results = []
    for block in blocks(name, 5, affine=affine):
        block.train(training).to(torch.promote_types(dtype, torch.float32))
        leaves = [x.clone().requires_grad_(), *([residual.clone().requires_grad_()] if with_residual else [])]
        y = block(*leaves)
        assert y.stride() == x.stride()
        results.append([y, *torch.autograd.grad(y, [*leaves, *block.parameters()], dy)])
    eps = torch.finfo(dtype).eps
    for k, (kept_x, kept_y) in enumerate(zip(*results, strict=True)):
        elementwise = kept_x.shape == x.shape
        bound = eps * (16 if elementwise else 4 * (x.numel() / 5) ** 0.5 * 4)
        assert (kept_x - kept_y).abs().max() <= bound * max(1, kept_x.abs().max()), (k, (kept_x - kept_y).abs().max(), bound)
    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize(("name", "dtype"), [
    (name, dtype) for name in INVERTIBLE for dtype in (torch.float32, torch.bfloat16)
    if not (ACTIVATIONS[name].saturates and dtype == torch.bfloat16)  # which keep x
], ids=str)
def test_inplace_keeps_what_the_next_layer_keeps(cpu_backend: str, name: str, dtype: torch.dtype) -> None:
    _, block = blocks(name, 8)
    following = torch.nn.Conv2d(8, 2, 3).to(dtype)
    net = torch.nn.Sequential(block, following)
    x = torch.randn(4, 8, 16, 16).to(dtype).requires_grad_()
    alone = saved_bytes(lambda: following(torch.randn_like(x).requires_grad_()), following)
    assert saved_bytes(lambda: net(x * 1), net) - alone <= 4 * 4 * 8 + 8
    assert saved_bytes(lambda: blocks(name, 8)[0](x * 1), block) >= x.numel() * dtype.itemsize


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in INVERTIBLE if ACTIVATIONS[name].saturates])
def test_what_rounding_flattens_in_half_types_keeps_x(cpu_backend: str, name: str, dtype: torch.dtype) -> None:
    """Near the end, however far this batch stays from it."""
    _, block = blocks(name, 3)
    x, kept = torch.randn(64, 3, 2, 2).to(dtype).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        block(x)
    assert x.data_ptr() in kept


@pytest.mark.parametrize(("spoil", "options"), [
    (lambda block: block.weight.data.__setitem__(2, 0.0), {}),
    (lambda block: block.weight.data.__setitem__(2, 1e-5), {}),
    (lambda block: block.bias.data.__setitem__(2, 1e5), {}),
    (lambda block: setattr(block, "dropout", 0.5), {}),
    (lambda block: setattr(block.activation, "negative_slope", 0.0), {}),
    (lambda block: setattr(block.activation, "negative_slope", -0.5), {}),
    (lambda block: setattr(block, "activation", nn.PReLU(init=-0.1)), {}),
    (lambda block: setattr(block, "activation", nn.ReLU()), {}),
], ids=["weight 0", "small weight", "large bias", "dropout", "slope 0", "negative slope", "negative prelu", "relu"])
def test_where_y_does_not_give_x_back_x_is_kept(cpu_backend: str, spoil, options: dict) -> None:
    """The very gradients of the block that keeps x."""
    x, dy = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    results = []
    for block in blocks("leaky_relu", 3):
        spoil(block)
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)
        y = block(leaf)
        results.append(torch.autograd.grad(y, [leaf, *block.parameters()], dy))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(gradient.isfinite().all() for gradient in results[1])


@pytest.mark.parametrize(("dtype", "size", "keeps_x"), [
    (torch.bfloat16, 4, False), (torch.bfloat16, 100, True), (torch.float16, 20, False), (torch.float16, 1000, True),
    (torch.float32, 1000, False), (torch.float32, 1e5, True), (torch.float32, float("nan"), True), (torch.float64, 1e5, False),
], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_a_residual_that_leaves_too_little_of_x(cpu_backend: str, affine: bool, dtype: torch.dtype, size: float, keeps_x: bool) -> None:
    """y = x + a large residual is rounded to units of the residual: x is kept there."""
    x, residual = torch.randn(4, 3, 5, 5).to(dtype), torch.rand(4, 3, 5, 5).to(dtype)
    residual[1, 2, 3, 4] = size
    block = nn.BatchNorm2d(3, activation="elu" if dtype.itemsize > 2 else "leaky_relu", affine=affine, memory="inplace")
    block.to(torch.promote_types(dtype, torch.float32))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        block(x.requires_grad_(), residual)
    assert any(tensor.data_ptr() == x.data_ptr() for tensor in kept) == keeps_x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("weight", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("name", ["elu", "elu(100)", "selu", "celu", "celu(0.1)", "celu(0.001)", "softplus", "softplus(5)", "isrlu(1e6)"])
def test_a_flat_end_that_is_reached(cpu_backend: str, name: str, weight: float, dtype: torch.dtype) -> None:
    """What y has lost of x is no less in dx for its slope of 0: x is kept there."""
    x, dy, results = torch.randn(512, 3, dtype=dtype), torch.randn(512, 3, dtype=dtype), []
    for memory in ("default", "inplace"):
        block = nn.BatchNorm1d(3, activation=name, memory=memory, dtype=dtype)
        torch.nn.init.constant_(block.weight, weight)
        leaf = x.clone().requires_grad_()
        results.append(torch.autograd.grad(block(leaf), leaf, dy)[0])
    assert (results[0] - results[1]).abs().max() <= torch.finfo(dtype).eps ** 0.5 * results[0].abs().max()


def test_inplace_refuses_what_it_cannot_do(cpu_backend: str) -> None:
    block = nn.BatchNorm1d(3, memory="inplace")
    x = torch.randn(8, 3, requires_grad=True)
    y = block(x)
    y.square_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match="batch_norm: memory must be 'default' for a gradient that is itself differentiated"):
        torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    for make in (lambda: nn.BatchNorm1d(3, memory="small"), lambda: fl.functional.batch_norm(x, None, None, training=True, memory="small")):
        with pytest.raises(ValueError, match="memory must be one of default, inplace, got 'small'"):
            make()


def test_the_default_device_is_none_of_inplace(cpu_backend: str) -> None:
    block, x = nn.BatchNorm1d(3, bias=False, memory="inplace"), torch.randn(8, 3, requires_grad=True)
    with torch.device("meta"):
        assert block(x).grad_fn.keeps_output


def test_inplace_compiles(cpu_backend: str) -> None:
    """Compiled code keeps x: what to keep cannot depend on the weights there. The numbers are the same."""
    torch._dynamo.reset()
    _, block = blocks("leaky_relu", 3)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    expected, = torch.autograd.grad(block(x).square().sum(), x)
    actual, = torch.autograd.grad(torch.compile(block, fullgraph=True, backend="aot_eager")(x).square().sum(), x)
    close(actual, expected)


def test_where_there_are_no_values_to_look_at() -> None:
    """On the meta device and under a dispatch mode x is kept."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    def gradient(x: torch.Tensor, layer: nn.BatchNorm1d) -> torch.Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(layer(leaf).square().sum(), leaf)[0]

    def layer() -> nn.BatchNorm1d:
        return nn.BatchNorm1d(3, activation="leaky_relu", memory="inplace").eval()

    assert gradient(torch.empty(4, 3, device="meta"), layer().to("meta")).is_meta
    with FakeTensorMode():
        assert gradient(torch.empty(4, 3), layer()).shape == (4, 3)
    (x, other), seen = torch.randn(2, 4, 3), layer()
    torch.testing.assert_close(make_fx(lambda x: gradient(x, seen))(x)(other), gradient(other, seen))


@pytest.mark.parametrize(("bias", "units"), [(0.0, 4), (1e3, 1e3), (1e4, 0), (1e6, 0)])
def test_inplace_without_weight_knows_of_the_bias(cpu_backend: str, bias: float, units: float) -> None:
    """Rounding y moves the normalised x by half a unit of the bias; where that is beyond the square root of one, x is kept: no error."""
    x, dy = torch.randn(64, 3), torch.randn(64, 3)
    gradients = []
    for memory in ("default", "inplace"):
        leaf = x.clone().requires_grad_()
        y = fl.functional.batch_norm(leaf, None, None, None, torch.full((3,), bias), True, activation="leaky_relu", memory=memory)
        gradients.append(torch.autograd.grad(y, leaf, dy)[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=units * torch.finfo(torch.float32).eps)
