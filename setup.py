"""Builds fastlayers._C, the kernels for CPUs, and fastlayers._CUDA; everything else about the package is in pyproject.toml.

FASTLAYERS_CPP=0 and FASTLAYERS_CUDA=0 leave one out; FASTLAYERS_CPP=1 and FASTLAYERS_CUDA=1 make a failure to build it an error.
tools/build_extensions.py says how they are compiled.
"""
import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import cuda_toolkit
from build_extensions import FLAGS, FOLDER, BuildExtension


def extension(name, bindings, *libraries, flags=()):
    return Extension(name, sorted(map(str, bindings)), libraries=["c10", "torch", "torch_cpu", "torch_python", *libraries],
                     language="c++", extra_compile_args=[*flags], extra_link_args=FLAGS["link"])


CSRC = Path("csrc")
setup(
    ext_modules=[extension("fastlayers._C", {*CSRC.glob("*.cpp")} - {*CSRC.glob("*_cuda.cpp")}),
                 extension("fastlayers._CUDA", cuda_toolkit.bindings(CSRC), "c10_cuda", flags=["-DFL_CUDA"])],
    cmdclass={"build_ext": BuildExtension},
    options={"build": {"build_base": str(FOLDER)}},
)
