"""What the demo found: the table, demo.json."""
from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..contenders import LIBRARIES
from ..measure import malloc_settings_hold
from ..usage import UsageError, need
from .training import Run, Settings

if TYPE_CHECKING:
    from rich.table import Table


def summarise(runs: Mapping[str, Run], differences: Mapping[str, Mapping[str, float]], epochs: int, dropout: float) -> dict[str, Any]:
    """One network's results as plain numbers, in the form of demo.json."""
    steps = len(runs["torch"].losses) // epochs
    results: dict[str, Any] = {"epochs": epochs, "steps_per_epoch": steps, "dropout": dropout}
    for library, run in runs.items():
        results[library] = {
            "test_accuracy": run.accuracies[-1],
            "final_loss": statistics.fmean(run.losses[-steps:]),
            "ms_per_step": statistics.median(run.milliseconds),
            "saved_bytes": run.saved_bytes,
            "losses": run.losses,
            "accuracies": run.accuracies,
        }
    results["largest_loss_difference_without_dropout"] = {name: dict(values) for name, values in differences.items()}
    return results


def document(nets: Mapping[str, Any], settings: Settings, backend: str, source: str) -> dict[str, Any]:
    """Everything that demo.json holds."""
    return {
        "fastlayers": __version__, "torch": torch.__version__, "python": platform.python_version(), "backend": backend,
        "threads": torch.get_num_threads(), "malloc_settings": malloc_settings_hold(), "data": source, **asdict(settings),
        "nets": dict(nets),
    }


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write demo.json."""
    path.write_text(json.dumps(results, indent=1) + "\n")


def output_folder(name: str) -> Path:
    """The folder to write to, made if need be; asked for before the training, not after it."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output must be a folder that can be made, got {name!r}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--output must be a folder that can be written to, got {name!r}")
    return folder


def table(results: Mapping[str, Any]) -> Table:
    """All networks, PyTorch beside fastlayers."""
    grid = need("rich.table", "demo").Table(title=f"fastlayers {results['fastlayers']} beside PyTorch {results['torch']}")
    grid.add_column("")
    for heading in ("PyTorch", "fastlayers", "ratio"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for net, found in results["nets"].items():
        both = plain, fused = [found[library] for library in LIBRARIES]
        time, memory = (times_less(plain[quantity], fused[quantity]) for quantity in ("ms_per_step", "saved_bytes"))
        grid.add_row(f"[bold]{net}[/], {found['epochs']} epoch{'s' * (found['epochs'] > 1)}, dropout {found['dropout']:g}")
        grid.add_row("  test accuracy", *(f"{100 * one['test_accuracy']:.1f} %" for one in both), "")
        grid.add_row("  training loss, last epoch", *(f"{one['final_loss']:.4f}" for one in both), "")
        grid.add_row("  time per step, median", *(f"{one['ms_per_step']:.2f} ms" for one in both), time)
        grid.add_row("  saved for backward", *(f"{one['saved_bytes'] / 2**20:.2f} MiB" for one in both), memory)
        for name, differences in found["largest_loss_difference_without_dropout"].items():
            ours, *apart = (f"{value:.1e}" for value in differences.values())
            grid.add_row(f"  loss difference, {name}", *(apart or [""]), ours, "")
        grid.add_section()
    return grid


def notes(results: Mapping[str, Any]) -> str:
    """How to read the table."""
    steady = "glibc's malloc told to keep its memory, for both" if results["malloc_settings"] else "system malloc"
    return (
        f"{results['data']}; {results['activation']}, {results['optimizer']}, batches of {results['batch_size']}, "
        f"{results['threads']} threads, {results['device']}, backend {results['backend']}. Steps are taken in turn; {steady}.\n"
        "saved for backward: what autograd holds after one forward pass, each storage once, without parameters and buffers.\n"
        "loss difference: largest relative difference from PyTorch's loss in any step of a first epoch without dropout; in PyTorch's\n"
        "column PyTorch itself, started one rounding apart: training in float32 amplifies the last bit, whoever computes it, and the more\n"
        "the larger its steps are."
    )


def times_less(plain: float, fused: float) -> str:
    """How much less the second one takes, in words."""
    ratio = plain / fused if fused else math.nan
    return f"{ratio:.2f} x less" if ratio >= 1 else f"{1 / ratio:.2f} x more"
