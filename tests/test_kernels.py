"""The kernel interface of every backend against the reference formula in float64, over the table in cases.py."""
from __future__ import annotations

from collections.abc import Callable

import cases
import pytest
import torch
from tolerances import assert_within, gradient_bound, moved, rounding, steepest, sum_bound, unit, value_bound

from fastlayers import reference
from fastlayers.backends import select
from fastlayers.reference import activations
from fastlayers.reference.dropout import multiplier_like
from fastlayers.reference.epilogue import activation_arguments, channel_sum, per_channel

EPS = 1e-5


def magnitude_of(inputs: cases.Inputs) -> torch.Tensor:
    """Sum of the magnitudes of the terms of z."""
    x, channel_dim = inputs.x, inputs.channel_dim
    size = x.abs() if inputs.mean is None else x.abs() + per_channel(inputs.mean, x, channel_dim).abs()
    if inputs.scale is not None:
        size = size * per_channel(inputs.scale, x, channel_dim).abs()
    if inputs.shift is not None:
        size = size + per_channel(inputs.shift, x, channel_dim).abs()
    return size if inputs.residual is None else size + inputs.residual.abs()


def pre_activation(inputs: cases.Inputs) -> torch.Tensor:
    """z of the oracle."""
    return reference.epilogue_forward(
        inputs.x, inputs.mean, inputs.scale, inputs.shift, inputs.residual, None, None, "identity", (), 0.0, inputs.channel_dim)


def away_from_kinks(inputs: cases.Inputs, narrow: cases.Inputs) -> torch.Tensor:
    """Where rounding z cannot move it across a kink, where the derivative jumps."""
    safe = torch.ones_like(inputs.x, dtype=torch.bool)
    for kink in inputs.row.kinks_with(() if inputs.parameters is None else inputs.parameters):
        kink = per_channel(kink, inputs.x, inputs.channel_dim) if isinstance(kink, torch.Tensor) else kink
        safe &= (pre_activation(inputs) - kink).abs() > 8 * unit(narrow.x) * magnitude_of(inputs)
    return safe


def slopes(inputs: cases.Inputs) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """df/dz and df/d(parameter) of the oracle as functions of z."""
    arguments = activation_arguments(
        inputs.x, inputs.parameters, inputs.row.name, inputs.constants, inputs.seed, inputs.channel_dim)
    derivative = activations.function(inputs.row.name, "derivative")
    count = 1 + (0 if inputs.parameters is None else inputs.parameters.size(0))
    return [lambda z, k=k: derivative(z, *arguments)[k] + torch.zeros_like(z) for k in range(count)]


def bend(slope: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The derivative of a slope with respect to z."""

    def differentiated(z: torch.Tensor) -> torch.Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad((slope(z) + 0 * z).sum(), z)[0]

    return differentiated


def shapes_of(inputs: cases.Inputs, narrow: cases.Inputs) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(how large, how steep) df/dz and each df/d(parameter) are within what rounding may move z by."""
    z, reach = pre_activation(inputs), moved(narrow.x, magnitude_of(inputs))
    return [(steepest(slope, z, reach), steepest(bend(slope), z, reach)) for slope in slopes(inputs)]


@pytest.mark.parametrize("case", cases.EPILOGUE, ids=str)
def test_epilogue_forward(backend: str, case: cases.Case) -> None:
    inputs = cases.make_inputs(case)
    wide = inputs.double()
    before = inputs.x.clone()
    y = select(inputs.x).epilogue_forward(inputs.x, *inputs.epilogue)
    assert (y.shape, y.stride(), y.dtype) == (inputs.x.shape, inputs.x.stride(), inputs.x.dtype)
    assert torch.equal(inputs.x, before), "epilogue_forward must not change x"
    oracle = reference.epilogue_forward(wide.x, *wide.epilogue)
    multiplier = multiplier_like(wide.x, case.p, wide.seed)
    steep = shapes_of(wide, inputs)[0][0]
    assert_within(y, oracle, value_bound(inputs.row, inputs.x, oracle, magnitude_of(wide), multiplier, steep), "y")


@pytest.mark.parametrize("case", cases.EPILOGUE, ids=str)
def test_epilogue_backward(backend: str, case: cases.Case) -> None:
    inputs = cases.make_inputs(case)
    wide = inputs.double()
    mask = (True, inputs.scale is not None, inputs.scale is not None, True, bool(inputs.row.learnables))
    safe = away_from_kinks(wide, inputs)
    for tensors in (inputs, wide):
        tensors.dy = tensors.dy * safe.to(tensors.dy.dtype)
    got = select(inputs.x).epilogue_backward(inputs.dy, inputs.x, *inputs.epilogue, False, mask)
    want = reference.epilogue_backward(wide.dy, wide.x, *wide.epilogue, False, mask)
    by_torch = reference.epilogue_backward(inputs.dy, inputs.x, *inputs.epilogue, False, mask)
    check_gradients(inputs, wide, got, want, by_torch, per_channel(wide.scale, wide.x, case.channel_dim) if case.affine else 1.0)


def check_gradients(inputs, wide, got, want, by_torch, factor) -> None:
    """dx, dresidual elementwise; the per-channel sums against torch's own error and the bounds of their terms."""
    x, row, channel_dim = inputs.x, inputs.row, inputs.channel_dim
    multiplier = multiplier_like(wide.x, inputs.p, wide.seed)
    dy, size = wide.dy * multiplier, magnitude_of(wide)
    dz = dy * slopes(wide)[0](pre_activation(wide))
    shapes = shapes_of(wide, inputs)
    steep = shapes[0][1]
    for name, value in zip(("dx", "dresidual", "dscale", "dshift", "dparameters"), got, strict=True):
        assert value is None or not value.isnan().any(), f"{name} has NaN"
    assert [value is None for value in got] == [value is None for value in want]
    assert (got[0].shape, got[0].stride(), got[0].dtype) == (x.shape, x.stride(), x.dtype)
    assert_within(got[0], want[0], gradient_bound(row, x, dz, dy, size, factor, steep), "dx")
    if got[1] is not None:
        assert_within(got[1], want[1], gradient_bound(row, x, dz, dy, size, 1.0, steep), "dresidual")
    term = gradient_bound(row, x, dz, dy, size, 1.0, steep) - rounding(dz, x.dtype)
    centred = wide.x if wide.mean is None else wide.x - per_channel(wide.mean, wide.x, channel_dim)
    check_sum("dscale", x, got[2], want[2], by_torch[2], term * centred.abs(), channel_dim)
    check_sum("dshift", x, got[3], want[3], by_torch[3], term, channel_dim)
    if got[4] is not None:
        for k in range(got[4].size(0)):
            large, steep = shapes[1 + k]
            terms = unit(x) * dy.abs() * (8 * large + 4 * steep * size + 4)
            check_sum(f"dparameters[{k}]", x, got[4][k], want[4][k], by_torch[4][k], terms, channel_dim)


def check_sum(name, x, got, want, by_torch, terms, channel_dim) -> None:
    if got is None:
        return
    floor = channel_sum(terms, channel_dim)
    floor = floor if got.numel() == floor.numel() else floor.sum().expand(got.numel())
    assert_within(got, want, sum_bound(x, (by_torch.double() - want).abs(), floor) + torch.finfo(torch.float32).tiny, name)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("name", [row.name for row in cases.ACTIVATIONS.values() if row.from_output != "never"])
def test_epilogue_backward_from_output(backend: str, name: str, dtype: torch.dtype) -> None:
    inputs = cases.make_inputs(cases.Case(name, (3, 5, 50), dtype=dtype, affine=False, residual=False, p=0.0))
    y = reference.epilogue_forward(inputs.x, *inputs.epilogue)
    mask = (True, False, False, True, False)
    got = select(y).epilogue_backward(inputs.dy, y, *inputs.epilogue, True, mask)
    want = reference.epilogue_backward(inputs.dy.double(), y.double(), *inputs.epilogue, True, mask)
    none = torch.zeros_like(want[0])
    bound = gradient_bound(inputs.row, y, want[0], inputs.dy.double(), none, 1.0, none)
    assert_within(got[0], want[0], bound, "dx from y")
    assert_within(got[1 + 2], want[3], channel_sum(bound, 1) + 1e-6 * channel_sum(want[0].abs(), 1), "dshift from y")


@pytest.mark.parametrize("case", [
    *(cases.Case(name, (3, 5, 4, 7), layout, dtype, p=0.0, residual=residual) for name in ("identity", "leaky_relu", "prelu")
      for layout, residual in (("contiguous", True), ("channels_last", False)) for dtype in cases.DTYPES),
    *(cases.Case(name, (2, 6, 33), residual=False, p=0.0, per_channel=False) for name, row in cases.ACTIVATIONS.items()
      if row.invertible != "never"),
    *(cases.Case("prelu", shape, p=0.0) for shape in ((1, 1), (2, 3, 8), (3, 2, 9), (129, 3), (2, 1, 4097), (0, 3), (6, 70))),
], ids=str)
def test_epilogue_inverse(backend: str, case: cases.Case) -> None:
    """x from y is the reference's, and x itself within what rounding y has lost."""
    inputs = cases.make_inputs(case)
    wide = inputs.double()
    arguments = (inputs.mean, inputs.scale, inputs.shift, inputs.residual, inputs.parameters, inputs.row.name, inputs.constants, 1)
    wide_arguments = (wide.mean, wide.scale, wide.shift, wide.residual, wide.parameters, *arguments[5:])
    y = reference.epilogue_forward(inputs.x, *inputs.epilogue)
    x = select(y).epilogue_inverse(y, *arguments)
    assert (x.shape, x.stride(), x.dtype) == (y.shape, y.stride(), y.dtype)
    oracle = reference.epilogue_inverse(y.double(), *wide_arguments)
    z = activations.function(inputs.row.name, "inverse")(
        y.double(), *([] if wide.parameters is None else [per_channel(p, wide.x, 1) for p in wide.parameters]), *wide.constants)
    size = (z.abs() + (0 if wide.residual is None else wide.residual.abs()) + per_channel(wide.shift, wide.x, 1).abs())
    terms = size / per_channel(wide.scale, wide.x, 1) + per_channel(wide.mean, wide.x, 1).abs()
    slope = activations.function(inputs.row.name, "derivative")(
        z, *([] if wide.parameters is None else [per_channel(p, wide.x, 1) for p in wide.parameters]), *wide.constants)[0]
    steep = y.double().abs() / slope.abs().clamp(min=1e-3) / per_channel(wide.scale, wide.x, 1)  # what rounding y, or a constant, costs
    assert_within(x, oracle, 16 * unit(y) * (terms + 1) + 4 * unit(y) * steep + rounding(oracle, case.dtype), "x")
    lost = steep + size / per_channel(wide.scale, wide.x, 1)
    assert_within(x, wide.x, torch.finfo(case.dtype).eps * (2 * lost + wide.x.abs()) + 16 * unit(y) * (terms + 1), "x it was")


@pytest.mark.parametrize("shape", [(4, 6, 7, 5), (3, 129), (2, 5, 4000)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1e4, 1e-2), (-3.0, 0.0)])
def test_batch_norm_statistics(backend: str, shape, layout, mean, deviation) -> None:
    x = cases.arrange(torch.randn(shape) * deviation + mean, layout)
    got_mean, got_m2 = select(x).batch_norm_statistics(x, 1)
    want_mean, want_m2 = reference.batch_norm_statistics(x.double(), 1)
    eps, count = unit(x), x.numel() // x.size(1)
    assert_within(got_mean, want_mean, 2 * eps * want_mean.abs() + 4 * eps * channel_sum(x.double().abs(), 1) / count, "mean")
    # the float32 mean itself is off by half a unit, which adds count * (half a unit)^2
    rounded = count * (eps * want_mean) ** 2
    assert_within(got_m2, want_m2, 16 * eps * want_m2 + rounded + 1e-30, "M2")


def normalised(case: cases.Case, training: bool):
    """Inputs of a batch norm case: running statistics, weight and bias besides those of the epilogue."""
    inputs = cases.make_inputs(case)
    channels = case.shape[1]
    running = [torch.randn(channels).to(inputs.x.dtype if case.dtype == torch.float64 else torch.float32),
               torch.rand(channels).to(inputs.x.dtype if case.dtype == torch.float64 else torch.float32) + 0.5]
    return inputs, running, torch.tensor(4)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", cases.BATCH_NORM, ids=str)
def test_batch_norm(backend: str, case: cases.Case, training: bool) -> None:
    """Forward, running statistics and backward; with momentum None where a case has no affine parameters."""
    inputs, running, batches = normalised(case, training)
    wide = inputs.double()
    momentum = 0.1 if case.affine else None
    wide_running, wide_batches = [r.double() for r in running], batches.clone()
    kernels = select(inputs.x)
    arguments = (inputs.row.name, inputs.constants, case.p, training, momentum, EPS, 1)
    y, mean, rstd = kernels.batch_norm_forward(
        inputs.x, inputs.scale, inputs.shift, *running, batches, inputs.residual, inputs.parameters, inputs.seed, *arguments)
    _, want_mean, want_rstd = reference.batch_norm_forward(
        wide.x, wide.scale, wide.shift, *wide_running, wide_batches, wide.residual, wide.parameters, wide.seed, *arguments)
    eps = unit(inputs.x)
    spread = 1 / want_rstd
    assert_within(mean, want_mean, 4 * eps * (want_mean.abs() + spread), "mean")
    assert_within(rstd, want_rstd, 16 * eps * want_rstd, "rstd")
    assert torch.equal(batches, wide_batches)
    assert_within(running[0], wide_running[0], 4 * eps * (wide_running[0].abs() + want_mean.abs() + spread), "running_mean")
    assert_within(running[1], wide_running[1], 16 * eps * (wide_running[1].abs() + spread**2), "running_var")
    # from here on the kernel's own statistics are the truth: what follows is elementwise in them
    for tensors in (inputs, wide):
        tensors.mean = mean.to(tensors.x.dtype if tensors is wide else mean.dtype)
        scale = 1.0 if tensors.scale is None else tensors.scale
        tensors.scale = (rstd * scale if tensors is inputs else rstd.double() * scale)
        tensors.__post_init__()
    oracle = reference.epilogue_forward(wide.x, *wide.epilogue)
    multiplier = multiplier_like(wide.x, case.p, wide.seed)
    steep = shapes_of(wide, inputs)[0][0]
    assert_within(y, oracle, value_bound(inputs.row, inputs.x, oracle, magnitude_of(wide), multiplier, steep), "y")
    assert y.stride() == inputs.x.stride()
    check_batch_norm_backward(case, inputs, wide, rstd, training)


def check_batch_norm_backward(case, inputs, wide, rstd, training) -> None:
    safe = away_from_kinks(wide, inputs)
    for tensors in (inputs, wide):
        tensors.dy = tensors.dy * safe.to(tensors.dy.dtype)
    mask = (True, case.residual, case.affine, case.affine, bool(inputs.row.learnables))

    def backward(kernels, tensors):
        own_rstd = rstd.to(tensors.scale.dtype)
        weight = tensors.scale / own_rstd if case.affine else None
        return kernels.batch_norm_backward(
            tensors.dy, tensors.x, tensors.mean, own_rstd, weight, tensors.shift, tensors.residual, tensors.parameters, tensors.seed,
            inputs.row.name, inputs.constants, case.p, training, 1, mask)

    got, want, by_torch = backward(select(inputs.x), inputs), backward(reference, wide), backward(reference, inputs)
    scale = per_channel(wide.scale, wide.x, 1).abs()
    dy = wide.dy * multiplier_like(wide.x, case.p, wide.seed)
    shapes = shapes_of(wide, inputs)
    terms_of = [dy.abs() * (1 + large + steep * magnitude_of(wide)) for large, steep in shapes]
    term = terms_of[0]
    centred = (wide.x - per_channel(wide.mean, wide.x, 1)).abs() * per_channel(rstd.double(), wide.x, 1)
    count = max(case.shape[0] * wide.x[0, 0].numel(), 1)
    of_channel = lambda value: per_channel(channel_sum(value, 1) / count, wide.x, 1)  # noqa: E731
    spread = term + (of_channel(term) + centred * of_channel(term * centred) if training else 0)
    assert got[0].stride() == inputs.x.stride()
    assert_within(got[0], want[0], 16 * unit(inputs.x) * scale * spread + rounding(want[0], case.dtype) + 1e-37, "dx")
    if case.residual:
        assert_within(got[1], want[1], 16 * unit(inputs.x) * term + rounding(want[1], case.dtype) + 1e-37, "dresidual")
    for name, k, terms in (("dweight", 2, term * centred), ("dbias", 3, term)):
        check_sum(name, inputs.x, got[k], want[k], by_torch[k], 16 * unit(inputs.x) * terms, 1)
    if got[4] is not None:
        for k, terms in enumerate(terms_of[1:]):
            check_sum(f"dparameters[{k}]", inputs.x, got[4][k], want[4][k], by_torch[4][k], 16 * unit(inputs.x) * terms, 1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_synchronised_backward_input(backend: str, layout: str) -> None:
    """batch_norm_backward_input with this batch's own means is the dx of batch_norm_backward."""
    inputs = cases.make_inputs(cases.Case("silu", (4, 6, 5, 3), layout))
    mean, m2 = reference.batch_norm_statistics(inputs.x, 1)
    count = inputs.x.numel() // 6
    rstd = torch.rsqrt(m2 / count + EPS)
    shared = (mean, rstd, inputs.scale, inputs.shift, inputs.residual, None, inputs.seed, "silu", (), 0.25)
    wide = [t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in shared]
    dx, _, dweight, dbias, _ = reference.batch_norm_backward(
        inputs.dy.double(), inputs.x.double(), *wide, True, 1, (True, False, True, True, False))
    got = select(inputs.x).batch_norm_backward_input(
        inputs.dy, inputs.x, *shared, 1, (dbias / count).float(), (dweight / rstd / count).float())
    assert_within(got, dx, 64 * unit(inputs.x) * (dx.abs() + 1), "dx")
