"""Gated units: torch.nn.GLU, and SwiGLU and GEGLU as users compose them, on transformer and convolution shapes."""
from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastlayers import nn as fused_nn

from .cases import DTYPES, Case, Contenders

SHAPES = (((2048, 4096), -1), ((32, 64, 56, 56), 1), ((64, 512), -1))
UNITS = {
    "glu": (nn.functional.sigmoid, fused_nn.GLU), "swiglu": (nn.functional.silu, fused_nn.SwiGLU),
    "geglu": (nn.functional.gelu, fused_nn.GEGLU),
}


def gated_cases(dtype: str) -> Iterator[Case]:
    """Forward and backward of each unit on each shape; the yardstick's tensor is x."""
    for shape, dim in SHAPES:
        yield from (_unit(name, shape, dim, dtype) for name in UNITS)


def _unit(name: str, shape: tuple[int, ...], dim: int, dtype: str) -> Case:
    """x, y; x, dy, dx: four times x's size."""
    function, fused = UNITS[name]

    def composed(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim)
        return a * function(b)

    def build(device: torch.device, compile_too: bool) -> Contenders:
        x = torch.randn(shape, device=device).to(DTYPES[dtype])
        dy = torch.randn_like(x.chunk(2, dim)[0]).contiguous()
        x.requires_grad_()
        models = {"eager": nn.GLU(dim) if name == "glu" else composed}
        if compile_too:
            models["compile"] = torch.compile(models["eager"])
        models["ours"] = fused(dim)
        return {contender: lambda model=model: torch.autograd.grad(model(x), x, dy) for contender, model in models.items()}

    size = math.prod(shape)
    return Case(f"{name} {'x'.join(map(str, shape))} {dtype}", 4 * size * DTYPES[dtype].itemsize, size, dtype, build)
