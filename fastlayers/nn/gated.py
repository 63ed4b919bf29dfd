"""Gated linear units as modules: torch.nn.GLU with any activation for the gate, and those that have a name of their own."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Proxy

from .. import checks, functional
from ..activation_argument import parse, resolve
from ..overrides import traced
from .activations import from_name
from .scripting import NotScripted


class _Gated(NotScripted, torch.nn.Module):
    """y = dropout(a * activation(b)), a and b the halves of x along ``dim``."""

    def __init__(self, dim: int, activation: str | torch.nn.Module, gate_first: bool, dropout: float) -> None:
        operation = type(self).__name__
        checks.probability(operation, "dropout", dropout)
        if isinstance(activation, str) and parse(operation, activation)[0].learnables:
            activation = from_name(operation, activation)  # its parameters are this module's
        checks.gate(operation, resolve(operation, activation).row, None, None)
        torch.nn.Module.__init__(self)
        self.dim = dim
        self.activation = activation
        self.gate_first = gate_first
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        """y = dropout(a * activation(b)), dropout only while training; dtype and memory format of input, half its size along ``dim``."""
        if isinstance(input, Proxy):
            return traced(self, input)
        return functional.glu(
            input, self.dim, self.activation, gate_first=self.gate_first, dropout=self.dropout, training=self.training)

    def extra_repr(self) -> str:
        parts = [f"dim={self.dim}"]
        if isinstance(self, GLU) and isinstance(self.activation, str) and self.activation != "sigmoid":
            parts += [f"activation={self.activation!r}"]
        parts += ["gate_first=True"] if self.gate_first else []
        parts += [f"dropout={self.dropout}"] if self.dropout else []
        return ", ".join(parts)


class GLU(_Gated, torch.nn.GLU):
    """Gated linear unit: one half of x times an activation of the other, with dropout in the same kernel.

    y = dropout(a * activation(b)), a and b the first and second half of x along ``dim``. Drop-in for ``torch.nn.GLU``: same arguments,
    attributes and state_dict (an activation with learnable parameters adds its own under ``activation.``), plus the keywords. Nothing
    but x is kept for backward, and 8 bytes where there is dropout.

    Args:
        dim: the dimension that is cut in two. Default -1.
        activation: a name ("silu", "leaky_relu(0.2)"), or an activation module of fastlayers.nn or torch.nn whose learnable
            parameters are one value each; keyword only; default "sigmoid". "identity" makes the bilinear unit, "gelu_tanh" the GEGLU
            of T5. RReLU, which draws random numbers, is refused. The module itself is not called, and forward hooks on it do not run.
        gate_first: whether the activation is that of the first half, activation(a) * b, as in fused gate and up projections; keyword
            only; default False.
        dropout: probability of dropping an element of y while training; keyword only; default 0.

    Shape: x any, of an even size along ``dim``; y half of it. float32, float64, float16, bfloat16.

    Raises:
        RuntimeError: ``glu: x must have an even size along dim -1, got shape (4, 3)``, or a dtype that does not fit.
        ValueError: ``GLU: dropout must be between 0 and 1, got 1.5``, or a bad activation.

    Accuracy: the activation's, and one rounding each for the product and the dropout's scale, in float32 (float64 for float64).

    Source: Dauphin et al., arXiv:1612.08083.

    >>> y = GLU(activation="tanh")(torch.randn(4, 8))
    """

    def __init__(
        self, dim: int = -1, *, activation: str | torch.nn.Module = "sigmoid", gate_first: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__(dim, activation, gate_first, dropout)


def _named(name: str, activation: str, formula: str) -> type[torch.nn.Module]:
    """The class of a gated unit whose activation is fixed."""

    def __init__(self, dim: int = -1, *, gate_first: bool = False, dropout: float = 0.0) -> None:
        _Gated.__init__(self, dim, activation, gate_first, dropout)

    __init__.__qualname__ = f"{name}.__init__"  # as Python's own errors say it
    return type(name, (_Gated,), {"__init__": __init__, "__module__": __name__, "__doc__": f"""{name}: the gated unit of {activation}.

    y = dropout({formula}), a and b the first and second half of x along ``dim``.

    Args:
        dim, gate_first, dropout: as in :class:`GLU`; ``gate_first=True`` is what the output of one matrix product takes that
            stands for the gate's projection and the other after it.

    Shape, errors and accuracy: as in :class:`GLU`.

    Source: Shazeer, arXiv:2002.05202.

    >>> y = {name}(gate_first=True)(torch.randn(4, 8))
    """})


SwiGLU = _named("SwiGLU", "silu", "a * silu(b)")
GEGLU = _named("GEGLU", "gelu", "a * gelu(b)")
ReGLU = _named("ReGLU", "relu", "a * relu(b)")
