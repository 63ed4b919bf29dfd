"""What the tests of compiled Triton kernels share: kernels compiled without a GPU, launches recorded, and the calls to make."""
from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
import triton
from ptxsim.resources import tools
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from fastlayers.reference.gated import empty_halved
from fastlayers.specs import ACTIVATIONS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32), "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64), "gfx1100": GPUTarget("hip", "gfx1100", 32),
}
OUTPUTS = {"y", "dx", "dresidual", "partials", "sums", "means", "mean", "m2", "rstd"}


@dataclass
class Launch:
    """One launch as it would have reached the GPU: the kernel, its compiled files by extension, its tensors by parameter."""

    kernel: str
    files: dict[str, Path]
    tensors: dict[str, Tensor]


class _Utilities:
    """What Triton asks of a device when it loads a kernel; nothing is loaded."""

    def __init__(self, driver: CompilingDriver) -> None:
        self._driver = driver

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 65536, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple:
        return None, (name, self._driver.loading), 0, 0, 1024

    def unload_module(self, module: object) -> None:
        pass


class CompilingDriver(DriverBase):
    """A Triton driver that compiles for ``target`` what is launched, exactly as on such a GPU, and runs nothing."""

    def __init__(self, target: GPUTarget) -> None:
        self.target, self.launches, self.utils, self.loading = target, [], _Utilities(self), {}
        self.launcher_cls = lambda source, metadata: lambda *call: self._record(dict(source.signature), *call)

    def _record(self, signature: dict, gx: int, gy: int, gz: int, stream: int, function: tuple, *rest: object) -> None:
        name, files = function
        arguments = zip(signature, rest[4:], strict=True)
        self.launches.append(Launch(name, files, {k: v for k, v in arguments if isinstance(v, Tensor)}))

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 1000 + list(TARGETS.values()).index(self.target)  # Triton keeps its kernels by device

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> None:
        raise NotImplementedError("kernels are not autotuned")

    def before_load(self, module: object, function: object, name: str, metadata_group: dict[str, str], hash: str) -> None:
        self.loading = {Path(file).suffix[1:]: Path(path) for file, path in metadata_group.items()}


@contextlib.contextmanager
def compiling(target: GPUTarget) -> Iterator[list[Launch]]:
    """Within the block launches are compiled for the target and recorded, not run."""
    driver, config = CompilingDriver(target), triton.runtime.driver
    previous = config._active
    config.set_active(driver)
    knobs.runtime.kernel_load_start_hook.add(driver.before_load)
    try:
        yield driver.launches
    finally:
        knobs.runtime.kernel_load_start_hook.remove(driver.before_load)
        config.set_active(previous)


@dataclass(frozen=True)
class Accesses:
    """Static facts of one compiled kernel: bytes of stack, which only spills need, global loads and stores of 128 bits and of less."""

    spilled: int
    wide_loads: int
    narrow_loads: int
    wide_stores: int
    narrow_stores: int


def accesses(files: dict[str, Path]) -> Accesses:
    """Read them from PTX, whose accesses ptxas keeps as wide as they are, and the cubin's stack frame; or from AMD assembly."""
    if "cubin" in files:
        usage = subprocess.run([tools("cuobjdump")[0], "-res-usage", files["cubin"]], capture_output=True, text=True, check=True).stdout
        spilled = sum(map(int, re.findall(r"STACK:(\d+)", usage)))
        found = re.findall(r"\b(ld|st)\.(?:volatile\.)?global\.(?:[\w:]+\.)*?(?:v(\d)\.)?b(\d+)", files["ptx"].read_text())
        found = [(kind == "ld", int(count or 1) * int(bits) >= 128) for kind, count, bits in found]
    else:
        text = files["amdgcn"].read_text()
        spilled = sum(map(int, re.findall(r"(?:vgpr_spill_count|private_segment_fixed_size): *(\d+)", text)))
        found = re.findall(r"^\s+(?:global|buffer|flat)_(load|store)_(\w+)", text, re.MULTILINE)
        found = [(kind == "load", width in ("dwordx4", "b128")) for kind, width in found]
    return Accesses(spilled, *(found.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def access_bits(where: str) -> int:
    """Bits that an executed PTX instruction moves in global memory, 0 if none; generic accesses are those through tables of addresses."""
    found = re.search(r"\b(?:ld|st)\.(?!(?:volatile\.)?(?:param|shared|local|const))(?:[\w:]+\.)*?(?:v(\d)\.)?[bfus](\d+)", where)
    return int(found[1] or 1) * int(found[2]) if found else 0


@dataclass(frozen=True)
class Call:
    """One call of the kernel interface: ``run(kernels, x, dy)``, and how many times it must at least read or write a whole tensor."""

    name: str
    run: Callable[[ModuleType, Tensor, Tensor], object]
    passes: int
    layouts: tuple[str, ...] = ("contiguous",)
    instructions: float = 35.0
    """How many a sweep may take per bfloat16 element; an H100 affords 8.8 for each byte of memory traffic."""
    traffic: float = 1.10
    """Sectors that warps request, over the minimum of the algorithm in bfloat16 and float32."""
    wide: bool = True
    """Whether half types are moved 128 bits at a time; else 64 by each of two neighbouring lanes."""
    unread: frozenset[str] = frozenset()
    """Whole tensors that are given but not needed, so that the compiler drops their loads."""

    def __str__(self) -> str:
        return self.name


def tensors(shape: tuple[int, ...], layout: str, dtype: torch.dtype, offset: int = 0) -> tuple[Tensor, Tensor]:
    """(x, dy), contiguous ones so many elements behind the beginning of their memory."""
    x, dy = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last), dy.contiguous(memory_format=torch.channels_last)
    if offset:
        x, dy = (torch.cat([t.new_zeros(offset), t.flatten()])[offset:].view(shape) for t in (x, dy))
    return x, dy


def assert_no_nan(results: object, x: Tensor) -> None:
    """What a call has returned holds no NaN; but where there is one value per channel, which has no variance."""
    pending = [results]
    while pending:
        result = pending.pop()
        if isinstance(result, tuple):
            pending += result
        elif result is not None and x.numel() > x.size(1):
            assert not result.isnan().any()


def vectors(x: Tensor, count: int) -> list[Tensor]:
    """Per-channel vectors."""
    return [torch.rand(x.size(1)) + 0.5 for _ in range(count)]


def _plain(name: str, kind: str, learnables: tuple[float, ...] | None = None) -> Call:
    """An activation alone: kind is forward, backward or from_output. Learnable parameters are where they start, unless given."""
    row = ACTIVATIONS[name]
    constants = tuple(float(constant.default) for constant in row.constants)
    dparameters = kind == "backward" and bool(row.learnables)

    def run(kernels: ModuleType, x: Tensor, dy: Tensor) -> object:
        parameters = torch.tensor(learnables or row.start())[:, None] if row.learnables else None
        x = x.clamp(-3, 3) if learnables else x  # beyond, soft_exponential has no value where alpha is negative
        arguments = (x, None, None, None, None, parameters, torch.tensor(1234) if row.random else None, name, constants, 0.0, 1)
        if kind == "forward":
            return kernels.epilogue_forward(*arguments)
        return kernels.epilogue_backward(dy, *arguments, kind == "from_output", (True, False, False, False, dparameters))

    reads_x = name not in ("identity", "binary_step") or kind == "forward"
    at = " at " + ", ".join(map(str, learnables)) if learnables else ""
    return Call(f"{name} {kind}{at}", run, 2 if kind == "forward" else 2 + reads_x, unread=frozenset(() if reads_x else ("x",)))


def _forward_backward(kernels: ModuleType, x: Tensor, dy: Tensor, activation: str, p: float, training: bool, residual: bool) -> object:
    """Batch norm both ways."""
    weight, bias, running_mean, running_var = vectors(x, 4)
    seed = torch.tensor(1234) if p else None
    parameters = torch.rand(1, x.size(1)) if activation == "prelu" else None
    tail = (dy.clone() if residual else None, parameters, seed, activation, (), p)
    y, mean, rstd = kernels.batch_norm_forward(x, weight, bias, running_mean, running_var, torch.tensor(0), *tail, training, 0.1, 1e-5, 1)
    mask = (True, residual, True, True, parameters is not None)
    return y, kernels.batch_norm_backward(dy, x, mean, rstd, weight, bias, *tail, training, 1, mask)


def _bias(kernels: ModuleType, x: Tensor, dy: Tensor) -> object:
    (bias,) = vectors(x, 1)
    arguments = (x, None, None, bias, None, None, None, "relu", (), 0.0, 1)
    return kernels.epilogue_forward(*arguments), kernels.epilogue_backward(dy, *arguments, False, (True, False, False, True, False))


def _dropout(kernels: ModuleType, x: Tensor, dy: Tensor) -> object:
    arguments = (x, None, None, None, None, None, torch.tensor(1234), "identity", (), 0.1, 1)
    return kernels.epilogue_forward(*arguments), kernels.epilogue_backward(dy, *arguments, False, (True, False, False, False, False))


def _hinges(kernels: ModuleType, x: Tensor, dy: Tensor, forward: bool) -> object:
    """apl with as many hinges as there can be, each channel its own."""
    arguments = (x, None, None, None, None, torch.rand(16, x.size(1)) - 0.5, None, "apl", (), 0.0, 1)
    if forward:
        return kernels.epilogue_forward(*arguments)
    return kernels.epilogue_backward(dy, *arguments, False, (True, False, False, False, True))


def _random(kernels: ModuleType, x: Tensor, dy: Tensor) -> object:
    arguments = (x, None, None, None, None, None, torch.tensor(1234), "rrelu", (0.125, 0.25), 0.1, 1)
    return kernels.epilogue_forward(*arguments), kernels.epilogue_backward(dy, *arguments, False, (True, False, False, False, False))


def _statistics_and_input(kernels: ModuleType, x: Tensor, dy: Tensor) -> object:
    mean, rstd, weight, bias, mean_dz, mean_dz_centred = vectors(x, 6)
    dx = kernels.batch_norm_backward_input(dy, x, mean, rstd, weight, bias, None, None, None, "relu", (), 0.0, 1, mean_dz, mean_dz_centred)
    return kernels.batch_norm_statistics(x, 1), dx


def _gated(kernels: ModuleType, x: Tensor, dy: Tensor, activation: str, p: float, dim: int, dparameters: bool = False) -> object:
    """A gated unit both ways. The last dimension, of 28, is joined with the one before: its halves are no multiple of eight."""
    x, dy = (x.flatten(2), dy.flatten(2)) if dim == 2 else (x, dy)
    parameters = torch.rand(1, 1) if activation == "prelu" else None
    rest = (parameters, torch.tensor(1234) if p else None, activation, (), p, dim, True)
    half = empty_halved(x, dim).copy_(dy.narrow(dim, 0, x.size(dim) // 2))
    return kernels.gated_forward(x, *rest), kernels.gated_backward(half, x, *rest, (True, dparameters))


def _inverse(kernels: ModuleType, x: Tensor, dy: Tensor) -> object:
    return kernels.epilogue_inverse(x, *vectors(x, 3), dy.clone(), torch.rand(1, x.size(1)) + 0.1, "prelu", (), 1)


BOTH = ("contiguous", "channels_last")


def _batch_norm(
    name: str, passes: int, activation: str = "relu", p: float = 0.0, training: bool = True, residual: bool = False,
) -> Call:
    return Call(name, partial(_forward_backward, activation=activation, p=p, training=training, residual=residual), passes, BOTH)


ACTIVATION_CALLS = [
    _plain(name, kind) for name, row in ACTIVATIONS.items() for kind in ("forward", "backward", "from_output")
    if kind != "from_output" or row.from_output != "never"
]
SIGNED_CALLS = [  # one compiled kernel, of which each sign of alpha takes its own part
    _plain("soft_exponential", kind, (alpha,)) for kind in ("forward", "backward") for alpha in (-0.1, 0.1)
]
GATED_CALLS = [  # an element of y takes two of x: what counts here are instructions for each half
    Call("silu gate", partial(_gated, activation="silu", p=0.0, dim=1), 4, BOTH, 35 / 2),
    Call("sigmoid gate, last dimension", partial(_gated, activation="sigmoid", p=0.0, dim=2), 4, instructions=35 / 2),
    Call("gelu gate", partial(_gated, activation="gelu", p=0.0, dim=1), 4, instructions=44 / 2),  # 88 are 10 bytes' worth
    Call("relu gate + dropout", partial(_gated, activation="relu", p=0.1, dim=0), 4, instructions=35 / 2),
    Call("prelu gate", partial(_gated, activation="prelu", p=0.0, dim=1, dparameters=True), 4, instructions=35 / 2),
]
LAYER_CALLS = [
    Call("bias + relu", _bias, 5, BOTH),
    Call("dropout", _dropout, 4),
    _batch_norm("batch norm + relu", 8),
    _batch_norm("batch norm + silu", 8, "silu"),
    _batch_norm("batch norm + relu + dropout", 8, p=0.1),
    _batch_norm("batch norm + residual + prelu + dropout", 12, "prelu", p=0.1, residual=True),
    _batch_norm("batch norm + gelu", 8, "gelu"),
    Call("apl with 8 hinges forward", partial(_hinges, forward=True), 2),
    # a hinge takes 7 in backward: its distance, whether that is positive, the slope it has then, dx and two sums
    Call("apl with 8 hinges backward", partial(_hinges, forward=False), 3, instructions=77.0),
    # a program of 4096 elements reads 16 values for each of 32 channels, an eighth as much, in two requests for each sector
    Call("apl with 8 hinges forward, channels_last", partial(_hinges, forward=True), 2, ("channels_last",), 39.5, traffic=1.26),
    Call("apl with 8 hinges backward, channels_last", partial(_hinges, forward=False), 3, ("channels_last",), 90.0, traffic=1.34,
         wide=False),
    Call("rrelu + dropout", _random, 5),
    _batch_norm("batch norm in eval", 5, training=False),
    Call("statistics, input gradient", _statistics_and_input, 4, BOTH),
    Call("inverse", _inverse, 3, BOTH),
]


CUDA_INSTRUCTIONS: dict[str, float] = {
    "apl with 8 hinges backward contiguous": 74.5,
    "apl with 8 hinges forward, channels_last channels_last": 43.0,
    "apl with 8 hinges backward, channels_last channels_last": 88.5,
    "rrelu + dropout contiguous": 36.5,
}
"""Per bfloat16 element and sweep, where the CUDA kernels of a call take more than its own limit."""
CUDA_TRAFFIC: dict[str, float] = {
    "apl with 8 hinges forward, channels_last channels_last": 1.13,
    "apl with 8 hinges backward, channels_last channels_last": 1.18,
}
"""Sectors over the minimum, likewise."""
CUDA_NARROW = tuple(f"apl with 8 hinges {way}, channels_last channels_last" for way in ("forward", "backward"))
"""A thread takes two elements, lest their 32 parameters and sums fill its registers."""
