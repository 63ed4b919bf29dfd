"""How the demo and the benchmarks measure, the same for every contender: allocator, clock, order, bytes kept for backward."""
from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

MALLOC_SETTINGS = {
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}
"""glibc returns large blocks to the system and page-faults on them at every call, which drowns the differences; these keep them."""

Clock = Callable[[Callable[[], object]], float]
"""Runs a function and returns the milliseconds it took."""


def restart_with_malloc_settings() -> None:
    """Start this program again with MALLOC_SETTINGS, which glibc reads only at the start; return at once where they are set."""
    if sys.platform != "linux" or not sys.orig_argv or malloc_settings_hold():
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **MALLOC_SETTINGS})


def malloc_settings_hold() -> bool:
    """Whether this process was started with MALLOC_SETTINGS."""
    return all(os.environ.get(name) == value for name, value in MALLOC_SETTINGS.items())


def clock(device: torch.device | str) -> Clock:
    """The clock for work on this device: wall clock on a CPU, events in the stream on a GPU."""
    return _event_clock if torch.device(device).type == "cuda" else _wall_clock


def _wall_clock(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def _event_clock(function: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, read: Clock, milliseconds_per_reading: float = 2.0
) -> dict[str, float]:
    """Median milliseconds per call of each contender, all of them measured in turn so that the machine's moods hit all alike.

    A reading is as many calls as take about ``milliseconds_per_reading``, counted for each contender; every other round runs backwards.
    """
    calls = {name: _calls_per_reading(function, read, milliseconds_per_reading) for name, function in contenders.items()}
    readings: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            function, count = contenders[name], calls[name]
            readings[name].append(read(lambda function=function, count=count: _repeat(function, count)) / count)
    return {name: statistics.median(values) for name, values in readings.items()}


def _calls_per_reading(function: Callable[[], object], read: Clock, milliseconds: float) -> int:
    """Warms the contender up, then counts the calls that fill one reading."""
    read(function)
    read(function)
    return max(1, min(10_000, round(milliseconds / max(read(function), 1e-4))))


def _repeat(function: Callable[[], object], count: int) -> None:
    for _ in range(count):
        function()


def saved_bytes(function: Callable[[], object], model: torch.nn.Module) -> int:
    """Bytes that autograd keeps for backward while ``function`` runs: each storage once, parameters and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
