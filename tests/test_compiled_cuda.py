"""Every CUDA kernel as the GPU would get it: compiled for sm_90, and its PTX executed by the emulator under its checks.

What the kernels compute is a matter of the tables that every backend runs through; here it is how: no spills, whole tensors moved 128
bits at a time, no more traffic than the algorithm needs, few enough instructions to be bound by memory, and no block reads what another
writes. The launchers, which choose grids and blocks, are those that users get.
"""
from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import emulated_cuda, need_nvcc

pytest.importorskip("triton", reason="Triton is not installed, and the calls in compiled.py are those of its kernels too")
ptxsim = pytest.importorskip("ptxsim", reason="the emulator is installed with: pip install -e tools/ptxsim")
need_nvcc(allow_module_level=True)
import cases  # noqa: E402
import test_kernels  # noqa: E402
from compiled import (  # noqa: E402
    ACTIVATION_CALLS,
    BOTH,
    CUDA_INSTRUCTIONS,
    CUDA_NARROW,
    CUDA_TRAFFIC,
    LAYER_CALLS,
    Call,
    access_bits,
    assert_no_nan,
    tensors,
)
from emulated_cuda import FOLDER, ROOT, Emulated, build, emulated  # noqa: E402
from ptxsim import MemoryFault, RaceError  # noqa: E402
from ptxsim.resources import tools  # noqa: E402

import fastlayers as fl  # noqa: E402
from fastlayers.specs import ACTIVATIONS  # noqa: E402

SHAPE = (16, 64, 28, 28)
DTYPES = [torch.float32, torch.bfloat16]
IRREGULAR = (((3, 5, 7, 7), "contiguous"), ((2, 3, 8, 8), "contiguous"), ((5, 3, 2, 2), "contiguous"), ((1, 1, 1, 1), "contiguous"),
             ((3, 12, 5, 5), "channels_last"), ((2, 40, 3, 3), "channels_last"), ((33, 7, 1, 1), "channels_last"))
LAYER_CASES = [pytest.param(call, layout, id=f"{call}-{layout}") for call in LAYER_CALLS for layout in call.layouts]
CASES = [pytest.param(call, "contiguous", id=str(call)) for call in ACTIVATION_CALLS] + LAYER_CASES
SECOND_STAGE = re.compile("finish|running|slopes")  # kernels that read no whole tensor
FAR = re.compile("sinusoid|sinc|snake")
"""Sines of numbers beyond 2^17 need all of 1 / pi, in an array of 40 bytes that nobody else touches."""

MATHEMATICS = re.compile(
    r"\b(exp|exp2|expm1|log|log2|log1p|tanh|sinh?|cosh?|sincos|tan|atan|erfc?|r?sqrt|cbrt|pow|hypot)[fd]?\(|\bapprox\b|\bpolynomial\b")
"""Of an activation or an update rule, in C++ or PTX."""
NUMBERS = {"0.0", "0.0f", "1.0", "8388608.0f"}
"""Those that stand in csrc/cuda; the last is 2^23, whose bits hold a whole number."""


def execute(call: Call, module: Emulated, shape: tuple[int, ...], layout: str, dtype: torch.dtype, offset: int = 0) -> list[ptxsim.Stats]:
    """The emulator's counts of each launch of a call; no output may hold NaN."""
    x, dy = tensors(shape, layout, dtype, offset)
    with module.running(check_races="strict") as device:
        results = call.run(module, x, dy)
    assert_no_nan(results, x)
    return device.stats


def wide_bytes(stats: list[ptxsim.Stats]) -> int:
    """How many bytes are moved in accesses of 128 bits."""
    moved = 0
    for launch in stats:
        for op, lanes in zip(launch.ops, launch.pc_lanes, strict=True):
            if access_bits(op.where) >= 128:
                moved += int(lanes) * 16
    return moved


@pytest.mark.parametrize("path", sorted((ROOT / "csrc" / "cuda").iterdir()), ids=lambda path: path.name)
def test_mathematics_is_in_common(path: Path) -> None:
    """csrc/cuda holds loops and launches; what is computed is csrc/common's, the same for CPUs and GPUs."""
    code = re.sub(r"//.*", "", path.read_text())
    assert not MATHEMATICS.findall(code)
    assert set(re.findall(r"(?<![\w.])\d+\.\d*\w*", code)) <= NUMBERS
    assert not re.findall(rf"\bstruct (?:{'|'.join(ACTIVATIONS)})\b", code)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("call", "layout"), CASES)
def test_traffic_and_instructions(call: Call, layout: str, dtype: torch.dtype) -> None:
    stats = execute(call, emulated(), SHAPE, layout, dtype)
    name, numel = f"{call} {layout}", torch.Size(SHAPE).numel()
    sectors = sum(launch.global_read_sectors + launch.global_write_sectors for launch in stats)
    minimum = call.passes * numel * dtype.itemsize
    assert sectors * 32 <= CUDA_TRAFFIC.get(name, call.traffic) * minimum, sectors * 32 / minimum
    assert wide_bytes(stats) >= minimum or name in CUDA_NARROW, wide_bytes(stats) / minimum
    for launch in stats:
        assert not launch.local_bytes or FAR.search(launch.kernel), launch.kernel
        if dtype == torch.bfloat16:
            taken = launch.thread_instructions / numel
            assert taken <= CUDA_INSTRUCTIONS.get(name, call.instructions), f"{launch.kernel}: {taken}"


@pytest.mark.parametrize(("call", "shape", "layout"), [
    pytest.param(call, shape, layout, id=f"{call}-{shape}-{layout}") for call in LAYER_CALLS for shape, layout in IRREGULAR
    if layout in call.layouts])
def test_irregular_shapes_stay_inside(call: Call, shape: tuple[int, ...], layout: str) -> None:
    execute(call, emulated(), shape, layout, torch.bfloat16)


@pytest.mark.parametrize("call", LAYER_CALLS, ids=str)
def test_unaligned_storage_stays_inside(call: Call) -> None:
    execute(call, emulated(), (2, 3, 5, 9), "contiguous", torch.bfloat16, offset=3)


@pytest.mark.parametrize("layout", BOTH)
def test_blocks_for_every_multiprocessor(layout: str) -> None:
    """32 channels are cut into enough pieces for 132 multiprocessors."""
    stats = execute(LAYER_CALLS[2], emulated(), (32, 32, 28, 28), layout, torch.bfloat16)
    assert len(stats) == 6
    for launch in stats:
        assert launch.grid[0] >= 132 or SECOND_STAGE.search(launch.kernel), launch.kernel


def test_more_elements_than_threads_count_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of 8 GiB whose memory nobody touches, the emulator's books neither: no launch is made. Its rows are short: two vectors
    for two elements each."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    x = torch.empty(2**30, 2, 2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="epilogue_forward: x must have fewer elements than a kernel counts, got"):
        emulated().compiled.epilogue_forward(x, None, None, torch.zeros(2), None, None, None, "relu", (), 0.0, 1)


@pytest.fixture(scope="module")
def usage() -> Callable[[Path], dict[str, str]]:
    """What ptxas says of each kernel in a PTX file, compiled for sm_90."""
    def of(path: Path) -> dict[str, str]:
        command = [tools("ptxas")[0], "-arch=sm_90", "-v", str(path), "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        blocks = re.split(r"Compiling entry function '", done.stderr)[1:]
        return {block.split("'", 1)[0]: block for block in blocks}
    return of


@pytest.mark.parametrize("source", sorted(path.stem for path in (ROOT / "csrc/cuda").glob("*.cu")))
def test_no_kernel_spills(source: str, usage: Callable[[Path], dict[str, str]]) -> None:
    """In float64 division, erf and exp are calls, around which ptxas keeps a value or two on the stack."""
    emulated()
    most = 32 if source.endswith("float64") else 0
    for name, text in usage(FOLDER / f"{source}.ptx").items():
        stack, stores, loads = (int(re.search(rf"(\d+) bytes {what}", text)[1]) for what in ("stack frame", "spill stores", "spill loads"))
        assert max(stores, loads) <= most, f"{name} spills {stores} bytes"
        assert stack <= most or FAR.search(name), f"{name} has {stack} bytes of local memory"


def broken(tmp_path: Path, file: str, right: str, wrong: str) -> Emulated:
    """The backend with one line of one file changed, its kernels those of relu in float32."""
    root, folder = tmp_path / "source", tmp_path / "build"
    shutil.copytree(ROOT / "csrc", root / "csrc")
    emulated()
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.so", "lock", "*.ii", "*.gpu", "*.cudafe*", "*.fatbin*"))
    source = root / "csrc" / file
    text = source.read_text()
    assert right in text
    source.write_text(text.replace(right, wrong))
    (root / "csrc/cuda/epilogue_float32.cu").write_text(RELU_ALONE)
    return Emulated(build(root, folder, only=("epilogue_float32", "batch_norm", "epilogue")))


RELU_ALONE = """
#include "epilogue.cuh"
namespace fastlayers::cuda {
template <class Row> constexpr ActivationKernels<float> kernels_if_relu() { return {}; }
template <> constexpr ActivationKernels<float> kernels_if_relu<activations::relu>() { return kernels_of<activations::relu, float>(); }
#define FL_ROW(name) kernels_if_relu<activations::name>(),
FL_ACTIVATION_KERNELS(float)
}
"""
FAULTS = {
    "wrong sign": ("common/formula.h", "multiply_add(centred, -slope, -mean_dz)", "multiply_add(centred, slope, -mean_dz)",
                   AssertionError),
    "missing mask": ("cuda/epilogue.cuh", "z[j] *= kept ? a.keep_scale : T(0);", "z[j] *= a.keep_scale;", AssertionError),
    "off by one": ("cuda/walk.cuh", "smaller(begin + walk_.length - first, width)", "smaller(begin + walk_.length - first + 1, width)",
                   (MemoryFault, RaceError, AssertionError)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_kernels_are_caught(fault: str, tmp_path: Path) -> None:
    """The tables that every backend runs through fail, or the emulator does, when one line of the kernels is wrong."""
    *change, errors = FAULTS[fault]
    module = broken(tmp_path, *change)

    def run_cases() -> None:
        case = cases.Case("relu", (3, 2, 9))
        test_kernels.test_epilogue_forward("cuda", case)
        test_kernels.test_batch_norm("cuda", case, True)

    with emulated_cuda(module=module), fl.backend("cuda"), pytest.raises(errors):
        run_cases()
