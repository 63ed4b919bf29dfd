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

Clock = Callable[[Callable[[], object], int], float]
"""Calls a function so many times and returns the milliseconds of all calls together."""


def restart_with_malloc_settings() -> None:
    """Start this program again with MALLOC_SETTINGS, which glibc reads only at the start; return at once where they are set."""
    if sys.platform != "linux" or not sys.orig_argv or malloc_settings_hold():
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **MALLOC_SETTINGS})


def malloc_settings_hold() -> bool:
    """Whether this process was started with MALLOC_SETTINGS."""
    return all(os.environ.get(name) == value for name, value in MALLOC_SETTINGS.items())


def clock(device: torch.device | str, flush: bool = True) -> Clock:
    """The clock for work on this device: wall clock on a CPU, events around each call on a GPU.

    flush: before each call on a GPU overwrite what the last one has left in the cache, as the rest of a network would.
    """
    return _EventClock(torch.device(device), flush) if torch.device(device).type == "cuda" else _wall_clock


def _wall_clock(function: Callable[[], object], count: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) * 1e3


class _EventClock:
    """Events in the current stream."""

    def __init__(self, device: torch.device, flush: bool) -> None:
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size if flush else 0
        self._other = torch.empty(size, dtype=torch.uint8, device=device)

    def __call__(self, function: Callable[[], object], count: int = 1) -> float:
        pairs = []
        for _ in range(count):
            self._other.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs)


def graphed(function: Callable[[], object]) -> Callable[[], object]:
    """The function as a CUDA graph, so that a small size shows kernels and not Python; itself where it cannot be captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            function()
    except RuntimeError:  # something waits for the GPU
        return function
    return graph.replay


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
            readings[name].append(read(function, count) / count)
    return {name: statistics.median(values) for name, values in readings.items()}


def _calls_per_reading(function: Callable[[], object], read: Clock, milliseconds: float) -> int:
    """Warms the contender up, then counts the calls that fill one reading."""
    read(function, 2)
    return max(1, min(10_000, round(milliseconds / max(read(function, 1), 1e-4))))


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
