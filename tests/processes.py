"""Several gloo processes on this machine, for the tests of what talks to other ranks."""
from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import distributed

needs_gloo = pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="torch has no gloo")


def _process(rank: int, world: int, folder: str, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        result = work(rank, *arguments)
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
    torch.save(result, Path(folder, f"{rank}.pt"))
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through Python's finalisation: a gloo thread that still holds a tensor takes the GIL there and aborts the process
    # (pytorch issue 190489; seen once in CI).
    os._exit(0)


def in_processes(world: int, work: Callable[..., object], *arguments: object) -> list:
    """What work(rank, *arguments) returned in each of so many processes; an exception in one of them is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (world, folder, work, arguments), world)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world)]
