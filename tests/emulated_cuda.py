"""The cuda backend without a GPU: csrc/cuda and its bindings compiled for CPU tensors, kernels launched in the emulator tools/ptxsim."""
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import ptxsim.cuda
import torch
from conftest import tool
from torch.utils import cpp_extension

cuda_toolkit, build_extensions = tool("cuda_toolkit"), tool("build_extensions")
ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / f"emulated-{sys.implementation.cache_tag}-torch-{torch.__version__}"
MODULE = "_CUDA"
KERNELS = [*cuda_toolkit.FLAGS, "-gencode=arch=compute_90,code=compute_90", "-cudart=none", "-DFL_EMULATED"]
BINDINGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-DFL_CUDA", "-DFL_EMULATED", f"-DTORCH_EXTENSION_NAME={MODULE}", "-w"]


def sources(root: Path) -> dict[Path, list[str]]:
    """What the library is made of: each file with the commands' options."""
    csrc = root / "csrc"
    bindings = [*sorted(cuda_toolkit.bindings(csrc)), ptxsim.cuda.runtime_source()]
    includes = [f"-I{path}" for path in (csrc, sysconfig.get_path("include"), *cpp_extension.include_paths())]
    return {path: KERNELS for path in sorted((csrc / "cuda").glob("*.cu"))} | {path: BINDINGS + includes for path in bindings}


def _object(folder: Path, source: Path, options: list[str]) -> None:
    """Compile an object file, unless it is current; beside that of a .cu file lies its PTX."""
    target = folder / f"{source.stem}.o"
    compiler = [cuda_toolkit.find_nvcc(), "--keep", "--keep-dir", str(folder)] if source.suffix == ".cu" else ["g++"]
    command = [*compiler, *options, "-MD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)]
    stamp = target.with_suffix(".command")
    if build_extensions.is_current(target) and stamp.exists() and stamp.read_text() == " ".join(command):
        return
    target.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{source.name} does not compile:\n{done.stderr}")
    stamp.write_text(" ".join(command))
    for rest in folder.glob(f"{source.stem}.*"):
        if rest.suffix not in (".o", ".ptx", ".command", ".d"):
            rest.unlink()


def build(root: Path = ROOT, folder: Path = FOLDER, only: Sequence[str] = ()) -> Path:
    """The library, made anew where anything it is made of has changed. Its folder holds the PTX files of its kernels.

    With ``only`` some names, their sources are compiled and no others: object files of these are in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parts = sources(root)
        objects = [folder / f"{source.stem}.o" for source in parts]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda source: _object(folder, source, parts[source]),
                          [source for source in parts if not only or source.stem in only]))
        library = folder / f"{MODULE}.so"
        if not library.exists() or library.stat().st_mtime < max(path.stat().st_mtime for path in objects):
            paths = cpp_extension.library_paths()
            subprocess.run(["g++", "-shared", *map(str, objects), "-o", str(library), "-Wl,-Bsymbolic", *(f"-L{path}" for path in paths),
                            *(f"-Wl,-rpath,{path}" for path in paths), "-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"], check=True)
    return library


class Emulated(ModuleType):
    """The functions of a compiled module, each called in the emulator of the block that is running."""

    def __init__(self, library: Path) -> None:
        super().__init__(MODULE)
        name = f"emulated_{hashlib.sha256(str(library).encode()).hexdigest()[:8]}.{MODULE}"  # pybind11 knows modules by their names
        spec = importlib.util.spec_from_file_location(name, library)
        self.library, self.compiled = library, importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.compiled)
        self.kernels = ptxsim.cuda.Kernels(sorted(library.parent.glob("*.ptx")))
        self.device: ptxsim.cuda.Device | None = None

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)
        function = getattr(self.compiled, name)
        if not callable(function):
            return function
        return lambda *arguments, **keywords: self.device.call(function, *arguments, **keywords)

    @contextlib.contextmanager
    def running(self, **options: object) -> Iterator[ptxsim.cuda.Device]:
        """Within the block its launches run in the emulator."""
        with ptxsim.cuda.device(self.library, self.kernels, **options) as device:
            previous, self.device = self.device, device
            try:
                yield device
            finally:
                self.device = previous


@lru_cache(maxsize=1)
def emulated() -> Emulated:
    """The cuda backend of this working tree."""
    return Emulated(build())
