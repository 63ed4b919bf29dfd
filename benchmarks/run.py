"""Times every layer and optimizer beside eager PyTorch and torch.compile: ``python -m fastlayers bench``, or this file as a script.

All contenders run in one process, in turn, with the same threads and the same allocator settings (measure.py); the numbers are
medians. One *copy* is one ``copy_`` of the case's tensor in the same run.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fastlayers.benchmarks.cases import DTYPES, Case, all_cases, select

from fastlayers import __version__
from fastlayers.measure import clock, graphed, interleave, malloc_settings_hold
from fastlayers.usage import UsageError, console, need, one_of, whole_number

if TYPE_CHECKING:
    from rich.table import Table

REGRESSION = 1.1
"""Slower than the saved run by more than this factor, relative to eager in both runs, counts as a regression."""
GRAPHED = 1 << 20
"""On a GPU, cases of fewer elements are timed as CUDA graphs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the benchmarks."""
    add = parser.add_argument
    add("--only", metavar="PATTERN", help="only cases whose name contains it, * allowed, several separated by commas")
    add("--dtype", metavar="NAME", type=one_of(*DTYPES), help="all cases in this dtype; default: float32, and bfloat16 of the main ones")
    add("--device", metavar="NAME", type=one_of("cpu", "cuda"), default="cpu", help="cpu (the default) or cuda")
    add("--threads", metavar="N", type=whole_number(1), default=2, help="CPU threads; default: %(default)s")
    add("--rounds", metavar="N", type=whole_number(1), default=11, help="readings per contender; default: %(default)s")
    add("--no-compile", action="store_true", help="leave torch.compile out, which takes some seconds a case")
    add("--list", action="store_true", help="print the names of the cases and stop")
    add("--save", metavar="FILE", help="write the results as JSON")
    add("--against", metavar="FILE", help="compare with a saved run; exit code 1 if a case became slower")
    add("--plot", metavar="FILE", help="write a bar chart as PNG")


def run(args: argparse.Namespace) -> int:
    """Measure the cases asked for, show the table, save, compare, plot."""
    cases = select(all_cases(args.dtype), args.only)
    if not cases:
        raise UsageError(f"--only must match the name of a case (--list shows them), got {args.only!r}")
    if args.list:
        print("\n".join(case.name for case in cases))
        return 0
    saved = _load(args.against) if args.against else None
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device must be one that torch can use, got 'cuda' without a GPU")
    for module in ("rich", "matplotlib") if args.plot else ("rich",):
        need(module, "bench")
    for option, name in (("--save", args.save), ("--plot", args.plot)):
        _check_writable(option, name)
    torch.set_num_threads(args.threads)
    results = _document(args, dict(_measure_all(cases, args)))
    screen = console("bench")
    screen.print(table(results, saved))
    screen.print(notes(results), highlight=False, soft_wrap=True)
    if args.save:
        _write(args.save, lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))
    if args.plot:
        from fastlayers.benchmarks.plot import draw

        _write(args.plot, lambda path: draw(results, path))
    slower = regressions(results, saved) if saved else {}
    for name, factor in slower.items():
        screen.print(f"REGRESSION {name}: {factor:.2f} x the saved time, relative to eager", highlight=False)
    return 1 if slower else 0


def _measure_all(cases: Sequence[Case], args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    progress = need("rich.progress", "bench")
    columns = (progress.MofNCompleteColumn(), progress.BarColumn(), progress.TextColumn("{task.description}"), progress.TimeElapsedColumn())
    with progress.Progress(*columns, console=console("bench"), transient=True) as bar:
        task = bar.add_task("", total=len(cases))
        for case in cases:
            bar.update(task, description=case.name)
            yield case.name, measure(case, torch.device(args.device), args.rounds, not args.no_compile)
            bar.advance(task)


def measure(case: Case, device: torch.device, rounds: int, compile_too: bool) -> dict[str, Any]:
    """The median milliseconds of each contender and of one copy."""
    torch.manual_seed(0)
    torch.compiler.reset()
    source = torch.randn(case.numel, device=device).to(DTYPES[case.dtype])
    target = torch.empty_like(source)
    contenders = {**case.build(device, compile_too), "copy": lambda: target.copy_(source)}
    if device.type == "cuda" and case.numel < GRAPHED:
        contenders = {name: graphed(function) for name, function in contenders.items()}
    moved = 2 * source.numel() * source.element_size()
    return {"bytes": case.bytes, "copy_bytes": moved, "ms": interleave(contenders, rounds, clock(device))}


def _document(args: argparse.Namespace, cases: Mapping[str, Any]) -> dict[str, Any]:
    """What is saved: how it was measured, and the results."""
    return {
        "fastlayers": __version__, "torch": torch.__version__, "device": _device_name(args.device), "threads": torch.get_num_threads(),
        "rounds": args.rounds, "malloc_settings": malloc_settings_hold(), "cases": dict(cases),
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.backends.cpu.get_cpu_capability()}"


def table(results: Mapping[str, Any], saved: Mapping[str, Any] | None) -> Table:
    """One row per case."""
    grid = need("rich.table", "bench").Table(title=f"fastlayers {results['fastlayers']}, torch {results['torch']}, {results['device']}")
    grid.add_column("case", no_wrap=True)
    headings = ["ours\nms", "eager\nms", "compile\nms", "eager\n/ ours", "compile\n/ ours", "copies", "GB/s", "% of\ncopy's"]
    for heading in [*headings, *(["saved\n/ ours", "relative\nto eager"] if saved else [])]:
        grid.add_column(heading, justify="right")
    for name, case in results["cases"].items():
        ms = case["ms"]
        cells = [_milliseconds(ms.get(contender)) for contender in ("ours", "eager", "compile")]
        cells += [_ratio(ms["eager"] / ms["ours"]), _ratio(ms["compile"] / ms["ours"]) if "compile" in ms else "-"]
        cells += [f"{ms['ours'] / ms['copy']:.2f}", f"{case['bytes'] / ms['ours'] / 1e6:.1f}", _share_of_copy(case)]
        if saved:
            old = saved["cases"].get(name)
            cells += ["-", "-"] if old is None else [f"{old['ms']['ours'] / ms['ours']:.2f}", f"{1 / _slowdown(case, old):.2f}"]
        grid.add_row(name, *cells)
    return grid


def _share_of_copy(case: Mapping[str, Any]) -> str:
    """Our GB/s in percent of those of the copy."""
    ms = case["ms"]
    return f"{100 * (case['bytes'] / ms['ours']) / (case['copy_bytes'] / ms['copy']):.0f}"


def notes(results: Mapping[str, Any]) -> str:
    """How to read the table."""
    steady = "glibc's malloc told to keep its memory, for all alike" if results["malloc_settings"] else "system malloc"
    return (
        f"Layers: forward and backward. Medians of {results['rounds']} readings taken in turn, {results['threads']} threads, {steady}.\n"
        "copies: ours in units of one copy_ of the tensor. GB/s: the algorithm's least traffic over our time, also in % of the copy's.\n"
        "Optimizers: one step; eager is torch.optim with fused=True where it has that, else its default; where torch.optim has none,\n"
        "the formula as written."
    )


def regressions(results: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, float]:
    """The cases that became slower, and by what factor; eager's own change between the two runs is divided out."""
    both = [name for name in results["cases"] if name in saved["cases"]]
    factors = {name: _slowdown(results["cases"][name], saved["cases"][name]) for name in both}
    return {name: factor for name, factor in factors.items() if factor > REGRESSION}


def _slowdown(new: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    return (new["ms"]["ours"] / new["ms"]["eager"]) / (old["ms"]["ours"] / old["ms"]["eager"])


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ratio(value: float) -> str:
    return f"[{'green' if value >= 1 else 'red'}]{value:.2f}[/]"


def _load(name: str) -> dict[str, Any]:
    """A saved run."""
    try:
        saved = json.loads(Path(name).read_text())
    except OSError as error:
        raise UsageError(f"--against must be a file that can be read, got {name!r}: {error.strerror}") from None
    except ValueError:
        saved = None
    cases = saved.get("cases") if isinstance(saved, dict) else None
    if not isinstance(cases, dict) or not all({"ours", "eager"} <= {*case.get("ms", ())} for case in cases.values()):
        raise UsageError(f"--against must be a file written by --save, got {name!r}")
    return saved


def _check_writable(option: str, name: str | None) -> None:
    """Told before anything is measured, which may take hours."""
    if name is None:
        return
    path = Path(name)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} must be a file that can be written, got {name!r}")


def _write(name: str, write: Callable[[Path], object]) -> None:
    try:
        write(Path(name))
    except OSError as error:
        raise UsageError(f"{name!r} cannot be written: {error.strerror}") from None
    print(f"wrote {name}")


if __name__ == "__main__":
    from fastlayers.cli import main

    sys.argv[1:1] = ["bench"]
    sys.exit(main())
