"""Fixtures of all tests: the backend a case runs on, and memory that shows every element nobody wrote."""
from __future__ import annotations

import contextlib

import pytest
import torch

import fastlayers as fl
from fastlayers import backends as report  # the function fl.backends

BACKENDS = ("reference", "cpp", "triton")


@contextlib.contextmanager
def running_on(name: str):
    """The block runs on this backend: Triton natively where there is a GPU, else compiled kernels in the emulator tools/ptxsim."""
    if name == "triton" and not torch.cuda.is_available():
        simulator = pytest.importorskip("ptxsim.triton", reason="the emulator is installed with: pip install -e tools/ptxsim")
        with simulator.device(arch=90), fl.backend(name):
            yield torch.device("cpu")
        return
    if name == "cpp" and not report()["cpp"].startswith("available"):
        pytest.skip(report()["cpp"])
    with fl.backend(name):
        yield torch.device("cuda" if name == "triton" else "cpu")


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


@pytest.fixture(autouse=True)
def _fresh_state():
    """The same random numbers in every test; outputs that a kernel forgets to write are NaN, not zero."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
