"""Every Triton kernel as the GPU would get it: compiled for five architectures, and executed by the emulator under its checks.

Compiled: no spills, and whole tensors moved 128 bits at a time. Executed: no access out of bounds, of memory that nobody wrote, or
racing with another block; no more traffic than the algorithm needs; few enough instructions to be bound by memory.
"""
from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
ptxsim = pytest.importorskip("ptxsim", reason="the emulator is installed with: pip install -e tools/ptxsim")
import ptxsim.triton as emulator  # noqa: E402
from compiled import (  # noqa: E402
    ACTIVATION_CALLS,
    BOTH,
    GATED_CALLS,
    LAYER_CALLS,
    OUTPUTS,
    SIGNED_CALLS,
    TARGETS,
    Call,
    Launch,
    accesses,
    assert_no_nan,
    compiling,
    tensors,
)
from fastlayers.kernels.launch import Layout, _plan, reciprocal  # noqa: E402
from optimizer_cases import RICHEST, STEPS, Step, lists, run  # noqa: E402
from ptxsim import MemoryFault, RaceError  # noqa: E402

from fastlayers import kernels  # noqa: E402
from fastlayers.specs import UPDATE_RULES  # noqa: E402

SHAPE = (16, 64, 28, 28)
IRREGULAR = (((3, 5, 7, 7), "contiguous"), ((2, 3, 8, 8), "contiguous"), ((5, 3, 2, 2), "contiguous"), ((1, 1, 1, 1), "contiguous"),
             ((3, 12, 5, 5), "channels_last"), ((2, 40, 3, 3), "channels_last"), ((33, 7, 1, 1), "channels_last"))
# between them these calls launch every kernel of the layers, with every optional operand
EVERY_KERNEL = [(call, layout) for call in LAYER_CALLS for layout in call.layouts if (str(call), layout) in (
    ("batch norm + residual + prelu + dropout", "contiguous"), ("batch norm + residual + prelu + dropout", "channels_last"),
    ("batch norm in eval", "contiguous"), ("inverse", "contiguous"), ("inverse", "channels_last"),
    ("apl with 8 hinges backward", "contiguous"),
    ("apl with 8 hinges backward, channels_last", "channels_last"))]
DEMANDING = ("soft_exponential backward", "sinc backward", "snake backward", "softplus backward", "gelu backward", "rrelu backward")
SECOND_STAGE = ("finish", "running")  # kernels that read no whole tensor
DTYPES = [torch.float32, torch.bfloat16]
LAYER_CASES = [pytest.param(call, layout, id=f"{call}-{layout}") for call in LAYER_CALLS for layout in call.layouts]
CASES = [pytest.param(call, "contiguous", id=str(call)) for call in ACTIVATION_CALLS + SIGNED_CALLS] + LAYER_CASES
GATED_CASES = [pytest.param(call, layout, id=f"{call}-{layout}") for call in GATED_CALLS for layout in call.layouts]
COMPILED = [  # every kernel for every target and dtype; every activation for one, those that need most registers for all
    pytest.param(call, layout, target, dtype, id=f"{call}-{layout}-{target}-{dtype}")
    for call, layout in [(call, "contiguous") for call in ACTIVATION_CALLS + GATED_CALLS] + EVERY_KERNEL
    for target in TARGETS for dtype in DTYPES
    if (call, layout) in EVERY_KERNEL or target == "sm_90" or str(call) in DEMANDING
]


def assert_compiled_well(launch: Launch, numel: int, unread: frozenset[str] = frozenset(), wide: bool = True) -> None:
    """No spills; every whole tensor is moved 128 bits at a time, and narrow accesses are no more than there are small operands."""
    found = accesses(launch.files)
    assert found.spilled == 0, f"{launch.kernel} spills: {found}"
    whole = {name for name, tensor in launch.tensors.items() if tensor.numel() in (numel, numel // 2)}  # a gated unit's y is half of x
    if launch.kernel.startswith(SECOND_STAGE) or not whole:
        return
    names = sorted(set(launch.tensors) - whole)
    small = sum(launch.tensors[name].size(0) if launch.tensors[name].dim() > 1 else 1 for name in names)  # parameters, sums: by row
    assert found.wide_loads >= len(whole - OUTPUTS - unread) or not wide, f"{launch.kernel} loads whole tensors in pieces: {found}"
    assert found.wide_stores >= len(whole & OUTPUTS) or not wide, f"{launch.kernel} stores whole tensors in pieces: {found}"
    assert found.narrow_loads <= 2 * small or not wide, f"{launch.kernel} loads {found.narrow_loads} pieces for {names}: {found}"
    assert found.narrow_stores <= 6 * small, f"{launch.kernel} stores {found.narrow_stores} pieces for {names}: {found}"


@pytest.mark.parametrize(("call", "layout", "target", "dtype"), COMPILED)
def test_layers_compile_without_spills_to_wide_accesses(call: Call, layout: str, target: str, dtype: torch.dtype) -> None:
    x, dy = tensors(SHAPE, layout, dtype)
    with compiling(TARGETS[target]) as launches:
        call.run(kernels, x, dy)
    assert launches
    for launch in launches:
        assert_compiled_well(launch, x.numel(), call.unread, call.wide or dtype == torch.float32)


@pytest.mark.parametrize(("step", "target", "dtype"), [
    pytest.param(step, target, dtype, id=f"{step}-{target}-{dtype}") for step in STEPS for target in TARGETS for dtype in DTYPES
    if step in RICHEST.values() or (target == "sm_90" and dtype == torch.bfloat16)
])
def test_optimizers_compile_without_spills_to_wide_accesses(step: Step, target: str, dtype: torch.dtype) -> None:
    """A program's tensors are found through a table of addresses; all its loads of them are wide, twice with the remainder's code."""
    given, row = lists(step, (4096, 8192), dtype), UPDATE_RULES[step.rule]
    with compiling(TARGETS[target]) as launches:
        kernels.gradient_norm(given.grads)
        run(kernels, step, given)
    found = {launch.kernel: accesses(launch.files) for launch in launches}
    assert len(found) == 3
    assert all(kernel.spilled == 0 for kernel in found.values()), found
    update = found["optimizer_step_kernel"]
    states = len(given.states) // len(given.params)
    read = 0 if "first" in row.flags and step.flags[1 + row.flags.index("first")] else states
    assert update.wide_loads >= 2 + read, update
    assert update.wide_stores >= 1 + states, update
    assert found["gradient_norm_kernel"].wide_loads >= 1, found


@contextlib.contextmanager
def fresh_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[ptxsim.Memory]:
    """Memory of the emulator in which every tensor that is allocated within the block counts as never written."""
    memory, busy = ptxsim.Memory(), []

    def noting(allocate):
        def allocated(*arguments, **options):
            tensor = allocate(*arguments, **options)
            if not busy:
                busy.append(True)  # what the emulator itself allocates meanwhile
                memory.mark_uninitialised(tensor, "output")
                busy.clear()
            return tensor
        return allocated

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", noting(torch.empty))
        patch.setattr(torch, "empty_like", noting(torch.empty_like))
        patch.setattr(torch.Tensor, "new_empty", noting(torch.Tensor.new_empty))
        yield memory


def execute(call: Call, package: ModuleType, shape: tuple[int, ...], layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch,
            offset: int = 0) -> list:
    """The emulator's counts of each launch of a call, made under all of its checks; no output may hold NaN."""
    x, dy = tensors(shape, layout, dtype, offset)
    with fresh_memory(monkeypatch) as memory, emulator.device(arch=90, check_races="strict", memory=memory) as device:
        results = call.run(package, x, dy)
    assert_no_nan(results, x)
    return device.stats


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("call", "layout"), CASES + GATED_CASES)
def test_traffic_and_instructions(call: Call, layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = execute(call, kernels, SHAPE, layout, dtype, monkeypatch)
    numel = torch.Size(SHAPE).numel()
    sectors = sum(launch.global_read_sectors + launch.global_write_sectors for launch in stats)
    assert sectors * 32 <= call.traffic * call.passes * numel * dtype.itemsize, sectors * 32 / (call.passes * numel * dtype.itemsize)
    assert all(not launch.local_bytes for launch in stats)
    if dtype == torch.bfloat16:
        for launch in stats:
            assert launch.thread_instructions <= call.instructions * numel, f"{launch.kernel}: {launch.thread_instructions / numel}"


@pytest.mark.parametrize(("call", "shape", "layout"), [
    pytest.param(call, shape, layout, id=f"{call}-{shape}-{layout}") for call in LAYER_CALLS for shape, layout in IRREGULAR
    if layout in call.layouts])
def test_irregular_shapes_stay_inside(call: Call, shape: tuple[int, ...], layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(call, kernels, shape, layout, torch.bfloat16, monkeypatch)


@pytest.mark.parametrize(("shape", "layout"), [
    ((3, 6, 7, 6), "contiguous"), ((2, 10, 3, 4), "channels_last"), ((4, 2, 1, 2), "contiguous"),
])
@pytest.mark.parametrize("call", [GATED_CALLS[0], GATED_CALLS[4]], ids=str)
def test_irregular_halves_stay_inside(call: Call, shape: tuple[int, ...], layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for offset in (0, 3 * (layout == "contiguous")):
        execute(call, kernels, shape, layout, torch.bfloat16, monkeypatch, offset)


@pytest.mark.parametrize("call", LAYER_CALLS, ids=str)
def test_unaligned_storage_stays_inside(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(call, kernels, (2, 3, 5, 9), "contiguous", torch.bfloat16, monkeypatch, offset=3)


@pytest.mark.parametrize("layout", BOTH)
def test_blocks_for_every_multiprocessor(layout: str) -> None:
    """32 channels are cut into enough pieces for 132 multiprocessors."""
    x, dy = tensors((32, 32, 28, 28), layout, torch.bfloat16)
    with emulator.device(arch=90) as device:
        LAYER_CALLS[2].run(kernels, x, dy)
    assert len(device.stats) == 6
    for launch in device.stats:
        assert launch.grid[0] >= 132 or launch.kernel.startswith(SECOND_STAGE), launch.kernel


@pytest.mark.parametrize(("sizes", "fits"), [
    ((1, 1, 2**33 - 8), True), ((1, 1, 2**33), False), ((2**15, 2**15, 7), True), ((2**16, 2**15 + 1, 2), False), ((2**30, 4, 1), True),
    ((2**30, 2, 2), False), ((2**31 - 2**16 - 1, 2, 1), True), ((2**31 - 2**16, 2, 1), False), ((2**29, 2, 7), True),
    ((2**30, 1, 7), False)], ids=str)
def test_more_than_kernels_count_is_refused(sizes: tuple[int, int, int], fits: bool) -> None:
    """Groups, rows and pieces of rows are counted by int32."""
    with contextlib.nullcontext() if fits else pytest.raises(ValueError, match=r"^triton: x must have fewer than 2\^33 elements, "):
        _plan(Layout(*sizes), torch.bfloat16, False, False, 32)


def test_division_by_multiplication() -> None:
    """launch.reciprocal at the borders of the range that it promises."""
    for divisor in [*range(2, 3000), 2**20 - 1, 2**20, 2**20 + 1, 2**31 - 1]:
        multiplier, bits = reciprocal(divisor)
        assert -2**31 <= multiplier < 0
        for n in (0, 1, divisor - 1, divisor, 7 * divisor - 1, (2**31 - 1) // divisor * divisor - 1, 2**31 - 1):
            if 0 <= n < 2**31:
                assert (n * (multiplier + 2**32) >> 32) >> bits == n // divisor


def test_masks_are_written_by_indices_of_64_bits() -> None:
    """Beyond 2^31 elements 32 bits would be negative, and below the mask's end."""
    with compiling(TARGETS["sm_90"]) as launches:
        kernels.dropout_mask(0, 5000, torch.tensor(1), 0.5)
    places = re.findall(r"tt.addptr .*: tensor<.*>, tensor<\d+xi(\d+)>", launches[0].files["ttir"].read_text())
    assert places == ["64"]


def broken(tmp_path: Path, file: str, right: str, wrong: str) -> ModuleType:
    """A copy of the kernels in which one line of one file is changed."""
    folder = Path(shutil.copytree(Path(kernels.__file__).parent, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__")))
    source = (folder / file).read_text()
    assert right in source
    (folder / file).write_text(source.replace(right, wrong))
    name = f"fastlayers.broken_kernels_{tmp_path.name}"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


BIAS, DROPOUT, BATCH_NORM = LAYER_CALLS[:3]
MASK = ("tiles.py", "    within = slot < end\n", "    within = slot < end + 1\n")
FAULTS = {
    "past the end": (DROPOUT, (1, 1, 1, 1032), MASK, MemoryFault),
    "twice": (DROPOUT, (1, 1, 64, 1032), ("epilogue.py", "range(chunk * chunk_slots, end, GROUPS)", "range(0, end, GROUPS)"), RaceError),
    "never written": (BATCH_NORM, (4, 8, 8, 8), ("batch_norm.py", "    tl.store(destination, total)\n", ""), MemoryFault),
    "written by two blocks": (BIAS, (4, 8, 8, 8),
                              ("reductions.py", "tl.store(row + channel, tl.sum", "tl.store(row, tl.sum"), RaceError),
    "read while written": (BATCH_NORM, (4, 8, 8, 8),
                           ("batch_norm.py", "first = tl.program_id(0) == 0", "first = tl.program_id(0) >= 0"), RaceError),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_kernels_are_caught(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, shape, change, error = FAULTS[fault]
    with pytest.raises(error):
        execute(call, broken(tmp_path, *change), shape, "contiguous", torch.bfloat16, monkeypatch)


def test_narrow_accesses_are_caught(tmp_path: Path) -> None:
    package = broken(tmp_path, "tiles.py", "    offsets = (group.to(tl.int64) * 8)[:, None] + column\n",
                     "    offsets = (group.to(tl.int64) * (row_groups * 8 // row_groups))[:, None] + column\n")
    x, dy = tensors(SHAPE, "contiguous", torch.bfloat16)
    with compiling(TARGETS["sm_90"]) as launches:
        BATCH_NORM.run(package, x, dy)
    with pytest.raises(AssertionError, match="pieces"):
        assert_compiled_well(launches[0], x.numel())


def test_spills_are_caught(tmp_path: Path) -> None:
    package = broken(tmp_path, "launch.py", '"enable_fp_fusion": False}', '"enable_fp_fusion": False, "maxnreg": 24}')
    x, dy = tensors(SHAPE, "contiguous", torch.float32)
    with compiling(TARGETS["sm_90"]) as launches:
        BATCH_NORM.run(package, x, dy)
    with pytest.raises(AssertionError, match="spills"):
        assert_compiled_well(next(launch for launch in launches if "backward" in launch.kernel), x.numel())
