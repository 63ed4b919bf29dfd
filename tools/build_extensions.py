"""How setup.py compiles the extensions: what is compiled with which flags, in parallel, and only what changed."""
import hashlib
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

import cuda_toolkit
from setuptools.command.build_ext import build_ext

CAPABILITIES = {"baseline": []}  # the kernels are compiled once for each; the processor decides at import
if platform.machine().lower() in ("x86_64", "amd64"):
    CAPABILITIES["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    CAPABILITIES["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c", "-mprefer-vector-width=512"]
FLAGS = {
    "kernels": ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden", "-g0"],
    "bindings": ["-std=c++20", "-O2", "-fopenmp", "-fvisibility=hidden", "-Wno-maybe-uninitialized", "-g0"],
    "link": ["-fopenmp", "-Wl,-z,noexecstack"] if sys.platform == "linux" else ["-fopenmp"],
}
SWITCHES = {"fastlayers._C": ("FASTLAYERS_CPP", "C++ kernels left out, the reference backend will be used"),
            "fastlayers._CUDA": ("FASTLAYERS_CUDA", "CUDA kernels left out, GPUs will use Triton")}
TORCH = next((found.version for found in distributions(name="torch")), "none")
SETTINGS = [Path(__file__), Path(cuda_toolkit.__file__)]  # where flags stand
COMPILER = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "ARCHFLAGS")  # what setuptools lets the environment say


def folder(environment: Mapping[str, str]) -> Path:
    """Where objects lie: other ones for each Python, platform, torch and compiler; not build_temp, which pip makes anew for every build."""
    given = [(name, environment[name]) for name in COMPILER if environment.get(name)]
    compiler = f"-{hashlib.sha256(repr(given).encode()).hexdigest()[:8]}" if given else ""
    return Path("build", f"{sysconfig.get_config_var('SOABI') or sys.implementation.cache_tag}-torch-{TORCH}{compiler}")


FOLDER = folder(os.environ)


def is_current(target: Path, *others: Path) -> bool:
    """Whether an object file is as new as all that it was made of: the files that the compiler listed beside it, and these others."""
    rule = target.with_suffix(".d")
    if not (target.exists() and rule.exists()):
        return False
    read = rule.read_text().replace("\\\n", " ").partition(": ")[2].split()
    return all(path.exists() and path.stat().st_mtime <= target.stat().st_mtime for path in [*map(Path, read), *others])


class BuildExtension(build_ext):
    """Compiles bindings once, CPU kernels once per capability and CUDA kernels with nvcc, in parallel, and only what changed."""

    def build_extensions(self):
        self.extensions = [extension for extension in self.extensions if self._is_built(extension)]

    def _is_built(self, extension):
        switch, left_out = SWITCHES[extension.name]
        reason = None if os.environ.get(switch) != "0" else f"{switch}=0"
        try:
            if reason is None:
                self.build_extension(extension)
        except Exception as error:  # distutils raises many kinds; whichever it was, the package works without the kernels
            reason = " ".join(str(error).split())[:300]
            if os.environ.get(switch) == "1":
                raise RuntimeError(f"fastlayers: {extension.name} must be built where {switch}=1, got: {reason}") from error
        if reason:
            print(f"fastlayers: {left_out} ({reason})", file=sys.stderr)
        return reason is None

    def build_extension(self, extension):
        from torch.utils import cpp_extension

        extension.include_dirs += ["csrc", *cpp_extension.include_paths()]  # torch's carry pybind11, in the version of its own bindings
        extension.library_dirs += cpp_extension.library_paths()
        jobs = self._cuda_kernels(extension) if extension.name.endswith("_CUDA") else self._cpu_kernels(extension)
        module = extension.name.rpartition(".")[2]
        flags = [*FLAGS["bindings"], f"-DTORCH_EXTENSION_NAME={module}", *extension.extra_compile_args]
        jobs += [(self._cpp(extension, flags), f"bindings{module}", source) for source in extension.sources]
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            extension.extra_objects += pool.map(self._object, jobs)
        extension.extra_compile_args, sources, extension.sources = [], extension.sources, []
        extension.depends = extension.extra_objects  # what the library is linked from; without it a second build would not link
        super().build_extension(extension)
        extension.sources = sources

    def _cpp(self, extension, flags):
        return lambda source, folder: self.compiler.compile(
            [source], output_dir=str(folder), include_dirs=extension.include_dirs, extra_postargs=[*flags, "-MMD"])

    def _cpu_kernels(self, extension):
        jobs = []
        for name, flags in CAPABILITIES.items():
            options = [*FLAGS["kernels"], *flags, f"-DFL_CPU_CAPABILITY={name}"]
            jobs += [(self._cpp(extension, options), name, str(source)) for source in sorted(Path("csrc/cpu").glob("*.cpp"))]
        return jobs

    def _cuda_kernels(self, extension):
        import torch

        toolkit = cuda_toolkit.find(torch.__version__, torch.version.cuda)
        extension.include_dirs += toolkit.includes
        extension.extra_objects = [toolkit.runtime]
        part = f"cuda-{hashlib.sha256(repr(toolkit.architectures).encode()).hexdigest()[:8]}"  # for others other objects
        return [(toolkit.compile, part, str(source)) for source in sorted(Path("csrc/cuda").glob("*.cu"))]

    def _object(self, job):
        compile_to, part, source = job
        target = Path(FOLDER, part, source).with_suffix(".o")
        if not is_current(target, *SETTINGS):
            compile_to(source, FOLDER / part)
        return str(target)
