"""Which backend runs: the names, what is available and why not, and the choice. Nothing else in the code decides."""
from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from . import checks, reference
from .generated import REGISTERED
from .specs import ACTIVATIONS, UPDATE_RULES

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

NAMES = ("reference", "cpp", "triton", "cuda")
_MODULES = {"reference": "fastlayers.reference", "cpp": "fastlayers._C", "triton": "fastlayers.kernels", "cuda": "fastlayers._CUDA"}
_COMPILED = ("cpp", "cuda")
"""What was compiled before any formula was registered."""
_TITLES = {"cpp": "the C++ extension fastlayers._C", "triton": "Triton", "cuda": "the CUDA extension fastlayers._CUDA"}

_plain_dispatch = Tensor.__torch_dispatch__


class _Choice:
    """A backend that somebody has chosen; which one it is counts, not its name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


_choices = [_Choice("auto")]
"""Those that stand: the last one counts. Blocks take their own away, in whatever order threads leave them."""


class Completed(ModuleType):
    """A compiled backend for GPUs; what it has no kernel of is Triton's, or without Triton the reference's."""

    def __init__(self, compiled: ModuleType) -> None:
        super().__init__(compiled.__name__)
        self.compiled = compiled

    def __getattr__(self, name: str) -> object:
        found = getattr(self.compiled, name, None)
        if found is None:
            return getattr(_uncompiled(self.compiled.device_type), name)
        setattr(self, name, found)
        return found


def _uncompiled(device: str) -> ModuleType:
    """What computes on a GPU what was not compiled."""
    return reference if _reason_against("triton", device) else _module("triton")[0]


def _not_built() -> str:
    """Why there is no CUDA extension."""
    if torch.version.cuda is None:
        return f"the CUDA extension was not built: torch {torch.__version__} is not built for CUDA"
    return (f"the CUDA extension was not built: reinstall with nvcc of CUDA {torch.version.cuda.split('.')[0]}, "
            "FASTLAYERS_CUDA=1 pip install --no-build-isolation says what is missing")


def _reason_against_torch(name: str, module: ModuleType) -> str:
    """Why an extension does not fit the installed torch, whose C++ classes change with every release; "" if it does."""
    built_for = getattr(module, "torch_version", torch.__version__)
    if built_for.split(".")[:2] == torch.__version__.split(".")[:2]:
        return ""
    return (f"{_TITLES[name]} was built for torch {built_for}, this is torch {torch.__version__}: reinstall fastlayers with "
            "pip install --no-build-isolation --force-reinstall --no-deps")


def _reason_against_rows(name: str, module: ModuleType) -> str:
    """Why an extension does not fit specs.py, which has rows that it was built without; "" if it does."""
    facts = {**getattr(module, "activation_facts", dict)(), **getattr(module, "update_rule_facts", dict)()}  # older ones say nothing
    lacking = [row for row in (*ACTIVATIONS, *UPDATE_RULES) if row not in facts and row not in REGISTERED]
    return f"{_TITLES[name]} was built without {', '.join(lacking)}: build or install fastlayers again" if lacking else ""


def _load(name: str) -> tuple[ModuleType | None, str]:
    """(the backend's module, "") or (None, the reason why it cannot be imported)."""
    if name == "cuda" and importlib.util.find_spec("fastlayers._CUDA") is None:
        return None, _not_built()
    if name == "triton" and importlib.util.find_spec("triton") is None:
        return None, "Triton is not installed (pip install triton, Linux only)"
    if name == "cpp" and importlib.util.find_spec("fastlayers._C") is None:
        return None, ("the C++ extension was not built: reinstall with pip install --no-build-isolation and a C++20 compiler, "
                      "-v shows why it was left out")
    try:
        module = importlib.import_module(_MODULES[name])
        if name in _COMPILED and (reason := _reason_against_torch(name, module) or _reason_against_rows(name, module)):
            return None, reason
        return (Completed(module) if name == "cuda" else module), ""
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"{_TITLES[name]} cannot be imported: {' '.join(str(error).split())}"


_cpp, _cpp_reason = _load("cpp")
extension = _cpp  # the C++ module, None without it: for helpers that are not kernels and have a twin in Python
_cpu_default = reference if _cpp is None else _cpp
_lazy: dict[str, tuple[ModuleType | None, str]] = {"reference": (reference, ""), "cpp": (_cpp, _cpp_reason)}


def _module(name: str) -> tuple[ModuleType | None, str]:
    """Like _load, once; Triton is imported at the first use, not with the package."""
    if name not in _lazy:
        _lazy[name] = _load(name)
    return _lazy[name]


def _triton_device() -> str:
    """The device type that Triton launches on now: "cuda", or "cpu" in an emulator or the interpreter; "" if none."""
    import triton

    if triton.knobs.runtime.interpret:
        return "cpu"
    try:
        return triton.runtime.driver.active.get_active_torch_device().type
    except RuntimeError:  # Triton's "0 active drivers"
        return ""


def _reason_against(name: str, device: str | None = None) -> str:
    """Why the backend cannot run here, or on tensors of this device type; "" if it can."""
    module, reason = _module(name)
    if module is None or name == "reference":
        return reason
    if name == "cpp":
        return "" if device in (None, "cpu") else f"cpp runs on cpu tensors, not on {device} ones"
    if name == "cuda":
        return _reason_against_cuda(module.device_type, device)
    runs_on = _triton_device()
    if not runs_on:
        return "Triton finds no GPU driver (without a GPU it runs inside ptxsim.triton.device() or with TRITON_INTERPRET=1)"
    return "" if device in (None, runs_on) else f"triton runs on {runs_on} tensors here, not on {device} ones"


def _reason_against_cuda(runs_on: str, device: str | None) -> str:
    if runs_on == "cuda" != device and not torch.cuda.is_available():
        return "torch finds no GPU"
    return "" if device in (None, runs_on) else f"cuda runs on {runs_on} tensors here, not on {device} ones"


_runs_on_gpu: set[str] = set()


def _reason_on_gpu(name: str) -> str:
    """_reason_against(name, "cuda"); asked no more once there is none: drivers take longer to answer than a small kernel to run."""
    if name in _runs_on_gpu:
        return ""
    reason = _reason_against(name, "cuda")
    if not reason:
        _runs_on_gpu.add(name)
    return reason


def _lacks(name: str, activation: str | None) -> str:
    """Why the backend cannot compute this activation; "" if it can."""
    if name in _COMPILED and activation in REGISTERED:
        return f"{name} has no kernel of {activation!r}, which was registered as a formula; triton and reference compute it"
    return ""


def select(x: Tensor, activation: str | None = None) -> ModuleType:
    """The backend module that runs an operation whose first tensor is x; another where the choice lacks the activation.

    Tensors that do without memory of their own (FakeTensor, DTensor and what else has a __torch_dispatch__) need the reference.
    """
    if type(x).__torch_dispatch__ is not _plain_dispatch:
        return reference
    chosen = _cpu_default if _choices[-1].name == "auto" and x.is_cpu else _select(x)
    if activation in REGISTERED and any(chosen is _module(name)[0] and _lacks(name, activation) for name in _COMPILED):
        return reference if chosen is _cpp else _uncompiled(x.device.type)
    if activation is not None and activation not in ACTIVATIONS:
        raise checks.unregistered(activation)
    return chosen


def extension_chosen() -> bool:
    """Whether it is the extension, if there is one, that computes on ordinary CPU tensors."""
    return _choices[-1].name in ("auto", "cpp")


def is_compiled(kernels: ModuleType) -> bool:
    """Whether this is a backend in C++, which has more than kernels."""
    return kernels is _cpp or type(kernels) is Completed


def _select(x: Tensor) -> ModuleType:
    """The chosen backend; tensors without values have nothing to compute, only shapes."""
    choice = _choices[-1].name
    if x.is_meta:
        return reference
    if choice == "auto":
        if x.is_cpu:
            return _cpu_default
        usable = [name for name in ("cuda", "triton") if x.is_cuda and not _reason_on_gpu(name)]
        return _module(usable[0])[0] if usable else reference
    reason = _reason_on_gpu(choice) if x.is_cuda else _reason_against(choice, x.device.type)
    if reason:
        raise checks.wrong_device(choice, x.device.type, reason)
    return _module(choice)[0]


class backend:
    """Choose the backend, for the process, for a ``with`` block or, as a decorator, for a function.

    Args:
        name: "auto" (the default: the fastest that runs on the tensor at hand), "reference", "cpp", "triton" or "cuda".

    Raises:
        ValueError: ``backend: name must be one of auto, reference, cpp, triton, cuda, got 'x'``.
        RuntimeError: the backend is not available here; the message says why.

    The choice is one for the whole process, threads included: the last one made counts, until its block ends. A backward pass runs on
    the backend of its forward pass.

    >>> import torch, fastlayers as fl
    >>> with fl.backend("reference"):
    ...     fl.functional.relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def __init__(self, name: str) -> None:
        checks.one_of("backend", "name", name, ("auto", *NAMES))
        checks.available_backend(name, "" if name == "auto" else _reason_against(name))
        self._name, self._chosen, self._entered = name, [], False
        self._choose()
        del _choices[1:-100]  # a process that chooses again and again; nobody is inside so many blocks

    def __enter__(self) -> backend:
        if self._entered:  # the first block has the constructor's choice
            self._choose()
        self._entered = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered = True
        choice = self._chosen.pop()
        if choice in _choices:
            _choices.remove(choice)

    def __call__(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Have function run on this backend, and nothing else."""
        self.__exit__()
        checks.plain_function("backend", function)

        @functools.wraps(function)
        def run(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
            with self:
                return function(*arguments, **keywords)

        return run

    def _choose(self) -> None:
        self._chosen.append(_Choice(self._name))
        _choices.append(self._chosen[-1])


def backends(activation: str | None = None) -> dict[str, str]:
    """What can run here: each backend's name with "available" and on what, or one sentence why not.

    With the name of an activation, what can compute it; a backend that cannot leaves it to Triton or to the reference.

    >>> import fastlayers as fl
    >>> fl.backends()["reference"]
    'available on every device'
    """
    if activation is not None:
        checks.one_of("backends", "activation", activation, tuple(ACTIVATIONS))
    details = {"reference": "on every device"}
    if _cpp is not None:
        details["cpp"] = f"on cpu, built for {_cpp.cpu_capability()}"
    report = {}
    for name in NAMES:
        reason = _reason_against(name) or _lacks(name, activation)
        if not reason and name == "triton":
            details[name] = f"on {_triton_device()}"
        if not reason and name == "cuda":
            details[name] = f"on {_module(name)[0].device_type}"
        report[name] = f"not available: {reason}" if reason else f"available {details[name]}"
    return report
