"""The benchmarks: which cases there are, one small run, saving and comparing."""
from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from fastlayers.benchmarks import cases, run
from tolerances import close

from fastlayers import measure
from fastlayers.cli import main
from fastlayers.specs import ACTIVATIONS, UPDATE_RULES

TINY = ["--only", "batch_norm+relu+residual+dropout 10x100", "--no-compile", "--rounds", "3"]


def test_every_row_of_specs_has_cases():
    every = list(cases.all_cases())
    names = [case.name for case in every]
    assert len(set(names)) == len(names)
    for name in ACTIVATIONS:
        assert f"{name} 32x64x56x56 float32" in names
    for name in cases.BLOCKS:
        assert f"batch_norm{'' if name == 'identity' else '+' + name}+dropout 32x64x56x56 float32" in names
    for rule in UPDATE_RULES.values():
        assert f"{rule.optimizer} 500 tensors of 64 float32" in names
    assert "batch_norm+silu 32x64x56x56 bfloat16 channels_last" in names
    assert {case.dtype for case in cases.all_cases("float64")} == {"float64"}


def test_declared_bytes():
    """The floors of the design: 2.5 copies for batch norm and activations, 2 for dropout, 28 bytes per parameter for Adam."""
    declared = {case.name: case for case in cases.all_cases()}
    copy = 2 * 4 * 32 * 64 * 56 * 56
    assert declared["batch_norm+relu 32x64x56x56 float32"].bytes == 2.5 * copy
    assert declared["silu 32x64x56x56 float32"].bytes == 2.5 * copy
    assert declared["dropout 32x64x56x56 float32"].bytes == 2 * copy
    adam = declared["Adam 25M in 96 tensors float32"]
    assert adam.bytes == 28 * adam.numel
    assert round(adam.numel, -6) == 25_000_000
    assert declared["Adam+clip 25M in 96 tensors float32"].bytes == 32 * adam.numel
    assert declared["SGD 25M in 96 tensors float32"].bytes == 20 * adam.numel


def test_only_selects_by_part_and_pattern():
    def chosen(pattern):
        return [case.name for case in cases.select(cases.all_cases(), pattern)]

    assert chosen("dropout 64x512") == [name for name in chosen(None) if "dropout 64x512" in name] != []
    assert chosen("Adam 500, SGD*of 64") == [f"{name} 500 tensors of 64 float32" for name in ("SGD", "Adam", "NAdam", "RAdam")]
    assert chosen("nothing like this") == []


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", [f"prelu {size}" for size in ("8x16x8x8",)] + ["batch_norm+prelu", "SGD 500", "Adam+clip"])
def test_every_kind_of_case_runs_in_every_dtype(name, dtype, monkeypatch):
    """Each contender once, on small tensors: the cases that no default run measures must not be broken when one asks for them."""
    monkeypatch.setattr(cases, "LARGE", (4, 3, 5, 5))
    monkeypatch.setattr(cases, "MODEL", (100, 7))
    monkeypatch.setattr(cases, "MANY", (64,) * 3)
    monkeypatch.setattr(cases, "FOLLOWERS", ("identity", "prelu"))
    built = cases.select(cases.all_cases(dtype), name)
    assert built
    for case in built:
        for call in case.build(torch.device("cpu"), False).values():
            call()


def test_contenders_of_a_case_agree():
    (case,) = cases.select(cases.all_cases(), "batch_norm+silu+residual 64x512")
    contenders = case.build(torch.device("cpu"), False)
    for theirs, ours in zip(contenders["eager"](), contenders["ours"](), strict=True):
        close(ours, theirs)


def test_save_compare_and_plot(tmp_path, capsys):
    saved, picture = tmp_path / "saved.json", tmp_path / "a PNG whatever its name.txt"
    assert main(["bench", *TINY, "--save", str(saved), "--plot", str(picture)]) == 0
    results = json.loads(saved.read_text())
    (name,) = results["cases"]
    assert name == "batch_norm+relu+residual+dropout 10x100 float32"
    assert set(results["cases"][name]["ms"]) == {"eager", "ours", "copy"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "copies" in printed
    assert "GB/s" in printed
    assert "compile" in printed

    results["cases"][name]["ms"]["ours"] /= 1e9  # beyond what a busy machine does to a contender
    saved.write_text(json.dumps(results))
    assert main(["bench", *TINY, "--against", str(saved)]) == 1
    assert f"REGRESSION {name}: " in capsys.readouterr().out
    results["cases"][name]["ms"]["ours"] *= 1e18
    saved.write_text(json.dumps(results))
    assert main(["bench", *TINY, "--against", str(saved)]) == 0
    assert "relative" in capsys.readouterr().out


def test_regressions_divide_out_what_happened_to_eager_too():
    def document(ours, eager):
        return {"cases": {"a": {"ms": {"ours": ours, "eager": eager}}, f"only {ours}": {"ms": {"ours": 1, "eager": 1}}}}

    assert run.regressions(document(2.0, 2.0), document(1.0, 1.0)) == {}
    assert run.regressions(document(2.0, 1.0), document(1.0, 1.0)) == {"a": 2.0}


@pytest.mark.parametrize("content", ["", "[]", '{"cases": 3}'])
def test_against_must_be_a_saved_run(content, tmp_path, capsys):
    path = tmp_path / "saved.json"
    path.write_text(content)
    assert main(["bench", *TINY, "--against", str(path)]) == 2
    assert capsys.readouterr().err == f"fastlayers bench: --against must be a file written by --save, got {str(path)!r}\n"


def test_interleaving_is_fair():
    """Every contender gets as many rounds, and a median per call of its own number of calls."""
    now = [0.0]

    def spend(milliseconds):
        def work():
            now[0] += milliseconds

        return work

    def read(function, count):
        before = now[0]
        for _ in range(count):
            function()
        return now[0] - before

    medians = measure.interleave({"slow": spend(5.0), "quick": spend(0.01)}, 5, read)
    assert medians == pytest.approx({"slow": 5.0, "quick": 0.01})


class FakeGpu:
    """Stands in for torch.cuda: a clock that only work moves, and a log of what happened in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log, self.capturing = 0.0, [], False
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = gpu.now
                gpu.log.append("event")

            def elapsed_time(self, end: Event) -> float:
                assert gpu.log[-1] == "synchronize"
                return end.at - self.at

        class Graph:
            def replay(self) -> None:
                gpu.log.append("replay")

        class Stream:
            def wait_stream(self, other: Stream) -> None:
                pass

        @contextlib.contextmanager
        def capture(graph: Graph):
            gpu.capturing = True
            yield
            gpu.capturing = False

        self.flushed = SimpleNamespace(zero_=lambda: self.work("flush", 1.0))
        self.sizes = []
        fakes = {"Event": Event, "CUDAGraph": Graph, "Stream": Stream, "graph": capture, "current_stream": Stream,
                 "stream": lambda stream: contextlib.nullcontext(), "synchronize": lambda: self.log.append("synchronize"),
                 "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=1000)}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def empty(self, size: int, **options: object) -> object:
        self.sizes.append(size)
        return self.flushed

    def work(self, name: str, milliseconds: float) -> None:
        if self.capturing and name == "wait":
            self.capturing = False
            raise RuntimeError("operation not permitted when stream is capturing")
        self.log.append(name)
        self.now += milliseconds


def test_a_gpu_is_timed_between_events_with_its_cache_flushed_before(monkeypatch):
    """The flush, of twice the cache, does not count; nothing waits until all calls are on their way."""
    gpu = FakeGpu(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", gpu.empty)
        read = measure.clock("cuda")
    assert read(lambda: gpu.work("work", 0.5), 2) == 1.0
    assert gpu.sizes == [2000]
    assert gpu.log == ["flush", "event", "work", "event"] * 2 + ["synchronize"]


def test_small_sizes_are_timed_as_graphs(monkeypatch):
    """What waits for the GPU cannot be one, and is called as it is."""
    gpu = FakeGpu(monkeypatch)
    measure.graphed(lambda: gpu.work("work", 1.0))()
    assert gpu.log == ["work"] * 4 + ["replay"]
    gpu.log.clear()
    measure.graphed(lambda: gpu.work("wait", 1.0))()
    assert gpu.log == ["wait"] * 4


def test_share_of_the_copy():
    """100 % is the copy's own rate."""
    case = {"bytes": 500, "copy_bytes": 200, "ms": {"ours": 5.0, "copy": 1.0}}
    assert run._share_of_copy(case) == "50"


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator settings are glibc's")
def test_a_measuring_command_starts_itself_again_with_the_allocator_settings():
    """Once, and with the same arguments."""
    environment = {name: value for name, value in os.environ.items() if name not in measure.MALLOC_SETTINGS}
    code = (
        "import os, sys; from fastlayers import measure; measure.restart_with_malloc_settings(); "
        "print(sys.argv[1:], measure.malloc_settings_hold())"
    )
    result = subprocess.run([sys.executable, "-c", code, "one", "two"], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "['one', 'two'] True\n"


def test_contenders_take_turns_and_every_other_round_runs_backwards() -> None:
    """Of which the median counts, for a single call."""
    order, readings = [], iter([5.0, 1.0, 2.0, 40.0, 30.0, 6.0])

    def read(function, count: int) -> float:
        function()
        return next(readings) * count if len(order) > 4 else 1.0  # after two contenders have been warmed up and counted

    contenders = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = measure.interleave(contenders, 3, read, milliseconds_per_reading=3.0)
    assert order[4:] == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": 30.0, "b": 2.0}
