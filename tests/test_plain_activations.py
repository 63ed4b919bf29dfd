"""The shortest way through a plain activation: one call of the extension, for tensors with which only autograd has to do."""
from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import fastlayers as fl
from fastlayers import activation_argument
from fastlayers.backends import extension
from fastlayers.specs import ACTIVATIONS

pytestmark = pytest.mark.skipif(extension is None, reason="the C++ extension was not built")


def silu(x):
    return extension.plain_activation("silu", (), False, False)(x)


class Named(torch.Tensor):
    pass


NOT_ORDINARY = {
    "a subclass": lambda x: x.as_subclass(Named),
    "no tensor": lambda x: x.numpy(),
    "gaps": lambda x: x[:, ::2],
    "transposed": lambda x: x.t(),
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
    "inference mode": torch.inference_mode,
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_have_a_say(mode):
    x = torch.randn(4, 6)
    assert silu(x) is not None
    with MODES[mode]():
        assert silu(x) is None
    assert silu(x) is not None


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
