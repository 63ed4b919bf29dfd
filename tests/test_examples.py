"""The scripts of examples/ run, and do what they say."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PRINTED = {
    "residual_network.py": r"loss 2\.\d+\n.*loss [01]\.\d+\n.*averaged weights \d+\.\d %\n$",
    "convert_a_model.py": r"Absorbed\(dropout\)\n.*accuracy: ([89]\d|100)\.\d %\n.*score: \d\.\de-0[5-9]\n.*left: 0\n$",
    "own_activation.py": r"slopes: tensor\(.*'triton'.*differences: True\n$",
}
STEPS = {"residual_network.py": "100", "convert_a_model.py": "100"}


def test_every_example_is_here() -> None:
    assert sorted(PRINTED) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", PRINTED)
def test_examples_run(name: str) -> None:
    command = [sys.executable, EXAMPLES / name, *([STEPS[name]] if name in STEPS else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTED[name], done.stdout, re.DOTALL), done.stdout
