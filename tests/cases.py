"""The one table of cases that every backend runs through: shapes, layouts, dtypes, what the epilogue is made of."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastlayers
from fastlayers.plot import PANELS
from fastlayers.reference.dtypes import accumulate_dtype
from fastlayers.specs import ACTIVATIONS, Activation

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

needs_cpp = pytest.mark.skipif(not fastlayers.backends()["cpp"].startswith("available"), reason=fastlayers.backends()["cpp"])
"""For what only the C++ extension has; .ci/run sets FASTLAYERS_CPP=1, by which an extension that is not built fails there."""


@dataclass(frozen=True)
class Case:
    """One call of the epilogue or of batch norm."""

    activation: str = "relu"
    shape: tuple[int, ...] = (3, 5, 4, 7)
    layout: str = "contiguous"
    """contiguous, channels_last, or permuted: dense, but in the reversed order of dimensions."""
    dtype: torch.dtype = torch.float32
    affine: bool = True
    residual: bool = True
    p: float = 0.25
    per_channel: bool = True
    """Whether learnable parameters are one per channel."""
    channel_dim: int = 1

    def __str__(self) -> str:
        parts = [self.activation, "x".join(map(str, self.shape)), self.layout, str(self.dtype).removeprefix("torch.")]
        flags = {"affine": self.affine, "residual": self.residual, f"p{self.p}": self.p > 0, "shared": not self.per_channel,
                 f"dim{self.channel_dim}": self.channel_dim != 1}
        return "-".join(parts + [name for name, there in flags.items() if there])


_SIZES = [(1, 1), (2, 1), (1, 3), (2, 3, 1), (1, 1, 7), (2, 3, 8), (3, 2, 9), (1, 2, 127), (2, 1, 128), (1, 3, 129), (129, 3), (128, 4),
          (37, 33), (1, 1, 4095), (1, 1, 4096), (2, 1, 4097), (5, 16, 49), (2, 300, 3), (2500, 2), (0, 3), (3, 0), (2, 3, 0, 4)]

EPILOGUE = (
    [Case(name, dtype=dtype) for name in ACTIVATIONS for dtype in DTYPES]
    + [Case(name, (2, 5, 33), affine=False, residual=False, p=0.0, per_channel=False) for name in ACTIVATIONS]
    + [Case(name, (4, 6, 5, 3), "channels_last", torch.bfloat16, residual=False) for name in ACTIVATIONS]
    + [Case("srelu", (4, 6, 5, 3), "channels_last", per_channel=shared) for shared in (True, False)]
    + [Case("prelu", shape) for shape in _SIZES]
    + [Case("silu", shape, dtype=torch.bfloat16, residual=False) for shape in _SIZES]
    + [Case("prelu", (3, 5, 4, 7), layout, dtype, per_channel=shared) for layout in ("channels_last", "permuted")
       for dtype in (torch.float32, torch.float16) for shared in (True, False)]
    + [Case("identity", (1, 1, 100003), affine=False, residual=False, p=p) for p in (2**-16, 0.5, 1 - 2**-16, 1.0)]
    + [Case("relu", (6, 4, 10), channel_dim=2), Case("prelu", (6, 4, 10), channel_dim=0, dtype=torch.float64)]
)

BATCH_NORM = (
    [Case(name, (4, 5, 3, 7)) for name in ACTIVATIONS]
    + [Case(name, (4, 8, 3, 3), "channels_last", torch.bfloat16) for name in ACTIVATIONS]
    + [Case(activation, (6, 8, 5, 5), layout, dtype, residual=residual, p=p) for activation in ("identity", "relu", "silu")
       for layout in ("contiguous", "channels_last") for dtype in (torch.float32, torch.bfloat16)
       for residual, p in ((False, 0.0), (True, 0.1))]
    + [Case("prelu", (6, 3, 5, 5), layout, dtype, affine=False) for layout in ("contiguous", "permuted")
       for dtype in (torch.float64, torch.float16)]
    + [Case("silu", shape) for shape in ((2, 1), (128, 4), (130, 33), (2, 3, 1), (2, 2, 129), (1, 2, 5000), (2, 70, 49), (700, 2, 3))]
    + [Case(activation, shape, layout, dtype, residual=residual, p=p)
       for shape, layout in (((3, 90, 7, 7), "contiguous"), ((2, 40, 15, 17), "contiguous"), ((9, 300, 7), "contiguous"),
                             ((7, 1100), "contiguous"), ((41, 2100), "contiguous"), ((3, 1040, 5, 5), "channels_last"))
       for activation, dtype, residual, p in (("relu", torch.float32, False, 0.0), ("silu", torch.bfloat16, True, 0.1))]
    + [Case("prelu", shape) for shape in ((3, 90, 7, 7), (9, 300, 7), (7, 1100))]
)


@dataclass
class Inputs:
    """The tensors of a case, as kernels take them."""

    x: Tensor
    dy: Tensor
    mean: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    residual: Tensor | None
    parameters: Tensor | None
    seed: Tensor | None
    row: Activation
    constants: tuple[float, ...]
    p: float
    channel_dim: int
    epilogue: tuple = field(init=False)
    """Everything after x in the arguments of epilogue_forward."""

    def __post_init__(self) -> None:
        self.epilogue = (self.mean, self.scale, self.shift, self.residual, self.parameters, self.seed, self.row.name, self.constants,
                         self.p, self.channel_dim)

    def double(self) -> Inputs:
        """The same numbers in float64, for the oracle."""
        tensors = (self.x, self.dy, self.mean, self.scale, self.shift, self.residual, self.parameters)
        wide = [tensor if tensor is None else tensor.double() for tensor in tensors]
        return Inputs(*wide, self.seed, self.row, self.constants, self.p, self.channel_dim)


def module(name: str, *arguments: object, **keywords: object) -> torch.nn.Module:
    """A layer of fastlayers.nn by class name, with an example of each argument that must be given; learnable parameters have moved
    a little from their start, each by another amount."""
    kind = getattr(fastlayers.nn, name)
    rows = [row for row in ACTIVATIONS.values() if row.module == name]
    if "Norm" in name:
        arguments = arguments or (4,)
    elif rows and not arguments:
        keywords = {constant.name: constant.default for constant in rows[0].constants if constant.required} | keywords
    layer = kind(*arguments, **keywords)
    if rows:
        with torch.no_grad():
            for k, parameter in enumerate(layer.parameters()):
                parameter += 0.1 + 0.07 * k
    return layer


def state(layer: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of a layer's buffers."""
    return {name: value.clone() for name, value in layer.named_buffers()}


def arrange(x: Tensor, layout: str) -> Tensor:
    """x with its memory in the named order."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "permuted":
        order = list(reversed(range(x.dim())))
        return x.permute(order).contiguous().permute(order)
    return x.contiguous()


REPEATS = 3  # hinges of an activation that has several

ELSEWHERE = {"srelu": [-1.5, 0.25, 2.0, 0.5], "swish": [1.7], "prelu": [-0.3], "apl": [0.3, -0.2, -0.5, 1.0]}
"""Learnable parameters away from where they start, for the Triton kernels; tests/cpu_results.py has those of the C++ kernels."""
HALF_ELSEWHERE = [("soft_exponential", 0.3), ("soft_exponential", -0.3), ("snake", -1.7)]
"""Likewise, for half types: in float32 the terms of these cancel, or nobody knows the phase."""


def learnable(row: Activation, columns: int, dtype: torch.dtype) -> Tensor | None:
    """Learnable parameters [K, columns] somewhat above their start."""
    if not row.learnables:
        return None
    start = torch.tensor(row.start(REPEATS if row.repeats else None), dtype=dtype)
    return start.unsqueeze(1) + torch.empty(start.numel(), columns, dtype=dtype).uniform_(0.05, 0.45)


def make_inputs(case: Case, device: torch.device | str = "cpu") -> Inputs:
    """Random tensors for a case; values spread over [-4, 4], none within rounding of a kink."""
    row = ACTIVATIONS[case.activation]
    channels = case.shape[case.channel_dim]

    def like_x() -> Tensor:
        return arrange(torch.randn(case.shape, dtype=torch.float64) * 2, case.layout).to(case.dtype).to(device)

    x = like_x()
    vector = lambda low, high: torch.empty(channels, dtype=accumulate_dtype(x)).uniform_(low, high).to(device)  # noqa: E731
    parameters = learnable(row, channels if case.per_channel else 1, accumulate_dtype(x))
    parameters = parameters if parameters is None else parameters.to(device)
    return Inputs(
        x, like_x(), vector(-1, 1) if case.affine else None, vector(0.5, 1.5) if case.affine else None,
        vector(-1, 1) if case.affine else None, like_x() if case.residual else None, parameters,
        torch.tensor(0x123456789ABCDEF, device=device) if case.p or row.random else None, row,
        tuple(float(constant.default) for constant in row.constants), case.p, case.channel_dim)


def panels(path: Path) -> list[str]:
    """The titles of the panels of a sheet of plots, which stand in its metadata."""
    from PIL import Image  # which comes with matplotlib

    with Image.open(path) as sheet:
        return sheet.text[PANELS].split("\n")


class Twice(torch.nn.ReLU):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def bn_relu() -> list[torch.nn.Module]:
    return [torch.nn.BatchNorm1d(4), torch.nn.ReLU()]
