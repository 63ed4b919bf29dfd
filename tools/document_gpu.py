"""Writes the tables of docs/gpu.md: every GPU kernel as compiled for each architecture, and as counted by the emulator.

Run as ``make gpu-docs``, which first builds the CUDA kernels for every architecture (``make cuda``). tests/test_gpu_document.py fails
when counts are stale.
"""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import ptxsim.cuda  # noqa: E402
import ptxsim.triton as emulator  # noqa: E402
from compiled import ACTIVATION_CALLS, GATED_CALLS, LAYER_CALLS, TARGETS, Call, access_bits, compiling, tensors  # noqa: E402
from emulated_cuda import emulated  # noqa: E402
from optimizer_cases import RICHEST, lists, run  # noqa: E402
from ptxsim.resources import occupancy, resources, tools  # noqa: E402

from fastlayers import kernels  # noqa: E402

DOCUMENT = ROOT / "docs/gpu.md"
SHAPE = (16, 64, 28, 28)
DTYPES = (torch.float32, torch.bfloat16)
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
PER_BYTE = 8.8
"""Instructions of one thread that an H100 issues while it moves a byte: 132 multiprocessors, 128 lanes, 1.75 GHz; 3.35 TB/s."""
PLAIN = re.compile(r"^(relu|leaky_relu|prelu|tanh|silu|gelu|mish|softplus|snake) ")
BEGIN, END = "<!-- {0}: begin -->\n", "<!-- {0}: end -->\n"


@dataclass(frozen=True)
class Row:
    """One launch of a call."""

    call: str
    dtype: str
    kernel: str
    """Its full name."""
    threads: int
    traffic: float
    """Sectors of the whole call over the least that the algorithm needs."""
    instructions: float
    """Of all threads, for each element of the tensor."""
    bytes: float
    """That its accesses ask for, for each element."""
    widest: int
    """Bits of its widest access."""


def calls() -> list[tuple[Call, str]]:
    """What the table shows, with layouts."""
    plain = [(call, "contiguous") for call in ACTIVATION_CALLS if PLAIN.match(call.name)]
    return plain + [(call, layout) for call in LAYER_CALLS for layout in call.layouts]


def title(call: Call, layout: str) -> str:
    """What the table calls it."""
    return call.name if layout == "contiguous" or layout in call.name else f"{call.name}, {layout}"


def executed(backend: str, call: Call, layout: str, dtype: torch.dtype) -> list[Row]:
    """A call on the emulator."""
    x, dy = tensors(SHAPE, layout, dtype)
    with (emulated().running() if backend == "cuda" else emulator.device(arch=90)) as device:
        call.run(emulated() if backend == "cuda" else kernels, x, dy)
    return _rows(title(call, layout), dtype, device.stats, x.numel(), call.passes)


def stepped(backend: str, rule: str, dtype: torch.dtype) -> list[Row]:
    """An optimizer's step over one tensor, with weight decay and every state."""
    numel = 1 << 18
    given = lists(RICHEST[rule], (numel,), dtype)
    module = emulated() if backend == "cuda" else kernels
    with (module.running() if backend == "cuda" else emulator.device(arch=90)) as device:
        run(module, RICHEST[rule], given)
    return _rows(f"{rule} step", dtype, device.stats, numel, 3 + 2 * len(RICHEST[rule].state_names))


def normed(dtype: torch.dtype) -> list[Row]:
    """The norm of one gradient."""
    gradient = torch.randn(1 << 18, generator=torch.Generator().manual_seed(0)).to(dtype)
    with emulated().running() as device:
        emulated().gradient_norm([gradient])
    return _rows("gradient norm", dtype, device.stats, gradient.numel(), 1)


def _rows(name: str, dtype: torch.dtype, stats: list[ptxsim.Stats], numel: int, passes: int) -> list[Row]:
    sectors = sum(launch.global_read_sectors + launch.global_write_sectors for launch in stats)
    traffic = sectors * 32 / (passes * numel * dtype.itemsize)
    return [Row(name, str(dtype).removeprefix("torch."), launch.kernel, launch.block[0] * launch.block[1], traffic,
                launch.thread_instructions / numel, (launch.global_bytes_read + launch.global_bytes_written) / numel, _widest(launch))
            for launch in stats]


def _widest(launch: ptxsim.Stats) -> int:
    return max((access_bits(op.where) for op, lanes in zip(launch.ops, launch.pc_lanes, strict=True) if lanes), default=0)


def shown(kernel: str) -> str:
    """A kernel's name as its source has it."""
    found = re.search(r"\d+([a-z_]+_kernel)", kernel)
    return found[1] if found else kernel


def _without_file(kernel: str) -> str:
    """A mangled name without what stands for its file's path."""
    return re.sub(r"\d+_GLOBAL__N__\w+?_cu_[0-9a-f]{8}", "", kernel)


def library_registers(library: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """By architecture and kernel, registers and bytes of shared memory in an extension."""
    text = subprocess.run([tools("cuobjdump")[0], "-res-usage", str(library)], capture_output=True, text=True, check=True).stdout
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for part in re.split(r"\n(?=Fatbin elf code:)", text):
        architecture = re.search(r"arch = (sm_\d+)", part)
        if architecture:
            found.setdefault(architecture[1], {}).update(
                (_without_file(name), (int(registers), int(shared)))
                for name, registers, shared in re.findall(r"Function (\S+):\s*\n\s*REG:(\d+).*?SHARED:(\d+)", part))
    return found


def triton_registers(call: Call, layout: str, dtype: torch.dtype) -> dict[str, list[tuple[int, int]]]:
    """By architecture, registers and bytes of shared memory of each launch of a call."""
    found = {}
    for name in ARCHITECTURES:
        with compiling(TARGETS[name]) as launches:
            call.run(kernels, *tensors(SHAPE, layout, dtype))
        used = [next(iter(resources(launch.files["cubin"].read_bytes()).values())) for launch in launches]
        found[name] = [(one.registers, one.shared_bytes) for one in used]
    return found


def line(row: Row, used: list[tuple[int, int]]) -> str:
    """A row of the table; used: registers and shared bytes by architecture."""
    registers = "/".join(str(count) for count, _ in used)
    resident = occupancy(row.threads, *used[1], 90)[0]
    bandwidth = min(1.0, PER_BYTE * row.bytes / row.instructions) if row.instructions else 1.0
    return (f"| {row.call} | {row.dtype} | {shown(row.kernel)} | {registers} | {resident:.0%} | {row.traffic:.2f} | "
            f"{row.instructions:.1f} | {row.bytes:.1f} | {row.widest} | {bandwidth:.0%} |")


COLUMNS = ("call", "dtype", "kernel", "registers", "occupancy", "sectors / minimum", "instructions", "bytes", "widest", "bandwidth")
HEADER = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]


def cuda_lines(library: Path) -> Iterator[str]:
    """The table of the CUDA kernels."""
    used = library_registers(library)
    for rows in ([executed("cuda", call, layout, dtype) for call, layout in calls() for dtype in DTYPES]
                 + [stepped("cuda", rule, dtype) for rule in RICHEST for dtype in DTYPES] + [normed(dtype) for dtype in DTYPES]):
        for row in rows:
            yield line(row, [used[name][_without_file(row.kernel)] for name in ARCHITECTURES])


def triton_lines() -> Iterator[str]:
    """The table of the Triton kernels."""
    gated = [(call, layout) for call in GATED_CALLS for layout in call.layouts]
    for call, layout in calls() + gated:
        for dtype in DTYPES:
            used = triton_registers(call, layout, dtype)
            for k, row in enumerate(executed("triton", call, layout, dtype)):
                yield line(row, [used[name][k] for name in ARCHITECTURES])


def main() -> None:
    """Put the tables in their places."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path, nargs="?",
                        help="fastlayers/_CUDA*.so, built for every architecture; without it Triton's table alone is written")
    library, text = parser.parse_args().library, DOCUMENT.read_text()
    for name, lines in ((("cuda", cuda_lines(library)),) if library else ()) + (("triton", triton_lines()),):
        begin, end = BEGIN.format(name), END.format(name)
        before, after = text.split(begin)[0], text.split(end)[1]
        text = before + begin + "\n".join([*HEADER, *lines]) + "\n" + end + after
    DOCUMENT.write_text(text)
    print(f"wrote {DOCUMENT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
