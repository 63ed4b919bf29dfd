"""The tables of docs/gpu.md are what the emulator counts now, and are within the limits that all GPU kernels have."""
from __future__ import annotations

import re

import conftest
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("ptxsim", reason="the emulator is installed with: pip install -e tools/ptxsim")
conftest.need_nvcc(allow_module_level=True)
from compiled import CUDA_INSTRUCTIONS, CUDA_NARROW, CUDA_TRAFFIC, Call  # noqa: E402

from fastlayers.specs import UPDATE_RULES  # noqa: E402

tool = conftest.tool("document_gpu")
BACKENDS = ("cuda", "triton")
OPTIMIZERS = (*(f"{rule} step" for rule in UPDATE_RULES), "gradient norm")
SAMPLES = ("batch norm + relu", "batch norm + relu + dropout, channels_last", "silu forward", "prelu backward")


def table(backend: str) -> list[dict[str, str]]:
    """The rows of a backend's table."""
    part = tool.DOCUMENT.read_text().split(tool.BEGIN.format(backend))[1].split(tool.END.format(backend))[0]
    names, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in part.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_call_and_kernel_is_there(backend: str) -> None:
    rows = table(backend)
    assert {row["call"] for row in rows} >= {tool.title(call, layout) for call, layout in tool.calls()}
    assert backend != "cuda" or {row["call"] for row in rows} >= set(OPTIMIZERS), "docs/gpu.md is stale: make gpu-docs"
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    if backend == "cuda":
        sources = "".join(path.read_text() for path in (tool.ROOT / "csrc/cuda").glob("*.cu*"))
        assert {row["kernel"] for row in rows} | {"mask_kernel", "running_kernel"} >= set(re.findall(r"\b(\w+_kernel)\(", sources))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", tool.DTYPES, ids=str)
@pytest.mark.parametrize("call", SAMPLES)
def test_counts_are_fresh(backend: str, call: str, dtype: torch.dtype) -> None:
    given, layout = next((given, layout) for given, layout in tool.calls() if tool.title(given, layout) == call)
    written = [row for row in table(backend) if (row["call"], row["dtype"]) == (call, str(dtype).removeprefix("torch."))]
    counted = tool.executed(backend, given, layout, dtype)
    assert [row["kernel"] for row in written] == [tool.shown(row.kernel) for row in counted]
    for old, new in zip(written, counted, strict=True):
        assert old["instructions"] == f"{new.instructions:.1f}", "docs/gpu.md is stale: make gpu-docs"
        assert (old["sectors / minimum"], old["widest"]) == (f"{new.traffic:.2f}", str(new.widest)), "docs/gpu.md is stale: make gpu-docs"


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits(backend: str) -> None:
    """At most 1.10 times the least traffic, 35 instructions a bfloat16 element and sweep, accesses of 128 bits; or the stated exception."""
    limits = {tool.title(call, layout): (call, layout) for call, layout in tool.calls()}
    limits |= {name: (Call(name, None, 0), "") for name in OPTIMIZERS}
    for row in table(backend):
        if row["call"] not in limits or row["kernel"].startswith(("finish", "running", "slopes")):
            continue
        call, layout = limits[row["call"]]
        own = f"{call} {layout}"
        assert float(row["sectors / minimum"]) <= (CUDA_TRAFFIC.get(own, call.traffic) if backend == "cuda" else call.traffic) + 0.005, row
        if row["dtype"] == "bfloat16":
            most = CUDA_INSTRUCTIONS.get(own, call.instructions) if backend == "cuda" else call.instructions
            assert float(row["instructions"]) <= most + 0.05, row
        assert int(row["widest"]) == 128 or not call.wide or (backend == "cuda" and own in CUDA_NARROW), row
