"""``python -m fastlayers check``: the worst error of every operation, on every backend and dtype that this machine has."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from .backends import NAMES, backend, backends, select
from .check_operations import OPERATIONS
from .tolerance import severity
from .usage import UsageError, console, need, one_of

if TYPE_CHECKING:
    from rich.table import Table

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
NOT_HELD = {("reference", operation): "reference: its formulas are written for float64 and not held to the float32 budgets"
            for operation in ("activation_values", "activation_derivatives")}


@dataclass(frozen=True)
class Finding:
    """The worst case of one operation on one backend, device and dtype."""

    backend: str
    device: str
    operation: str
    dtype: str
    case: str
    share: float
    """Its error as a share of what is allowed; above 1, or NaN where the result is, the check has failed."""
    error: str = ""
    """What was raised instead of a result."""

    @property
    def passed(self) -> bool:
        """Whether there is a result, and near enough."""
        return not self.error and self.share <= 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of check."""
    parser.add_argument("--backend", metavar="NAME", type=one_of(*NAMES), help="check only this one; default: all that are available")
    parser.add_argument("--dtype", metavar="NAME", type=one_of(*DTYPES), help="check only this one; default: all four")


def run(args: argparse.Namespace) -> int:
    """Check, show the table, return 1 if anything failed."""
    screen = console("demo")
    status = backends()
    names = [args.backend] if args.backend else [name for name in NAMES if status[name].startswith("available")]
    if not status[names[0]].startswith("available"):
        raise UsageError(f"--backend must be an available one, got {names[0]!r}: {status[names[0]].removeprefix('not available: ')}")
    dtypes = [args.dtype] if args.dtype else list(DTYPES)
    with screen.status("checking"):
        findings = [finding for name in names for finding in check_backend(name, dtypes)]
    screen.print(table(findings, dtypes))
    for name in NAMES:
        if not status[name].startswith("available"):
            screen.print(f"{name}: {status[name]}", highlight=False, soft_wrap=True)
    for reason in {reason: name for (name, _), reason in NOT_HELD.items() if name in names}:
        screen.print(reason, highlight=False, soft_wrap=True)
    failed = [finding for finding in findings if not finding.passed]
    for one in failed:
        screen.print(f"FAILED {one.backend} {one.operation} {one.dtype} {one.case}: {_explain(one)}", markup=False, soft_wrap=True)
    screen.print(f"{len(findings) - len(failed)} of {len(findings)} checks passed")
    return 1 if failed else 0


def check_backend(name: str, dtypes: list[str]) -> list[Finding]:
    """Every operation on one backend, on each device that it runs on."""
    findings = []
    with backend(name):
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            try:
                kernels = select(torch.empty(0, device=device))
            except RuntimeError:  # this backend does not run there
                continue
            held = [operation for operation in OPERATIONS if (name, operation) not in NOT_HELD]
            findings += [check_operation(name, kernels, device, operation, dtype) for operation in held for dtype in dtypes]
    return findings


def check_operation(name: str, kernels: ModuleType, device: str, operation: str, dtype: str) -> Finding:
    """The worst case of one operation; an exception is a finding too, not the end of the check."""
    case, share = "", 0.0
    try:
        for this_case, this_share in OPERATIONS[operation](kernels, device, DTYPES[dtype]):
            if not case or severity(this_share) > severity(share):
                case, share = this_case, this_share
    except Exception as error:
        return Finding(name, device, operation, dtype, case, float("inf"), f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return Finding(name, device, operation, dtype, case, share)


def table(findings: list[Finding], dtypes: list[str]) -> Table:
    """One row per backend and operation, one column per dtype."""
    grid = need("rich.table", "demo").Table(
        title="worst error as a share of what is allowed (1 = the whole budget of specs.py), and the case it was found in",
    )
    for heading in ("backend", "operation", *dtypes):
        grid.add_column(heading)
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in findings:
        cells.setdefault((one.backend, one.device, one.operation), {})[one.dtype] = _cell(one)
    rows = list(cells.items())
    for index, ((name, device, operation), row) in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1][0][:2] != (name, device)
        grid.add_row(f"{name} ({device})", operation, *(row.get(dtype, "") for dtype in dtypes), end_section=last)
    return grid


def _cell(finding: Finding) -> str:
    text = "exact" if finding.share == 0 else "error" if finding.error else f"{finding.share:.2f} [dim]{finding.case}[/]"
    return text if finding.passed else f"[bold red]{text}[/]"


def _explain(finding: Finding) -> str:
    if finding.share != finding.share:
        return "the result is NaN where the reference is not"
    return finding.error or f"{finding.share:.3g} of what is allowed"
