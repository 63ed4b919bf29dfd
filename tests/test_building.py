"""What setup.py builds and leaves out, and which CUDA toolkit it takes for which torch."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import conftest
import pytest
import torch

ROOT = Path(__file__).parent.parent
cuda_toolkit = conftest.tool("cuda_toolkit")

CODES = "sm_80 sm_90 sm_100"


def fake_home(folder: Path, release: str = "13.0", codes: str = CODES) -> dict[str, str]:
    """An environment whose CUDA_HOME holds a script that answers as nvcc of this release, and a runtime library."""
    (folder / "bin").mkdir(parents=True)
    (folder / "include").mkdir()
    (folder / "lib64").mkdir()
    (folder / "lib64/libcudart.so").touch()
    script = folder / "bin/nvcc"
    script.write_text(f"""#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.88" ;;
  --list-gpu-code) echo "{codes}" ;;
  --dryrun) echo '#$ TOP={folder}' >&2 ;;
esac
""")
    script.chmod(0o755)
    return {"CUDA_HOME": str(folder), "PATH": os.environ["PATH"]}


def test_a_toolkit_of_the_same_major_version_is_taken(tmp_path: Path) -> None:
    toolkit = cuda_toolkit.find("2.14.1+cu132", "13.2", fake_home(tmp_path))
    assert toolkit.nvcc == str(tmp_path / "bin/nvcc")
    assert toolkit.includes[0] == str(tmp_path / "include")
    assert toolkit.runtime == str(tmp_path / "lib64/libcudart.so")
    assert toolkit.architectures == ["-gencode=arch=compute_80,code=[sm_80]", "-gencode=arch=compute_90,code=[sm_90]",
                                     "-gencode=arch=compute_100,code=[sm_100,compute_100]"]


def test_what_an_older_nvcc_does_not_know_is_left_out(tmp_path: Path) -> None:
    toolkit = cuda_toolkit.find("2.9.0", "12.9", fake_home(tmp_path, "12.6", "sm_80 sm_90"))
    assert toolkit.architectures == ["-gencode=arch=compute_80,code=[sm_80]", "-gencode=arch=compute_90,code=[sm_90]"]


def test_the_architectures_that_the_user_names(tmp_path: Path) -> None:
    environment = fake_home(tmp_path) | {"TORCH_CUDA_ARCH_LIST": "8.0;9.0a+PTX"}
    assert cuda_toolkit.find("2.14.1", "13.0", environment).architectures == [
        "-gencode=arch=compute_80,code=[sm_80]", "-gencode=arch=compute_90a,code=[sm_90a,compute_90a]"]


@pytest.mark.parametrize(("release", "torch_cuda", "wanted", "message"), [
    ("13.0", None, "", "torch 2.14.1 is not built for CUDA"),
    ("12.8", "13.0", "", "nvcc is of CUDA 12.8, torch 2.14.1 of CUDA 13.0"),
    ("13.0", "13.0", "Hopper", "TORCH_CUDA_ARCH_LIST must hold numbers such as 9.0 or 10.0+PTX, got 'Hopper'"),
    ("13.0", "13.0", "7.0", "TORCH_CUDA_ARCH_LIST must hold architectures that nvcc knows, got '7.0'"),
])
def test_what_does_not_fit_is_refused(tmp_path: Path, release: str, torch_cuda: str | None, wanted: str, message: str) -> None:
    with pytest.raises(cuda_toolkit.Unsuitable) as error:
        cuda_toolkit.find("2.14.1", torch_cuda, fake_home(tmp_path, release) | {"TORCH_CUDA_ARCH_LIST": wanted})
    assert str(error.value) == message


def test_no_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_toolkit.shutil, "which", lambda *arguments, **options: None)
    with pytest.raises(cuda_toolkit.Unsuitable) as error:
        cuda_toolkit.find("2.14.1", "13.0")
    assert str(error.value) == "nvcc is neither in CUDA_HOME/bin, CUDA_PATH/bin or /usr/local/cuda/bin nor on PATH"


def test_no_two_compilers_share_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor two Pythons, whose version may be the same: one without a GIL, one for debugging, one of another platform."""
    folder = conftest.tool("build_extensions").folder
    environments = ({}, {"CXX": "clang++"}, {"CC": "clang++"}, {"CXX": "g++-13"}, {"CXX": "g++-13", "CFLAGS": "-m32"})
    names = [folder(environment) for environment in environments]
    for abi in ("cpython-313t-x86_64-linux-gnu", "cpython-313-aarch64-linux-gnu"):
        monkeypatch.setattr(sysconfig, "get_config_var", {"SOABI": abi}.get)
        names.append(folder({}))
    assert len({*names}) == len(names)
    assert folder({"PATH": "/bin", "CXX": ""}) == folder({}), "what is not the compiler's changes nothing"


def build(folder: Path, **switches: str) -> subprocess.CompletedProcess[str]:
    """setup.py without the kernels for CPUs, which take minutes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTLAYERS_")}
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(folder)], cwd=ROOT, capture_output=True, text=True,
        check=False, env={**environment, "FASTLAYERS_CPP": "0", **switches})


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_setup_without_a_torch_for_cuda(tmp_path: Path) -> None:
    reason = f"torch {torch.__version__} is not built for CUDA"
    left_out = build(tmp_path)
    assert left_out.returncode == 0, left_out.stderr
    assert left_out.stderr.splitlines() == [
        "fastlayers: C++ kernels left out, the reference backend will be used (FASTLAYERS_CPP=0)",
        f"fastlayers: CUDA kernels left out, GPUs will use Triton ({reason})"]
    forced = build(tmp_path, FASTLAYERS_CUDA="1")
    assert forced.returncode != 0
    assert forced.stderr.splitlines()[-1] == (
        f"RuntimeError: fastlayers: fastlayers._CUDA must be built where FASTLAYERS_CUDA=1, got: {reason}")


def test_setup_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    done = build(tmp_path, FASTLAYERS_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "fastlayers: CUDA kernels left out, GPUs will use Triton (FASTLAYERS_CUDA=0)"
    assert not list(tmp_path.iterdir())


def test_a_source_distribution_has_what_builds_tests_and_describes_it(tmp_path: Path) -> None:
    """All of tests/ and the emulator, not the test_*.py alone that setuptools would add; nothing that is built."""
    subprocess.run([sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path)],
                   cwd=ROOT, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    needed = [path for folder in ("csrc", "fastlayers", "kernels", "benchmarks", "docs", "examples", "tests", "tools")
              for path in (ROOT / folder).rglob("*") if path.is_file() and not re.search(r"\.(so|pyc|egg-info|pytest_cache)\b", str(path))]
    assert names >= {*(str(path.relative_to(ROOT)) for path in needed), "LICENSE", "Makefile", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
