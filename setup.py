"""Builds fastlayers._C, the C++ kernels; everything else about the package is in pyproject.toml.

FASTLAYERS_CPP=0 leaves the kernels out, FASTLAYERS_CPP=1 makes a failure to build them an error.
"""
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CAPABILITIES = {"baseline": []}  # the kernels are compiled once for each; the processor decides at import
if platform.machine().lower() in ("x86_64", "amd64"):
    CAPABILITIES["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    CAPABILITIES["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c", "-mprefer-vector-width=512"]
FLAGS = {
    "kernels": ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden", "-g0"],
    "bindings": ["-std=c++20", "-O2", "-fopenmp", "-fvisibility=hidden", "-DTORCH_EXTENSION_NAME=_C", "-Wno-maybe-uninitialized", "-g0"],
    "link": ["-fopenmp", "-Wl,-z,noexecstack"] if sys.platform == "linux" else ["-fopenmp"],
}


class BuildExtension(build_ext):
    """Compiles every kernel file once per CPU capability and the bindings once, in parallel, and only what changed."""

    def run(self):
        reason = None if os.environ.get("FASTLAYERS_CPP") != "0" else "FASTLAYERS_CPP=0"
        try:
            if reason is None:
                super().run()
        except Exception as error:  # distutils raises many kinds; whichever it was, the package works without the kernels
            if os.environ.get("FASTLAYERS_CPP") == "1":
                raise
            reason = " ".join(str(error).split())[:300]
        if reason:
            self.extensions = []
            print(f"fastlayers: C++ kernels left out, the reference backend will be used ({reason})", file=sys.stderr)

    def build_extension(self, extension):
        from pybind11 import get_include
        from torch.utils import cpp_extension

        extension.include_dirs += [get_include(), *cpp_extension.include_paths()]
        extension.library_dirs += cpp_extension.library_paths()
        jobs = [("bindings", source, FLAGS["bindings"]) for source in extension.sources]
        for name, flags in CAPABILITIES.items():
            defines = [f"-DFL_CPU_CAPABILITY={name}", f"-DFL_CPU_CAPABILITY_{name.upper()}"]
            jobs += [(name, str(source), FLAGS["kernels"] + flags + defines) for source in sorted(Path("csrc/cpu").glob("*.cpp"))]
        extension.extra_compile_args, sources, extension.sources = [], extension.sources, []
        newest_header = max(path.stat().st_mtime for path in [*Path("csrc").rglob("*.h"), Path(__file__)])
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            extension.extra_objects = list(pool.map(lambda job: self._compile(*job, extension.include_dirs, newest_header), jobs))
        extension.depends = extension.extra_objects  # what the library is linked from; without it a second build would not link
        super().build_extension(extension)
        extension.sources = sources

    def _compile(self, folder, source, flags, include_dirs, newest_header):
        # Not build_temp, which pip makes anew for every build.
        output = Path("build", f"{sys.implementation.cache_tag}-torch-{version('torch')}", folder)
        target = output / Path(source).with_suffix(".o")
        if not target.exists() or target.stat().st_mtime < max(newest_header, Path(source).stat().st_mtime):
            self.compiler.compile([source], output_dir=str(output), include_dirs=["csrc", *include_dirs], extra_postargs=flags)
        return str(target)


setup(
    ext_modules=[Extension("fastlayers._C", sorted(map(str, Path("csrc").glob("*.cpp"))), language="c++", extra_link_args=FLAGS["link"],
                           libraries=["c10", "torch", "torch_cpu", "torch_python"])],
    cmdclass={"build_ext": BuildExtension},
)
