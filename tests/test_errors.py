"""Every refusal, word for word, and that nothing has changed afterwards."""
from __future__ import annotations

import copy
import re

import pytest
import torch

import fastlayers as fl
from fastlayers import functional as F
from fastlayers import nn

NAMES = ", ".join(fl.specs.ACTIVATIONS)
X = torch.randn(4, 3)


def batch_norm(x=X, mean=None, var=None, training=True, **keywords):
    return F.batch_norm(x, torch.zeros(3) if mean is None else mean, torch.ones(3) if var is None else var, training=training, **keywords)


class Tanh(torch.nn.Module):
    """Shares a name with a class of torch.nn, not what it computes."""


class Doubled(torch.nn.ReLU):
    """Computes something else than its base class."""

    def forward(self, input):
        return 2 * super().forward(input)


class Tripled(nn.SiLU):
    """The same of a class of fastlayers."""

    def forward(self, input):
        return 3 * super().forward(input)


REFUSED = [
    # dtype, shape and device of tensors
    (lambda: batch_norm(weight=torch.ones(3, dtype=torch.int64)), RuntimeError,
     "batch_norm: weight must be float32 for x of float32, got int64"),
    (lambda: batch_norm(weight=torch.ones(3).half()), RuntimeError, "batch_norm: weight must be float32 for x of float32, got float16"),
    (lambda: batch_norm(X.half(), bias=torch.ones(3).double()), RuntimeError,
     "batch_norm: bias must be float16 or float32 for x of float16, got float64"),
    (lambda: batch_norm(X.to(torch.int32)), RuntimeError, "batch_norm: x must be float32, bfloat16, float16 or float64, got int32"),
    (lambda: nn.SiLU()(torch.ones(3, dtype=torch.complex64)), RuntimeError,
     "SiLU: x must be float32, bfloat16, float16 or float64, got complex64"),
    (lambda: nn.SiLU()([1.0]), TypeError, "SiLU: x must be a Tensor, got list"),
    (lambda: F.dropout(torch.ones(3, dtype=torch.int64)), RuntimeError,
     "dropout: x must be float32, bfloat16, float16 or float64, got int64"),
    (lambda: nn.BatchNorm1d(5)(X), RuntimeError,
     "batch_norm: running_mean must have shape (3,) for x of shape (4, 3) with channels in dimension 1, got (5,)"),
    (lambda: batch_norm(mean=torch.zeros(3, requires_grad=True)), RuntimeError,
     "batch_norm: running_mean and running_var must not require a gradient, got requires_grad=True"),
    (lambda: batch_norm(var=torch.ones(3, requires_grad=True), training=False), RuntimeError,
     "batch_norm: running_mean and running_var must not require a gradient, got requires_grad=True"),
    (lambda: batch_norm(mean=torch.zeros(1).expand(3)), RuntimeError,
     "batch_norm: running_mean must have memory for each channel, got 3 views of one element"),
    (lambda: batch_norm(var=torch.ones(1).expand(3)), RuntimeError,
     "batch_norm: running_var must have memory for each channel, got 3 views of one element"),
    (lambda: batch_norm(weight=torch.ones(4)), RuntimeError,
     "batch_norm: weight must have shape (3,) for x of shape (4, 3) with channels in dimension 1, got (4,)"),
    (lambda: nn.PReLU(4)(X), RuntimeError, "PReLU: weight must hold 1 or 3 values, one per channel, got 4"),
    (lambda: batch_norm(residual=torch.ones(4, 2)), RuntimeError, "batch_norm: residual must have the shape of x, (4, 3), got (4, 2)"),
    (lambda: batch_norm(residual=X.double()), RuntimeError, "batch_norm: residual must have the dtype of x, float32, got float64"),
    (lambda: batch_norm(weight=torch.ones(3, device="meta")), RuntimeError, "batch_norm: weight must be on cpu like x, got meta"),
    (lambda: batch_norm(seed=torch.tensor(1.0), dropout=0.5), RuntimeError,
     "batch_norm: seed must be a 0-d int64 tensor or an int, got float32 of shape ()"),
    (lambda: batch_norm(seed=torch.tensor([1]), dropout=0.5), RuntimeError,
     "batch_norm: seed must be a 0-d int64 tensor or an int, got int64 of shape (1,)"),
    (lambda: F.bias_activation(X, torch.ones(2)), RuntimeError,
     "bias_activation: bias must have shape (3,) for x of shape (4, 3) with channels in dimension 1, got (2,)"),
    (lambda: F.bias_activation(torch.ones(3), torch.ones(3)), ValueError,
     "bias_activation: x must have a channel dimension 1, got shape (3,)"),
    (lambda: batch_norm(weight=[1.0, 1.0, 1.0]), TypeError, "batch_norm: weight must be a Tensor, got list"),
    (lambda: batch_norm(residual=1.0), TypeError, "batch_norm: residual must be a Tensor, got float"),
    (lambda: batch_norm(num_batches_tracked=torch.zeros(2)), RuntimeError,
     "batch_norm: num_batches_tracked must be a real number in a 0-d tensor, got float32 of shape (2,)"),
    (lambda: batch_norm(num_batches_tracked=torch.tensor(1j)), RuntimeError,
     "batch_norm: num_batches_tracked must be a real number in a 0-d tensor, got complex64 of shape ()"),
    (lambda: batch_norm(seed=1.5, dropout=0.5), TypeError, "batch_norm: seed must be a 0-d int64 tensor or an int, got float"),
    # values
    (lambda: batch_norm(seed=2**63, dropout=0.5), ValueError,
     "batch_norm: seed must be between -2^63 and 2^63 - 1, got 9223372036854775808"),
    (lambda: batch_norm(eps=0.0), ValueError, "batch_norm: eps must be positive when training, got 0.0"),
    (lambda: batch_norm(training=False, eps=-1e-3), ValueError, "batch_norm: eps must be non-negative, got -0.001"),
    (lambda: F.relu(X, dropout=1.5, training=False), ValueError, "relu: dropout must be between 0 and 1, got 1.5"),
    (lambda: batch_norm(activation=Tanh()), ValueError, "batch_norm: activation must be a module of "),
    (lambda: nn.BatchNorm1d(3, activation=nn.SiLU(dropout=0.5)), ValueError,
     "BatchNorm1d: activation must have no dropout of its own beside the block's, got SiLU(dropout=0.5)"),
    (lambda: nn.BatchNorm1d(3, activation=Doubled()), ValueError,
     "BatchNorm1d: activation must have the forward of ReLU, got Doubled with one of its own"),
    (lambda: nn.GLU(activation=Tripled()), ValueError,
     "GLU: activation must have the forward of SiLU, got Tripled with one of its own"),
    (lambda: F.bias_activation(X, None, Doubled()), ValueError,
     "bias_activation: activation must have the forward of ReLU, got Doubled with one of its own"),
    (lambda: setattr(nn.BatchNorm1d(3), "activation", torch.relu), TypeError,
     "BatchNorm1d: activation must be a name or an activation module, got builtin_function_or_method"),
    (lambda: setattr(nn.BatchNorm1d(3), "activation", "swish(x"), ValueError,
     "BatchNorm1d: activation must read like name or name(constant=number), got 'swish(x'"),
    (lambda: batch_norm(activation="leaky_relu('steep')"), ValueError,
     "batch_norm: activation must read like name or name(constant=number), got \"leaky_relu('steep')\""),
    (lambda: batch_norm(activation="leaky_relu(0.2)(3)"), ValueError,
     "batch_norm: activation must read like name or name(constant=number), got 'leaky_relu(0.2)(3)'"),
    (lambda: batch_norm(activation="leaky_relu(0.2, negative_slope=0.3)"), ValueError,
     "batch_norm: activation must read like name or name(constant=number), got 'leaky_relu(0.2, negative_slope=0.3)'"),
    (lambda: batch_norm(torch.ones(1, 3)), ValueError,
     "batch_norm: x must have more than 1 value per channel when training, got shape (1, 3)"),
    (lambda: nn.BatchNorm2d(3)(X), ValueError, "BatchNorm2d: x must be 4-D, got 2-D of shape (4, 3)"),
    (lambda: nn.BatchNorm1d(3)(torch.ones(3)), ValueError, "BatchNorm1d: x must be 2-D or 3-D, got 1-D of shape (3,)"),
    (lambda: batch_norm(activation="gelu(approximate='erf')"), ValueError,
     "batch_norm: approximate must be one of none, tanh, got 'erf'"),
    (lambda: F.dropout(None), TypeError, "dropout: x must be a Tensor, got NoneType"),
    (lambda: F.dropout(None, training=False), TypeError, "dropout: x must be a Tensor, got NoneType"),
    (lambda: F.dropout2d(None), TypeError, "dropout2d: x must be a Tensor, got NoneType"),
    (lambda: F.alpha_dropout([1.0]), TypeError, "alpha_dropout: x must be a Tensor, got list"),
    (lambda: F.dropout(X, 1.5), ValueError, "dropout: p must be between 0 and 1, got 1.5"),
    (lambda: F.dropout(X, float("nan")), ValueError, "dropout: p must be between 0 and 1, got nan"),
    (lambda: F.dropout(X, "0.5"), TypeError, "dropout: p must be a number, got str"),
    (lambda: F.glu(torch.ones(4, 6), dropout=None), TypeError, "glu: dropout must be a number, got NoneType"),
    (lambda: F.relu(X, dropout=None), TypeError, "relu: dropout must be a number, got NoneType"),
    (lambda: F.glu(torch.ones(4, 6), dim=None), TypeError, "glu: dim must be a whole number, got NoneType"),
    (lambda: F.bias_activation(X, None, "relu", channel_dim=0.5), TypeError,
     "bias_activation: channel_dim must be a whole number, got float"),
    (lambda: batch_norm(momentum="0.1"), TypeError, "batch_norm: momentum must be a number, got str"),
    (lambda: batch_norm(eps=None), TypeError, "batch_norm: eps must be a number, got NoneType"),
    (lambda: batch_norm(num_batches_tracked=3), TypeError, "batch_norm: num_batches_tracked must be a Tensor, got int"),
    (lambda: nn.Swish(beta="1"), TypeError, "Swish: beta must be a number, got str"),
    (lambda: nn.ISRU(alpha=torch.ones(2)), TypeError, "ISRU: alpha must be a number, got Tensor"),
    (lambda: nn.FeatureNorm(3, eps=-1.0), ValueError, "FeatureNorm: eps must be at least 0, got -1.0"),
    (lambda: nn.SiLU(dropout=-0.1), ValueError, "SiLU: dropout must be between 0 and 1, got -0.1"),
    (lambda: nn.Dropout(1.5), ValueError, "dropout probability has to be between 0 and 1, but got 1.5"),
    (lambda: batch_norm(dropout=2.0), ValueError, "batch_norm: dropout must be between 0 and 1, got 2.0"),
    (lambda: nn.BatchNorm1d(3, activation="swisch"), ValueError, f"BatchNorm1d: activation must be one of {NAMES}, got 'swisch'"),
    (lambda: batch_norm(activation="swisch"), ValueError, f"batch_norm: activation must be one of {NAMES}, got 'swisch'"),
    (lambda: batch_norm(activation=torch.nn.Linear(1, 1)), ValueError, "batch_norm: activation must be a module of "),
    (lambda: batch_norm(activation=3), TypeError, "batch_norm: activation must be a name or an activation module, got int"),
    (lambda: batch_norm(activation="prelu"), ValueError,
     "batch_norm: activation must be a module such as fastlayers.nn.PReLU() where it has learnable parameters, got 'prelu'"),
    (lambda: batch_norm(activation="leaky_relu(slope=2)"), ValueError,
     "batch_norm: leaky_relu must take no constants but negative_slope, got 'leaky_relu(slope=2)'"),
    (lambda: batch_norm(activation="leaky_relu(1, 2)"), ValueError,
     "batch_norm: leaky_relu must take no constants but negative_slope, got 'leaky_relu(1, 2)'"),
    (lambda: batch_norm(activation="relu6(1)"), ValueError, "batch_norm: relu6 must take no constants, got 'relu6(1)'"),
    (lambda: batch_norm(activation="leaky_relu(x"), ValueError,
     "batch_norm: activation must read like name or name(constant=number), got 'leaky_relu(x'"),
    (lambda: batch_norm(activation="threshold"), ValueError, "batch_norm: threshold must be given threshold and value, got 'threshold'"),
    (lambda: batch_norm(activation="isru(-1)"), ValueError, "batch_norm: alpha must be a number above 0, got -1.0"),
    (lambda: nn.ISRU(1.0, alpha=2.0), TypeError, "ISRU: arguments must be alpha, got (1.0,) and {'alpha': 2.0}"),
    (lambda: nn.APL(num_hinges=0), ValueError, "APL: num_hinges must be between 1 and 8, got 0"),
    (lambda: nn.APL(num_hinges=2.0), TypeError, "APL: num_hinges must be a whole number, got float"),
    (lambda: nn.SReLU(num_parameters=0), ValueError, "SReLU: num_parameters must be at least 1, got 0"),
    (lambda: nn.SReLU(3), TypeError, "SReLU: arguments must be num_parameters, t_l, a_l, t_r, a_r by keyword, got (3,) and {}"),
    (lambda: nn.BinaryStep(2), ValueError, "BinaryStep: straight_through must be a number at least 0 and at most 1, got 2"),
    (lambda: F.leaky_relu(X, float("nan")), ValueError, "leaky_relu: negative_slope must be a number, got nan"),
    (lambda: nn.ISRU(0.0), ValueError, "ISRU: alpha must be a number above 0, got 0.0"),
    (lambda: nn.CELU(0.0)(X), ValueError, "CELU: alpha must be a number but not 0, got 0.0"),
    (lambda: nn.Softshrink(-1.0)(X), ValueError, "Softshrink: lambd must be a number at least 0, got -1.0"),
    (lambda: F.rrelu(X, 0.5, float("inf")), ValueError, "rrelu: upper must be a finite number, got inf"),
    (lambda: F.rrelu(X, 0.5, 0.2), ValueError, "rrelu: constants must be in the order lower <= upper, got 0.5 and 0.2"),
    (lambda: nn.SReLU(num_parameters=4)(X), RuntimeError, "SReLU: t_l must hold 1 or 3 values, one per channel, got 4"),
    (lambda: nn.BatchNorm1d(3, activation=nn.APL(num_parameters=2))(X), RuntimeError,
     "batch_norm: activation must hold 1 or 3 values, one per channel, got 2"),
    (lambda: F.srelu(X, torch.zeros(1), torch.zeros(1)), TypeError,
     "srelu: arguments must be x, t_l, a_l, t_r, a_r, got 3 positional and no keywords"),
    (lambda: F.snake(X, 0.5), TypeError, "snake: alpha must be a Tensor, got float"),
    (lambda: F.swish(X, torch.ones(1, dtype=torch.int64)), RuntimeError, "swish: beta must be float32 for x of float32, got int64"),
    (lambda: F.apl(X, torch.zeros(3), torch.zeros(2)), RuntimeError,
     "apl: a and b must have the same number of rows, 1 to 8, got shapes (3,) and (2,)"),
    (lambda: F.prelu(torch.ones(2, 8), torch.ones(2, 4)), RuntimeError,
     "prelu: weight must hold 1 value or one per channel each, got shapes (2, 4)"),
    (lambda: F.srelu(X, torch.zeros(1), torch.zeros(3), torch.ones(1), torch.ones(2)), RuntimeError,
     "srelu: t_l and a_l and t_r and a_r must hold 1 value or one per channel each, got shapes (1,) and (3,) and (1,) and (2,)"),
    (lambda: F.apl(X, torch.zeros(2, 3), torch.zeros(2, 2)), RuntimeError,
     "apl: a and b must hold 1 value or one per channel each, got shapes (2, 3) and (2, 2)"),
    (lambda: nn.PReLU(3)(torch.ones(3)), RuntimeError, "PReLU: weight must hold 1 value for x of shape (3,), got 3"),
    (lambda: nn.ISRU("1"), TypeError, "ISRU: alpha must be a number, got str"),
    (lambda: nn.LeakyReLU(None)(X), TypeError, "LeakyReLU: negative_slope must be a number, got NoneType"),
    (lambda: nn.GELU("erf")(X), ValueError, "GELU: approximate must be one of none, tanh, got 'erf'"),
    (lambda: batch_norm(activation=torch.nn.GELU("erf")), ValueError, "batch_norm: approximate must be one of none, tanh, got 'erf'"),
    (lambda: F.threshold(X), TypeError, "threshold: arguments must be x, threshold, value, inplace, got 1 positional and no keywords"),
    (lambda: nn.Sinc()(torch.arange(3)), RuntimeError, "Sinc: x must be float32, bfloat16, float16 or float64, got int64"),
    (lambda: nn.Mish()(torch.ones(3, dtype=torch.complex64)), RuntimeError,
     "Mish: x must be float32, bfloat16, float16 or float64, got complex64"),
    (lambda: F.gelu(X, "erf"), ValueError, "gelu: approximate must be one of none, tanh, got 'erf'"),
    (lambda: F.silu(X, False, 3), TypeError, "silu: arguments must be x, inplace, got 3 positional and no keywords"),
    (lambda: F.batch_norm(X, None, None), RuntimeError,
     "batch_norm: running_mean and running_var must be given when training=False, got None"),
    (lambda: F.batch_norm(X, torch.zeros(3), None, training=True), ValueError,
     "batch_norm: running_var must be given together with running_mean, got None"),
    (lambda: F.batch_norm(X, None, torch.ones(3)), RuntimeError,
     "batch_norm: running_mean must be given together with running_var, got None"),
    (lambda: batch_norm(momentum=None), RuntimeError, "batch_norm: num_batches_tracked must be given when momentum is None, got None"),
    (lambda: fl.backend("tritton"), ValueError, "backend: name must be one of auto, reference, cpp, triton, cuda, got 'tritton'"),
    (lambda: fl.backend("cuda"), RuntimeError, "backend: name must be an available backend, got 'cuda': "),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=[message[:60] for _, _, message in REFUSED])
def test_refusal(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + re.escape(message)):
        call()


@pytest.mark.parametrize("call", [
    lambda F, x: F.softshrink(x, -0.5), lambda F, x: F.rrelu(x, 0.5, 0.2, training=True), lambda F, x: F.celu(x, 0.0),
    lambda F, x: F.gelu(x, approximate="bad"),
], ids=["softshrink", "rrelu", "celu", "gelu"])
def test_what_torchs_kernels_refuse_is_a_runtime_error_too(call) -> None:
    for functions in (torch.nn.functional, F):
        with pytest.raises(RuntimeError):
            call(functions, X)


@pytest.mark.parametrize("spoil", [
    lambda: {"input": torch.randn(1, 3)}, lambda: {"input": torch.randn(4, 5)}, lambda: {"residual": torch.randn(4, 2)},
    lambda: {"input": torch.randn(4, 3).double()}, lambda: {"input": torch.ones(4, 3, dtype=torch.int32)},
], ids=["one value", "channels", "residual", "dtype", "integer"])
@pytest.mark.parametrize("name", ["reference", "cpp"])
def test_a_refused_batch_changes_nothing(name: str, spoil) -> None:
    """Running statistics, batch count and parameters are bit for bit what they were."""
    if not fl.backends()[name].startswith("available"):
        pytest.skip(fl.backends()[name])
    layer = nn.BatchNorm1d(3, activation="relu", dropout=0.1)
    layer(torch.randn(8, 3))
    before = copy.deepcopy(layer.state_dict())
    with fl.backend(name), pytest.raises((ValueError, RuntimeError)):
        layer(**{"input": torch.randn(4, 3), **spoil()})
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_extension_checks_for_itself() -> None:
    """Whoever calls the C++ entry points past the Python layer is refused too, not crashed."""
    cpp = pytest.importorskip("fastlayers._C", reason="the C++ extension is not built")
    x = torch.randn(4, 3)
    plain = (None, None, None, None, None, None, "relu", (), 0.0, 1)
    running = (torch.zeros(2), torch.zeros(2), None)
    for bad in (
        lambda: cpp.epilogue_forward(x, None, torch.ones(2), *plain[2:]),
        lambda: cpp.epilogue_forward(x, None, torch.ones(3).double(), *plain[2:]),
        lambda: cpp.epilogue_forward(x, None, None, None, torch.ones(3, 4), *plain[4:]),
        lambda: cpp.epilogue_forward(x.int(), *plain),
        lambda: cpp.epilogue_forward(x.expand(2, 4, 3), *plain),
        lambda: cpp.epilogue_forward(x, *plain[:6], "swisch", (), 0.0, 1),
        lambda: cpp.epilogue_forward(x, *plain[:6], "leaky_relu", (), 0.0, 1),
        lambda: cpp.epilogue_forward(x, *plain[:6], "prelu", (), 0.0, 1),
        lambda: cpp.epilogue_forward(x, *plain[:-1], 2),
        lambda: cpp.epilogue_backward(torch.ones(3, 4), x, *plain, False, (True,) * 5),
        lambda: cpp.batch_norm_forward(x, None, None, *running, None, None, None, "relu", (), 0.0, True, 0.1, 1e-5, 1),
    ):
        with pytest.raises((RuntimeError, ValueError, TypeError), match="must"):
            bad()


@pytest.mark.parametrize("rows", [0, 1, 3, 18])
def test_wrong_number_of_hinges(rows: int) -> None:
    cpp = pytest.importorskip("fastlayers._C", reason="the C++ extension is not built")
    parameters = torch.zeros(rows, 1)
    with pytest.raises(ValueError, match=r"parameters must be a contiguous cpu tensor of shape \[2 times 1 to 8, 1 or 3\], got shape"):
        cpp.epilogue_forward(torch.zeros(2, 3), None, None, None, None, parameters, None, "apl", (), 0.0, 1)


def test_random_activation_without_seed() -> None:
    cpp = pytest.importorskip("fastlayers._C", reason="the C++ extension is not built")
    with pytest.raises(ValueError, match="epilogue_forward: seed must be given for rrelu, got None"):
        cpp.epilogue_forward(torch.zeros(2, 3), None, None, None, None, None, None, "rrelu", (0.1, 0.3), 0.0, 1)
