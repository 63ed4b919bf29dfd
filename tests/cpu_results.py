"""What the C++ kernels compute on every instruction set: the inputs, the arguments, and the results, which tests compare.

Each instruction set runs in a process of its own, since the choice is made at import; this file is what such a process runs.
"""
from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import mpmath
import torch
from torch import Tensor

from fastlayers import specs
from fastlayers.reference import activations, dropout

ROWS = tuple(specs.ACTIVATIONS.values())
HALF_TYPES = (torch.float16, torch.bfloat16)
SWEEP_STRIDE = 4093  # of float32 bit patterns: 2^20 of them, in every binade
SEED = 0x123456789ABCDEF


def float32_inputs() -> Tensor:
    """Bit patterns from all over float32, plus zeros, infinities, NaN, the kinks, and the neighbours of all these."""
    sweep = torch.arange(-(2**31), 2**31, SWEEP_STRIDE, dtype=torch.int64).to(torch.int32).view(torch.float32)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, *(kink for row in ROWS for kink, _ in row.kinks)]
    points = torch.tensor(special)
    up, down = torch.full_like(points, math.inf), torch.full_like(points, -math.inf)
    dense = torch.linspace(-15, 15, 100_001)  # where the functions bend
    return torch.cat([sweep, points, torch.nextafter(points, up), torch.nextafter(points, down), dense])


def inputs(dtype: torch.dtype, index: int = 0) -> Tensor:
    """All 65,536 values of a half type; float32_inputs, a sixteenth of them for arguments other than the defaults."""
    if dtype == torch.float32:
        return float32_inputs()[::16 if index else 1].contiguous()
    return torch.arange(-(2**15), 2**15, dtype=torch.int64).to(torch.int16).view(dtype)


DOUBLES = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "log_sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "tanhshrink": lambda x: x - mpmath.tanh(x),
}
"""What is made of the exponential, whose float64 has series of its own."""


def float64_inputs() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([scale * torch.randn(200, dtype=torch.float64, generator=generator) for scale in (1e-3, 0.5, 2, 12)])
    return x.clamp(-37, 19)  # where gelu begins to leave the normal range, and softplus ends


Arguments = tuple[tuple[float, ...], tuple[float, ...]]
OTHER_ARGUMENTS: dict[str, list[Arguments]] = {
    "binary_step": [((), (1.0,))],
    "leaky_relu": [((), (0.0,)), ((), (-0.5,))],
    "prelu": [((0.0,), ()), ((-1.5,), ()), ((30000.0,), ())],
    "rrelu": [((), (-0.25, 0.75))],
    "elu": [((), (0.25,)), ((), (-2.0,))],
    "celu": [((), (0.375,)), ((), (3.0,)), ((), (-1.5,))],
    "isru": [((), (0.03125,)), ((), (50.0,))],
    "isrlu": [((), (0.03125,)), ((), (50.0,))],
    "srelu": [((-1.0, -0.5, 2.0, 3.0), ()), ((0.25, 0.0, 0.75, -0.75), ()), ((3.0, 20.0, -4.0, 0.0), ())],
    "apl": [((0.5, -1.25), ()), ((0.25, -0.5, 3.0, 1.0, 0.0, -2.0), ()),
            ((0.1, -0.2, 0.3, -0.4, 0.5, 0.0, 2.0, -30.0, 1.0, -1.0, 2.0, -2.0, 3.0, 0.0, 0.5, 100.0), ())],
    "softplus": [((), (2.5, 20.0)), ((), (0.125, 5.0)), ((), (-1.5, 10.0))],
    "soft_exponential": [((alpha,), ()) for alpha in (-3.0, -1.25, -0.7, -0.01, 0.01, 0.3, 0.9, 2.5)],
    "swish": [((0.0,), ()), ((-1.3,), ()), ((40.0,), ()), ((0.01,), ())],
    "hardtanh": [((), (-2.0, 0.5))],
    "softshrink": [((), (0.0,)), ((), (1.5,))],
    "hardshrink": [((), (2.0,)), ((), (-1.0,))],
    "threshold": [((), (-1.0, 3.0))],
    "snake": [((0.0,), ()), ((-0.7,), ()), ((5.0,), ()), ((40.0,), ())],
}
"""(learnable parameters, constants) that are not the defaults."""


def all_arguments(row: specs.Activation) -> list[Arguments]:
    """The defaults, then the others."""
    return [(tuple(row.start()), tuple(float(constant.default) for constant in row.constants)), *OTHER_ARGUMENTS.get(row.name, [])]


CASES = [(row, index) for row in ROWS for index in range(len(all_arguments(row)))]


def given(row: specs.Activation, index: int, x: Tensor) -> list[Tensor | float]:
    """What the reference functions take after x, in its dtype."""
    learnables, constants = all_arguments(row)[index]
    uniform = [dropout.uniform_like(x, torch.tensor(SEED))] if row.random else []
    return [*torch.tensor(learnables, dtype=torch.float32).to(x.dtype), *constants, *uniform]


def run_kernels() -> dict[object, Tensor]:
    """Everything that the tests look at, computed by the instruction set of this process."""
    from fastlayers import _C

    results: dict[object, Tensor] = {}
    for row, index in CASES:
        learnables, constants = all_arguments(row)[index]
        parameters = torch.tensor(learnables)[:, None] if learnables else None
        seed = torch.tensor(SEED) if row.random else None
        common = (None, None, None, parameters, seed, row.name, constants, 0.0)
        for dtype in (torch.float32, *HALF_TYPES):
            x = inputs(dtype, index)
            dx = (True, False, False, False, False)
            results[row.name, index, dtype, "value"] = _C.epilogue_forward(x, None, *common, 0)
            results[row.name, index, dtype, "derivative"] = _C.epilogue_backward(torch.ones_like(x), x, None, *common, 0, False, dx)[0]
        x = inputs(torch.float32, index)
        if row.derives_from_output(constants):
            y = activations.function(row.name)(x.double(), *given(row, index, x.double())).float()
            results[row.name, index, "from_output"] = _C.epilogue_backward(torch.ones_like(y), y, None, *common, 0, True, dx)[0]
        if learnables:  # every element a channel with parameters of its own: their gradients are then those of one element
            spread = (None, None, None, parameters.expand(-1, x.numel()).contiguous(), seed, row.name, constants, 0.0)
            wanted = (True, False, False, False, True)
            dx, *_, slopes = _C.epilogue_backward(torch.ones_like(x)[None], x[None], None, *spread, 1, False, wanted)
            results[row.name, index, "parameters"] = slopes
            results[row.name, index, "derivative along"] = dx[0]
    for name in DOUBLES:
        x, common = float64_inputs(), (None, None, None, None, None, name, all_arguments(specs.ACTIVATIONS[name])[0][1], 0.0)
        results[name, "float64 value"] = _C.epilogue_forward(x, None, *common, 0)
        wanted = (True, False, False, False, False)
        results[name, "float64 derivative"] = _C.epilogue_backward(torch.ones_like(x), x, None, *common, 0, False, wanted)[0]
    results["mask"] = torch.stack([_C.dropout_mask(first, 5000, torch.tensor(SEED), 0.3) for first in (0, 3, 2**35 + 5)])
    results.update(layer_results())
    return results


def layer_results() -> dict[object, Tensor]:
    """Batch norm with everything on, forward and backward, in shapes that take each path."""
    from fastlayers import _C

    results = {}
    for shape in ((6, 5, 7, 9), (4, 3, 150, 150), (300, 24), (3, 40, 3, 3), (64, 18, 20, 20)):
        for dtype in (torch.float32, torch.bfloat16):
            for channels_last in (False, True):
                if channels_last and len(shape) != 4:
                    continue
                generator = torch.Generator().manual_seed(0)
                x, dy, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
                if channels_last:
                    x, dy, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy, residual))
                weight, bias = torch.rand(shape[1], generator=generator), torch.randn(shape[1], generator=generator)
                tail = (residual, torch.full((1, shape[1]), 0.25), torch.tensor(SEED), "prelu", (), 0.1)
                y, mean, rstd = _C.batch_norm_forward(x, weight, bias, None, None, None, *tail, True, 0.1, 1e-5, 1)
                gradients = _C.batch_norm_backward(dy, x, mean, rstd, weight, bias, *tail, True, 1, (True,) * 5)
                for name, tensor in zip(("y", "mean", "rstd", "dx", "dresidual", "dweight", "dbias", "dparameters"),
                                        (y, mean, rstd, *gradients), strict=True):
                    results["layer", shape, dtype, channels_last, name] = tensor
    return results


def available_capabilities() -> list[str]:
    """Instruction sets that this processor has, worst first."""
    from fastlayers import _C

    names = ["baseline", "avx2", "avx512"]
    return names[:names.index(_C.cpu_capability()) + 1]


Results = dict[object, Tensor]


def of_every_capability(folder: Path) -> dict[str, Results]:
    """run_kernels() of each instruction set that this processor has; the folder is where its process leaves them."""
    processes = {capability: subprocess.Popen([sys.executable, __file__, str(folder / capability)],
                                              env={**os.environ, "FASTLAYERS_CPU_CAPABILITY": capability})
                 for capability in available_capabilities()}
    for capability, process in processes.items():
        assert process.wait(timeout=300) == 0, capability
    return {capability: torch.load(folder / capability, mmap=True) for capability in processes}


if __name__ == "__main__":
    torch.save(run_kernels(), sys.argv[1])
