"""Choosing a backend, and living without a compiler, Triton or a GPU."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from cases import needs_cpp
from conftest import running_on

import fastlayers as fl
from fastlayers import reference
from fastlayers.backends import NAMES, Completed, _choices, select


def name_of(x: torch.Tensor) -> str:
    return select(x).__name__


def test_every_backend_says_what_it_is() -> None:
    report = fl.backends()
    assert tuple(report) == NAMES
    for name, text in report.items():
        assert text.startswith(("available", "not available: ")), (name, text)


def test_context_manager_and_setter() -> None:
    x = torch.zeros(1)
    default = name_of(x)
    with fl.backend("reference"):
        assert name_of(x) == "fastlayers.reference"
        with fl.backend("auto"):
            assert name_of(x) == default
        assert name_of(x) == "fastlayers.reference"
    chosen = fl.backend("reference")
    assert name_of(x) == "fastlayers.reference"
    chosen.__exit__()
    assert name_of(x) == default


def test_decorator() -> None:
    """The function runs on the backend, whenever it is called; nothing else does."""
    default = name_of(torch.zeros(1))

    @fl.backend("reference")
    def name(x, *, suffix=""):
        """Doc."""
        return name_of(x) + suffix

    assert name_of(torch.zeros(1)) == default
    assert name(torch.zeros(1), suffix="!") == "fastlayers.reference!"
    assert name_of(torch.zeros(1)) == default
    assert (name.__name__, name.__doc__) == ("name", "Doc.")


def test_the_choice_survives_an_exception() -> None:
    default = name_of(torch.zeros(1))
    with pytest.raises(KeyError), fl.backend("reference"):
        raise KeyError
    assert name_of(torch.zeros(1)) == default


def test_triton_refuses_what_it_cannot_run_on() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: Triton runs")
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match=r"^backend: name must be an available backend, got 'triton': Triton finds no GPU driver"):
        fl.backend("triton")
    simulator = pytest.importorskip("ptxsim.triton", reason="the emulator is installed with: pip install -e tools/ptxsim")
    with simulator.device():
        chosen = fl.backend("triton")
    try:
        with pytest.raises(RuntimeError, match=r"^backend: 'triton' must be able to run on cpu tensors, got: Triton finds no GPU driver"):
            fl.nn.ReLU()(torch.zeros(1))
    finally:
        chosen.__exit__()


@pytest.mark.parametrize("name", [name for name in ("auto", "cpp") if name == "auto" or fl.backends()["cpp"].startswith("available")])
def test_tensors_without_memory_go_to_the_reference(name: str) -> None:
    """FakeTensor says it is on the CPU; kernels would read from address 0."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Plain(torch.Tensor):
        """Has memory of its own."""

    layer = torch.nn.Sequential(fl.nn.BatchNorm1d(4, activation="silu", dropout=0.1), fl.nn.Dropout(0.5))
    with fl.backend(name):
        assert select(torch.ones(2).as_subclass(Plain)) is select(torch.ones(2))
        with FakeTensorMode(allow_non_fake_inputs=True):
            x = torch.ones(6, 4, requires_grad=True)
            y = layer(x)
            y.sum().backward()
        assert (y.shape, x.grad.shape) == (x.shape, x.shape)


def run_without(module: str, code: str) -> str:
    """Output of code in a new process in which a module cannot be imported."""
    prelude = f"""
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {module!r} else real(name, package)
"""
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_without_the_extension() -> None:
    out = run_without("fastlayers._C", """
import torch, fastlayers as fl
print(fl.backends()["cpp"])
layer = fl.nn.BatchNorm1d(3, activation="relu", dropout=0.1)
layer(torch.randn(4, 3)).sum().backward()
""")
    assert out.startswith("not available: the C++ extension was not built")


def test_import_without_triton() -> None:
    out = run_without("triton", "import fastlayers as fl; print(fl.backends()['triton'])")
    assert out == "not available: Triton is not installed (pip install triton, Linux only)\n"


def test_import_is_cheap() -> None:
    """Neither Triton nor torch's compiler is imported with the package."""
    out = subprocess.run(
        [sys.executable, "-c", "import sys, torch; before = set(sys.modules); import fastlayers;"
         "print([name for name in ('triton', 'torch._dynamo', 'torch._inductor') if name in set(sys.modules) - before])"],
        capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_import_calls_mkls_vector_functions_before_threads_do() -> None:
    """Each of them, in both dtypes, on one element: else a first call by two threads is inexact now and then."""
    header = (Path(torch.__file__).parent / "include/ATen/cpu/vml.h").read_text()
    functions = set(re.findall(r"^IMPLEMENT_VML_MKL\((\w+), \w+\)", header, re.MULTILINE))
    assert "tanh" in functions
    out = subprocess.run([sys.executable, "-c", """
import torch
from torch.utils._python_dispatch import TorchDispatchMode

class Calls(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor) and args[0].numel() == 1:
            print(function.overloadpacket.__name__, args[0].dtype)
        return function(*args, **(kwargs or {}))

with Calls():
    import fastlayers
"""], capture_output=True, text=True, check=True)
    assert {f"{name} {dtype}" for name in functions for dtype in (torch.float32, torch.float64)} <= set(out.stdout.splitlines())


def cpp_with(capability: str) -> tuple[str, str]:
    """(the instruction set that torch finds, the line about cpp) in a process that is told to use this one."""
    environment = {**os.environ, "FASTLAYERS_CPU_CAPABILITY": capability}
    environment.pop("ATEN_CPU_CAPABILITY", None)  # torch is to say what the processor has
    code = "import torch, fastlayers as fl; print(torch.backends.cpu.get_cpu_capability()); print(fl.backends()['cpp'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    found, line = done.stdout.splitlines()
    return found, line


@needs_cpp
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_every_cpu_capability_can_be_forced(capability: str) -> None:
    """The kernels for older processors run here too; one that this processor lacks, by torch's word, is refused with a clear line."""
    found, line = cpp_with(capability)
    if capability in ("baseline", *{"AVX2": ["avx2"], "AVX512": ["avx2", "avx512"]}.get(found, [])):
        assert line == f"available on cpu, built for {capability}"
    else:
        assert line == ("not available: the C++ extension fastlayers._C cannot be imported: "
                        f"FASTLAYERS_CPU_CAPABILITY must be one that this processor has, got {capability}")


@needs_cpp
def test_unknown_capability_fails_at_import() -> None:
    for value in ("sse9", "AVX2"):
        environment = {**os.environ, "FASTLAYERS_CPU_CAPABILITY": value}
        code = "import torch, fastlayers._C"
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode != 0
        assert f"FASTLAYERS_CPU_CAPABILITY must be baseline, avx2 or avx512, got {value}" in run.stderr


def test_blocks_may_end_in_any_order_and_be_entered_again() -> None:
    """As those of two threads do."""
    x = torch.zeros(1)
    default = name_of(x)
    first, second = fl.backend("reference"), fl.backend("auto")
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert name_of(x) == default
    second.__exit__()
    assert name_of(x) == default
    for _ in range(2):
        with first:
            assert name_of(x) == "fastlayers.reference"
        assert name_of(x) == default


def test_a_choice_in_a_block_stays_after_it() -> None:
    x = torch.zeros(1)
    default = name_of(x)
    with fl.backend("auto"):
        chosen = fl.backend("reference")
        assert name_of(x) == "fastlayers.reference"
    assert name_of(x) == "fastlayers.reference"
    chosen.__exit__()
    assert name_of(x) == default


def test_what_was_not_compiled_for_a_gpu_is_tritons() -> None:
    """And where Triton cannot run the reference's."""
    compiled = types.ModuleType("compiled")
    compiled.device_type, compiled.gradient_norm = "cpu", object()
    completed = Completed(compiled)
    assert completed.gradient_norm is compiled.gradient_norm
    assert completed.gated_forward is reference.gated_forward
    with running_on("triton"):
        assert completed.gated_forward is sys.modules["fastlayers.kernels"].gated_forward


def test_choices_do_not_pile_up() -> None:
    """In a process that chooses again and again and ends nothing."""
    default = name_of(torch.zeros(1))
    chosen = [fl.backend("reference") for _ in range(300)]
    assert len(_choices) <= 101
    assert name_of(torch.zeros(1)) == "fastlayers.reference"
    for one in chosen:
        one.__exit__()
    assert name_of(torch.zeros(1)) == default


def test_decorators_refuse_what_works_after_it_has_returned() -> None:
    def generator():
        yield

    async def coroutine() -> None:
        pass

    default = name_of(torch.zeros(1))
    for function in (generator, coroutine):
        with pytest.raises(TypeError, match=r"^backend: a decorated function must not be a generator or a coroutine, got "):
            fl.backend("reference")(function)
    assert name_of(torch.zeros(1)) == default


def test_meta_tensors_have_shapes_under_every_choice(backend: str) -> None:
    assert fl.nn.BatchNorm2d(3, activation="relu", device="meta")(torch.empty(2, 3, 4, 4, device="meta")).shape == (2, 3, 4, 4)
