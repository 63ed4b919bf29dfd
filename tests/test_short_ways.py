"""The short ways: one call of the extension for an activation, dropout or batch norm of tensors with which only autograd has to do."""
from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint
from cases import needs_cpp
from torch.autograd import forward_ad

import fastlayers as fl
from fastlayers import activation_argument
from fastlayers.backends import extension
from fastlayers.specs import ACTIVATIONS

pytestmark = needs_cpp


def silu(x):
    return extension.plain_activation("silu", (), False, False)(x)


class Named(torch.Tensor):
    pass


NOT_ORDINARY = {
    "a subclass": lambda x: x.as_subclass(Named),
    "no tensor": lambda x: x.numpy(),
    "gaps": lambda x: x[:, ::2],
    "no dimension": lambda x: x[0, 0],
    "integers": lambda x: x.long(),
    "complex": lambda x: x.to(torch.complex64),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.as_nested_tensor([x, x]),
    "lazily negated": torch._neg_view,
}


@pytest.mark.parametrize("made", NOT_ORDINARY)
def test_other_tensors_go_the_long_way(made):
    assert silu(NOT_ORDINARY[made](torch.randn(4, 6))) is None


@pytest.mark.parametrize("made", [torch.Tensor.t, torch.nn.Parameter, lambda x: x[2:], lambda x: x.requires_grad_()])
def test_every_dense_tensor_is_ordinary(made):
    x = made(torch.randn(4, 6))
    y = silu(x)
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, torch.nn.functional.silu(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_an_ordinary_tensor_goes_the_short_way(dtype):
    x = torch.randn(4, 6).to(dtype).requires_grad_()
    y = silu(x)
    with fl.backend("reference"):
        torch.testing.assert_close(y, fl.functional.silu(x))
    assert torch.equal(y, fl.functional.silu(x))
    y.sum().backward()
    assert x.grad is not None


class _Mode(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


MODES = {
    "dispatch mode": _Mode,
    "autocast": lambda: torch.autocast("cpu"),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_have_a_say(mode):
    x = torch.randn(4, 6)
    assert silu(x) is not None
    with MODES[mode]():
        assert silu(x) is None
    assert silu(x) is not None


def test_evaluation_in_a_mode_keeps_the_statistics_that_it_used():
    """Those that a later batch moves are others."""
    layer, x = fl.nn.BatchNorm1d(3).eval(), torch.randn(4, 3)
    with _Mode():
        y = layer(x)
    layer.running_mean.add_(1.0)
    (y * x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, (x * x).sum(0) / (1 + layer.eps) ** 0.5)


def test_inference_mode_has_none():
    x = torch.randn(4, 6)
    with torch.inference_mode():
        y = silu(x)
        again = silu(y)
        assert y.is_inference()
        assert again is not None
    assert silu(y) is not None
    torch.testing.assert_close(again.clone(), torch.nn.functional.silu(torch.nn.functional.silu(x)))


def test_transforms_have_a_say():
    seen = []

    def function(x):
        seen.append(silu(x))
        return x

    x = torch.randn(4, 6)
    torch.func.vmap(function)(x)
    torch.func.grad(lambda x: function(x).sum())(x)
    torch.func.jvp(function, (x,), (x,))
    torch.func.functionalize(function)(x)
    torch.jit.trace(function, (x,), check_trace=False)
    with forward_ad.dual_level():
        function(forward_ad.make_dual(x, x))
    assert seen == [None] * 6


def test_the_chosen_backend_computes():
    """The short way is the extension's: another choice must not take it."""
    x = torch.randn(10_000)
    with fl.backend("reference"):
        y = fl.nn.GELU()(x)
        assert torch.equal(y, fl.reference.epilogue_forward(x, None, None, None, None, None, None, "gelu", (), 0.0, 0))
    assert not torch.equal(y, fl.nn.GELU()(x))  # equal but for roundings


@pytest.mark.parametrize("name", [row.name for row in ACTIVATIONS.values() if not row.learnables and not row.random])
def test_every_row_has_it(name):
    """By default and with other constants, for float32 and for half types: what is kept for backward follows the row."""
    row = ACTIVATIONS[name]
    constants = tuple(float(constant.default) for constant in row.constants)
    resolved = activation_argument.with_constants(name, row, constants)
    kept = []

    def keep(value):
        kept.append(value)
        return value

    for dtype in (torch.float32, torch.bfloat16):
        x = torch.rand(64, dtype=dtype).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            y = resolved.plain(x)
        from_output = row.derives_from_output(constants, x.element_size())
        assert kept[-1].data_ptr() == (y if from_output else x).data_ptr()


def test_constants_are_checked_once():
    first, again = (activation_argument.with_constants("elu", ACTIVATIONS["elu"], (0.3,)) for _ in range(2))
    assert first is again
    alpha = torch.tensor(0.3)
    before = activation_argument.with_constants("elu", ACTIVATIONS["elu"], (alpha,)).constants
    alpha.fill_(0.5)
    assert activation_argument.with_constants("elu", ACTIVATIONS["elu"], (alpha,)).constants != before


def test_dropout_draws_what_the_long_way_draws():
    x = torch.randn(8, 6, 5, 5, requires_grad=True)
    ways = []
    for backend in ("cpp", "reference"):
        torch.manual_seed(1)
        x.grad = None
        with fl.backend(backend):
            results = [fl.functional.dropout(x, 0.25), fl.functional.silu(x, dropout=0.5), torch.rand(2)]
        (results[0] + results[1]).sum().backward()
        ways.append([*results, x.grad])
    torch.testing.assert_close(*ways)
    assert extension.plain_dropout(x, "identity", (), 0.5) is not None


def batch_norm_arguments(**changed):
    """What plain_batch_norm takes, in its order."""
    c = 6
    arguments = {
        "x": torch.randn(8, c, 5, 5), "weight": torch.rand(c), "bias": torch.randn(c), "residual": None, "running_mean": torch.zeros(c),
        "running_var": torch.ones(c), "num_batches_tracked": torch.tensor(0), "activation": "relu", "constants": (), "training": True,
        "momentum": 0.1, "eps": 1e-5, "channel_dim": 1, "keeps_x": True, "keeps_residual": True,
    }
    assert {*changed} <= {*arguments}
    return [*(arguments | changed).values()]


TAKEN = {
    "plain": {},
    "channels_last": {"x": torch.randn(8, 6, 5, 5).to(memory_format=torch.channels_last)},
    "parameters": {"weight": torch.nn.Parameter(torch.rand(6)), "bias": torch.nn.Parameter(torch.rand(6))},
    "residual": {"residual": torch.randn(8, 6, 5, 5)},
    "half": {"x": torch.randn(8, 6, 5, 5).bfloat16()},
    "no statistics": {"running_mean": None, "running_var": None, "num_batches_tracked": None},
    "average of all": {"momentum": None},
    "evaluation": {"training": False, "num_batches_tracked": None},
    "channels last of all": {"x": torch.randn(8, 5, 5, 6), "channel_dim": -1},
}
LEFT = {
    "one value per channel": {"x": torch.randn(1, 6)},
    "no values": {"x": torch.randn(0, 6)},
    "no channel dimension": {"x": torch.randn(6)},
    "gaps": {"x": torch.randn(8, 6, 5, 10)[..., ::2]},
    "too few weights": {"weight": torch.rand(5)},
    "a matrix": {"bias": torch.rand(6, 1)},
    "another dtype": {"weight": torch.rand(6).double()},
    "half weights": {"x": torch.randn(8, 6, 5, 5).half(), "weight": torch.rand(6).half()},
    "statistics with gaps": {"running_var": torch.ones(12)[::2]},
    "statistics of one value": {"running_mean": torch.zeros(1).expand(6)},
    "one statistic": {"running_var": None},
    "statistics with gradients": {"running_mean": torch.zeros(6, requires_grad=True)},
    "no statistics in evaluation": {"training": False, "running_mean": None, "running_var": None},
    "another residual": {"residual": torch.randn(8, 6, 5, 4)},
    "a residual of other strides": {"residual": torch.randn(8, 6, 5, 5).to(memory_format=torch.channels_last)},
    "a count of another dtype": {"num_batches_tracked": torch.tensor(0.0)},
    "no count for the average": {"momentum": None, "num_batches_tracked": None},
    "momentum that is no float": {"momentum": "0.1"},
    "eps of zero": {"eps": 0.0},
    "eps of NaN": {"eps": float("nan")},
    "no tensor": {"x": None},
}


@pytest.mark.parametrize("case", TAKEN)
def test_batch_norm_goes_the_short_way(case):
    arguments = batch_norm_arguments(**TAKEN[case])
    x, weight, bias, residual, mean, var, batches, _, _, training, momentum, eps, channel_dim, *_ = arguments
    own = [None if value is None else value.clone() for value in (mean, var, batches)]
    with fl.backend("reference"):
        expected = fl.functional.batch_norm(x, *own[:2], weight, bias, training, momentum, eps, activation="relu", residual=residual,
                                            num_batches_tracked=own[2], channel_dim=channel_dim)
    y = extension.plain_batch_norm(*arguments)
    torch.testing.assert_close([y, mean, var, batches], [expected, *own])
    assert y.stride() == x.stride()


@pytest.mark.parametrize("case", LEFT)
def test_batch_norm_changes_nothing_that_it_leaves_to_python(case):
    arguments = batch_norm_arguments(**LEFT[case])
    tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
    before = [value.clone() for value in tensors]
    assert extension.plain_batch_norm(*arguments) is None
    assert all(map(torch.equal, tensors, before))


def test_flags_need_not_be_bool():
    x, mean, var = torch.randn(8, 6), torch.zeros(6), torch.ones(6)
    expected = fl.functional.batch_norm(x, mean.clone(), var.clone(), training=True)
    assert torch.equal(fl.functional.batch_norm(x, mean, var, training=1), expected)
    with pytest.raises(TypeError, match="batch_norm: channel_dim must be a whole number, got float"):
        fl.functional.batch_norm(x, mean, var, training=True, channel_dim=1.0)


def test_checkpointing_moves_running_statistics_once():
    norm = fl.nn.BatchNorm2d(6)
    x = torch.randn(8, 6, 5, 5, requires_grad=True)
    torch.utils.checkpoint.checkpoint(norm, x, use_reentrant=False).sum().backward()
    assert norm.num_batches_tracked == 1
