"""What ``activation=`` takes: names, constants and modules, given to the constructor or later."""
from __future__ import annotations

import pytest
import torch
from tolerances import close
from torch.nn.utils.prune import l1_unstructured

from fastlayers import nn


class Renamed(torch.nn.ReLU):
    """A user's subclass that computes what its base class does."""


class Doubled(nn.SiLU):
    """A user's subclass that does not."""

    def forward(self, input):
        return 2 * super().forward(input)


def test_subclasses_of_activations() -> None:
    """One that inherits its forward serves in a block (tests/test_errors.py has the other kind); alone, each computes its own."""
    x = torch.randn(8, 4)
    expected = nn.BatchNorm1d(4, activation="relu")(x)
    assert torch.equal(nn.BatchNorm1d(4, activation=Renamed())(x), expected)
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.PReLU(4), dim=0)
    assert nn.BatchNorm1d(4, activation=parametrized)(x).shape == x.shape
    assert torch.equal(Doubled()(x), 2 * nn.SiLU()(x))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm, nn.LazyBatchNorm1d], ids=lambda kind: kind.__name__)
def test_an_activation_may_be_changed_later(kind) -> None:
    """By name or as a module, where there was one and where there was none; learnable parameters are then the layer's."""
    features, x = () if kind is nn.LazyBatchNorm1d else (4,), torch.randn(8, 4)
    normalised = kind(*features)(x)
    for first in (None, "tanh", "prelu"):
        layer = kind(*features, activation=first)
        layer.activation = "relu"
        assert torch.equal(layer(x), normalised.relu())
        assert isinstance(layer.activation, torch.nn.ReLU)
        layer.activation = None
        assert torch.equal(layer(x), normalised)
        layer.activation = nn.Sigmoid()
        close(layer(x), normalised.sigmoid())
    for layer in (kind(*features, dtype=torch.float64), kind(*features, dtype=torch.float64, affine=False)):
        layer.activation = "prelu"
        layer(x.double()).sum().backward()
        assert layer.activation.weight.grad.dtype is torch.float64
        assert "activation.weight" in layer.state_dict()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm, nn.LazyBatchNorm1d], ids=lambda kind: kind.__name__)
def test_an_activation_by_name_takes_device_and_dtype(kind) -> None:
    """As weight and bias do: its learnable parameters are the layer's."""
    features = () if kind is nn.LazyBatchNorm1d else (3,)
    layer = kind(*features, dtype=torch.float64, activation="prelu", affine=False)
    assert layer(torch.randn(4, 3, dtype=torch.float64)).dtype is layer.activation.weight.dtype is torch.float64
    assert kind(*features, device="meta", activation="apl", affine=False).activation.a.is_meta
    assert kind(*features, dtype=torch.float64, device="meta", activation="relu").activation is not None


def test_activation_argument_takes_names_constants_and_modules() -> None:
    x = torch.randn(6, 4)
    by_name = nn.BatchNorm1d(4, activation="leaky_relu(negative_slope=0.3)")
    for activation in (nn.LeakyReLU(0.3), torch.nn.LeakyReLU(0.3), "leaky_relu(0.3)"):
        assert torch.equal(nn.BatchNorm1d(4, activation=activation)(x), by_name(x))
    assert torch.equal(nn.BatchNorm1d(4, activation="gelu_tanh")(x), nn.BatchNorm1d(4, activation=torch.nn.GELU("tanh"))(x))
    assert torch.equal(nn.BatchNorm1d(4, activation="gelu(approximate='tanh')")(x), nn.BatchNorm1d(4, activation="gelu_tanh")(x))
    assert torch.equal(nn.BatchNorm1d(4, activation="logsigmoid")(x), nn.BatchNorm1d(4, activation=torch.nn.LogSigmoid())(x))
    learnable = nn.BatchNorm1d(4, activation="prelu")
    learnable(x).sum().backward()
    assert learnable.activation.weight.grad is not None
    assert list(learnable.state_dict()) == [*torch.nn.BatchNorm1d(4).state_dict(), "activation.weight"]


def test_an_activation_with_a_forward_of_its_own_is_refused() -> None:
    activation = torch.nn.ReLU()
    activation.forward = lambda x: x
    with pytest.raises(ValueError, match=r"^BatchNorm1d: activation must have the forward of ReLU, got ReLU with one of its own$"):
        nn.BatchNorm1d(3, activation=activation)(torch.randn(4, 3))


@pytest.mark.parametrize(("hooked", "kind"), [
    (lambda module: l1_unstructured(module, "weight", 2), nn.PReLU),
    (lambda module: torch.nn.utils.weight_norm(module), torch.nn.PReLU),
], ids=["prune", "weight_norm"])
def test_an_activation_whose_parameter_a_hook_makes_is_refused(hooked, kind) -> None:
    """The hook would run where the module is called: a block would go on with what it made when it was registered."""
    layer, gated = nn.BatchNorm1d(4, activation=kind(4)), nn.GLU(activation=kind(1))
    hooked(layer.activation)
    rule = f"activation must have no parameter that a forward hook makes, for hooks on it do not run, got 'weight' of {kind.__name__}"
    with pytest.raises(ValueError, match=f"^batch_norm: {rule}"):
        layer(torch.randn(8, 4))
    assert layer.num_batches_tracked == 0
    with pytest.raises(ValueError, match=f"^BatchNorm1d: {rule}"):
        nn.BatchNorm1d(4, activation=layer.activation)
    gated.activation.weight_orig, weight = gated.activation.weight, gated.activation._parameters.pop("weight")
    gated.activation.weight = 2 * weight
    with pytest.raises(ValueError, match=f"glu: {rule}"):
        gated(torch.randn(8, 4))
