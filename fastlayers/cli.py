"""``python -m fastlayers {demo,check,bench,plot,info}``."""
from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

from . import __version__, check, plot
from .backends import backends
from .benchmarks import run as bench
from .demo import command as demo
from .measure import restart_with_malloc_settings
from .usage import UsageError


class _Parser(argparse.ArgumentParser):
    """Tells a wrong option in one line, as ``command: --option must RULE, got VALUE``."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(re.sub(r"^argument (\S+): ", r"\1 ", message))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 a check failed, 2 a request that makes no sense.

    Args:
        arguments: the words after ``python -m fastlayers``; None takes them from the command line, and then a command that
            measures first starts the program again with the allocator settings of measure.py.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args = _parser().parse_args(words)
        if arguments is None and args.measures:
            restart_with_malloc_settings()
        return args.run(args)
    except UsageError as error:
        command = next((word for word in words if not word.startswith("-")), "")
        print(f"fastlayers {command}".rstrip() + f": {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m fastlayers", description="Fused layers for PyTorch: see them train, check them, time them.")
    parser.add_argument("--version", action="version", version=f"fastlayers {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, add_arguments, run, measures, summary in (
        ("demo", demo.add_arguments, demo.run, True, "train two networks on real digits, with PyTorch and with fastlayers"),
        ("check", check.add_arguments, check.run, False, "hold every operation on this machine against the float64 reference"),
        ("bench", bench.add_arguments, bench.run, True, "time every layer beside eager PyTorch and torch.compile"),
        ("plot", plot.add_arguments, plot.run, False, "draw activations and their derivatives as a PNG sheet"),
        ("info", lambda parser: None, _info, False, "say what is installed and which backends are available"),
    ):
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        add_arguments(command)
        command.set_defaults(run=run, measures=measures)
    return parser


def _info(args: argparse.Namespace) -> int:
    """Print versions, the processor's vector instructions and each backend, available or why not."""
    rows = {
        "fastlayers": __version__,
        "torch": torch.__version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "CPU": f"{torch.backends.cpu.get_cpu_capability()} (as torch sees it), {torch.get_num_threads()} threads",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use",
    }
    rows.update({f"backend {name}": status for name, status in backends().items()})
    for name, value in rows.items():
        print(f"{name:<18} {value}")
    return 0
