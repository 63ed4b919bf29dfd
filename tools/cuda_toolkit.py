"""The CUDA toolkit that compiles kernels for the installed torch, or the reason why there is none: for setup.py and the tests.

CUDA_HOME, CUDA_PATH or PATH say where nvcc is; TORCH_CUDA_ARCH_LIST ("8.0 9.0+PTX") for which GPUs it compiles. Headers and the
runtime library that the toolkit lacks are those of the nvidia-* packages that torch installs.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ARCHITECTURES = "8.0 9.0 10.0+PTX"
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden"]  # fused only where a kernel says multiply_add


def bindings(csrc: Path) -> set[Path]:
    """The C++ files of fastlayers._CUDA; gated units are CPU kernels and Triton's."""
    return {*csrc.glob("bindings*.cpp"), *csrc.glob("*_cuda.cpp")} - {csrc / "bindings_gated.cpp"}


class Unsuitable(Exception):
    """CUDA kernels cannot be built here; the message says why."""


@dataclass(frozen=True)
class Toolkit:
    """What compiling and linking need."""

    nvcc: str
    architectures: list[str]
    """-gencode options."""
    includes: list[str]
    runtime: str
    """libcudart, as a file."""

    def compile(self, source: str, folder: Path) -> None:
        """Make an object file of a .cu file in csrc, at its path within the folder."""
        target = Path(folder, source).with_suffix(".o")
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [self.nvcc, *FLAGS, *self.architectures, "-Icsrc", "-MD", "-MF", str(target.with_suffix(".d")), "-c", source,
                   "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unsuitable(f"nvcc cannot compile {source}: {done.stderr.strip()}")


def find_nvcc(environment: Mapping[str, str] = os.environ) -> str | None:
    """The compiler's path."""
    homes = [environment[name] for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)]
    inside = [path for home in homes if (path := shutil.which("nvcc", path=str(Path(home, "bin"))))]
    return (inside or [shutil.which("nvcc", path=environment.get("PATH")) or shutil.which("nvcc", path="/usr/local/cuda/bin")])[0]


def find(torch_version: str, torch_cuda: str | None, environment: Mapping[str, str] = os.environ) -> Toolkit:
    """The toolkit for a torch of this version that was built for this CUDA (torch.version.cuda).

    Raises:
        Unsuitable: there is none.
    """
    if torch_cuda is None:
        raise Unsuitable(f"torch {torch_version} is not built for CUDA")
    nvcc = find_nvcc(environment)
    if nvcc is None:
        raise Unsuitable("nvcc is neither in CUDA_HOME/bin, CUDA_PATH/bin or /usr/local/cuda/bin nor on PATH")
    found = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    version = ".".join(found.groups()) if found else "unknown"
    if version.split(".")[0] != torch_cuda.split(".")[0]:
        raise Unsuitable(f"nvcc is of CUDA {version}, torch {torch_version} of CUDA {torch_cuda}")
    home = re.search(r"^#\$ TOP=(.+)$", _output(nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull), re.MULTILINE)
    folders = [*([Path(home[1])] if home else []), *_packages()]
    return Toolkit(nvcc, _architectures(nvcc, environment.get("TORCH_CUDA_ARCH_LIST")),
                   [str(folder / "include") for folder in folders if (folder / "include").is_dir()], _runtime(folders))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _packages() -> list[Path]:
    """The folders of the nvidia-* packages."""
    spec = find_spec("nvidia")
    return sorted(path for place in (spec.submodule_search_locations if spec else ()) for path in Path(place).iterdir() if path.is_dir())


def _runtime(folders: list[Path]) -> str:
    for folder in folders:
        for library in ("lib64", "lib"):
            for path in sorted(Path(folder, library).glob("libcudart.so*")):
                return str(path)
    raise Unsuitable("libcudart.so is neither in the toolkit nor in a package of torch's")


def _architectures(nvcc: str, wanted: str | None) -> list[str]:
    """-gencode options for what TORCH_CUDA_ARCH_LIST names; by default for those of ARCHITECTURES that nvcc knows."""
    known, options = _output(nvcc, "--list-gpu-code").split(), []
    for item in (wanted or ARCHITECTURES).replace(";", " ").split():
        parts = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", item)
        if not parts:
            raise Unsuitable(f"TORCH_CUDA_ARCH_LIST must hold numbers such as 9.0 or 10.0+PTX, got {item!r}")
        number = "".join(parts.groups("")[:3])
        if f"sm_{number.rstrip('af')}" not in known:
            if wanted:
                raise Unsuitable(f"TORCH_CUDA_ARCH_LIST must hold architectures that nvcc knows, got {item!r}")
            continue
        codes = [f"sm_{number}", *([f"compute_{number}"] if parts[4] else [])]
        options += [f"-gencode=arch=compute_{number},code=[{','.join(codes)}]"]
    return options


def built_architectures(library: str | Path) -> list[str]:
    """What a library holds kernels for, sm_90 and the like, with "+PTX" behind what newer GPUs can compile from."""
    tools = [shutil.which("cuobjdump"), *map(str, Path(find_spec("triton").origin).parent.glob("backends/nvidia/bin/cuobjdump"))]
    tool = next(filter(None, tools))
    code, text = (set(re.findall(r"sm_(\d+[af]?)", _output(tool, option, str(library)))) for option in ("--list-elf", "--list-ptx"))
    return [f"sm_{number}" + "+PTX" * (number in text) for number in sorted(code, key=lambda number: int(number.rstrip("af")))]


if __name__ == "__main__":
    extension = find_spec("fastlayers._CUDA")
    print(f"{'fastlayers._CUDA':<18} {', '.join(built_architectures(extension.origin)) if extension else 'not built'}")
