"""Fixtures of all tests: the backend a case runs on, and memory that shows every element nobody wrote."""
from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import fastlayers as fl
from fastlayers import backends as report  # the function fl.backends
from fastlayers.backends import Completed, _lazy

BACKENDS = ("reference", "cpp", "triton", "cuda")


def tool(name: str) -> ModuleType:
    """A module of tools/, loaded by its path: were the folder on Python's, its ptxsim would hide the installed one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tools" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def need_nvcc(**options: object) -> None:
    """Skips where there is no nvcc, which .ci/run does not allow; where setup.py finds it, so do the tests."""
    if tool("cuda_toolkit").find_nvcc() is None:
        pytest.skip("nvcc, which compiles csrc/cuda for the emulator, is not installed", **options)


@contextlib.contextmanager
def emulated_cuda(module: ModuleType | None = None, **options: object):
    """The cuda backend, or this module in its place, is on CPU tensors in the block, its launches and Triton's in the emulator; yields
    where they are counted."""
    simulator = pytest.importorskip("ptxsim.triton", reason="the emulator is installed with: pip install -e tools/ptxsim")
    need_nvcc()
    from emulated_cuda import emulated

    module = module or emulated()
    with simulator.device(arch=90), module.running(**options) as device, pytest.MonkeyPatch.context() as patch:
        patch.setitem(_lazy, "cuda", (Completed(module), ""))
        yield device


@contextlib.contextmanager
def running_on(name: str):
    """The block runs on this backend: Triton natively where there is a GPU, else compiled kernels in the emulator tools/ptxsim."""
    if name == "triton" and not torch.cuda.is_available():
        simulator = pytest.importorskip("ptxsim.triton", reason="the emulator is installed with: pip install -e tools/ptxsim")
        with simulator.device(arch=90), fl.backend(name):
            yield torch.device("cpu")
        return
    if name == "cuda" and not torch.cuda.is_available():
        with emulated_cuda(), fl.backend(name):
            yield torch.device("cpu")
        return
    if name in ("cpp", "cuda") and not report()[name].startswith("available"):
        pytest.skip(report()[name])
    with fl.backend(name):
        yield torch.device("cuda" if name in ("triton", "cuda") else "cpu")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest):
    """Name of the backend; the test runs on it."""
    with running_on(request.param):
        yield request.param


@pytest.fixture(params=["reference", "cpp"])
def cpu_backend(request: pytest.FixtureRequest):
    """Name of a backend that runs a whole network here; the test runs on it."""
    with running_on(request.param):
        yield request.param


@pytest.fixture(params=BACKENDS)
def device(request: pytest.FixtureRequest):
    """Where tensors are; the test runs on each backend in turn."""
    with running_on(request.param) as device:
        yield device


@pytest.fixture(scope="session")
def cpu_results(tmp_path_factory: pytest.TempPathFactory):
    """What each instruction set of this processor computes, from tests/cpu_results.py."""
    from cpu_results import of_every_capability

    return of_every_capability(tmp_path_factory.mktemp("cpu_results"))


@pytest.fixture(autouse=True)
def _fresh_state():
    """The same random numbers in every test; outputs that a kernel forgets to write are NaN, not zero."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
