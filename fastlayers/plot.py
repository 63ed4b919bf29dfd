"""``python -m fastlayers plot``: a sheet of any activations, the function and its derivative in one panel each."""
from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .activation_argument import Resolved, drawing, parse
from .reference import activations
from .specs import ACTIVATIONS, Activation
from .usage import UsageError, need

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = "Panels"
"""The key in the PNG's metadata under which the panels' titles stand, one a line."""

_REACH = 5.0
_POINTS = 1001
_HEIGHTS = (-3.0, 5.0)
_SHIFT = 0.5
"""How far from their start learnable parameters are drawn too."""
_JUMP = 0.1
_LEAST_WIDTH = 4
_FUNCTION, _DERIVATIVE = "#e4572e", "#2e6fe4"
_LEGEND = (
    ("-", _FUNCTION, 1.0, "f(x)"), ("--", _DERIVATIVE, 1.0, "f'(x)"),
    ("-", _FUNCTION, 0.45, f"f(x) with one learnable parameter {_SHIFT:g} lower or higher"),
)


@dataclass(frozen=True)
class Panel:
    """An activation with all of its arguments."""

    title: str
    row: Activation
    arguments: tuple[float, ...]

    def shifted(self) -> list[Panel]:
        """The same with each learnable parameter somewhat lower and higher than its start."""
        own = range(len(self.row.start()))
        return [Panel(self.title, self.row, tuple(value + by * (k == i) for i, value in enumerate(self.arguments)))
                for k in own for by in (-_SHIFT, _SHIFT)]

    def kinks(self) -> list[tuple[float, float | None]]:
        """Where the derivative jumps, and to what; known for the default constants."""
        defaults = tuple(float(constant.default) for constant in self.row.constants)
        return list(self.row.kinks) if self.arguments == (*self.row.start(), *defaults) else []

    def values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(f, df/dx) at x."""
        arguments = [torch.tensor(value, dtype=x.dtype) if k < len(self.row.start()) else value for k, value in enumerate(self.arguments)]
        y = activations.function(self.row.name)(x, *arguments)
        return y, activations.function(self.row.name, "derivative")(x, *arguments)[0] + torch.zeros_like(x)


def panel(text: str) -> Panel:
    """The panel of a name, or of a name with constants such as "leaky_relu(0.2)"; a random activation is drawn as in evaluation."""
    row, given = parse("plot", text)
    constants = tuple(float(given.get(constant.name, constant.default)) for constant in row.constants)
    resolved = drawing(Resolved(row, constants, None), training=False)
    return Panel(text.strip(), resolved.row, (*row.start(), *resolved.constants))


def draw(names: Sequence[str], path: str | Path) -> None:
    """Write a sheet of these activations as PNG: names of specs.py or of registered formulas, constants in parentheses if need be.

    Raises:
        ValueError: ``plot: activation must be one of identity, ..., got 'sillu'``.
    """
    panels = [panel(name) for name in names]
    need("matplotlib", "plot").use("Agg")
    from matplotlib import pyplot

    width = max(1, min(len(panels), max(_LEAST_WIDTH, math.ceil(math.sqrt(len(panels) * 0.9)))))
    height = math.ceil(len(panels) / width)
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11, "font.size": 8, "legend.frameon": False}
    with pyplot.rc_context(style):
        size = max(2.5 * width, 5), 2.3 * height + 0.4
        figure, grid = pyplot.subplots(height, width, figsize=size, squeeze=False, layout="constrained")
        for axes, one in zip(grid.flat, panels, strict=False):
            _panel(axes, one)
        for axes in grid.flat[len(panels):]:
            axes.set_visible(False)
        lines = [grid.flat[0].plot([], [], style, color=colour, alpha=alpha, label=label)[0] for style, colour, alpha, label in _LEGEND]
        learnable = any(one.row.learnables for one in panels)
        figure.legend(handles=lines if learnable else lines[:2], loc="outside upper center", ncols=3, fontsize=10)
        figure.savefig(path, format="png", dpi=100, metadata={PANELS: "\n".join(one.title for one in panels)})
        pyplot.close(figure)


def _panel(axes: Axes, one: Panel) -> None:
    """Function and derivative; faintly the function with its learnable parameters moved; a dot where the derivative jumps."""
    x = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
    y, slope = map(_broken, one.values(x))
    for other in one.shifted():
        axes.plot(x, _broken(other.values(x)[0]), color=_FUNCTION, linewidth=0.8, alpha=0.45)
    axes.plot(x, y, color=_FUNCTION, linewidth=1.8)
    axes.plot(x, slope, "--", color=_DERIVATIVE, linewidth=1.4)
    dots = [(kink, at) for kink, at in one.kinks() if at is not None]
    axes.plot([kink for kink, _ in dots], [at for _, at in dots], "o", color=_DERIVATIVE, markersize=3.5)
    shown = torch.cat([y, slope]).nan_to_num(0.0).clamp(*_HEIGHTS)
    low, high = min(shown.min().item(), -0.2), max(shown.max().item(), 1.2)
    margin = 0.06 * (high - low)
    axes.set_title(one.title, fontsize=11 if len(one.title) < 20 else 8)
    axes.set(xlim=(-_REACH, _REACH), ylim=(low - margin, high + margin))
    axes.axhline(0, color="black", linewidth=0.5)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.grid(alpha=0.2)


def _broken(values: torch.Tensor) -> torch.Tensor:
    """The values, bounded, with NaN after each jump, so that no line is drawn across it."""
    values = values.clamp(-1e3, 1e3)
    values[1:][values.diff().abs() > _JUMP * (1 + values[1:].abs())] = math.nan
    return values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of plot."""
    parser.add_argument("names", metavar="NAME", nargs="+", type=_name,
                        help=f"one of {', '.join(ACTIVATIONS)}; with constants like \"leaky_relu(0.2)\"; or all")
    parser.add_argument("--output", metavar="FILE", default="activations.png", help="the PNG to write; default: %(default)s")


def _name(text: str) -> str:
    if text != "all":
        try:
            panel(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("plot: ").removeprefix("activation ")) from None
    return text


def run(args: argparse.Namespace) -> int:
    """Draw the sheet."""
    names = [row for name in args.names for row in (ACTIVATIONS if name == "all" else [name])]
    need("matplotlib", "plot")
    try:
        draw([ACTIVATIONS[name].text if name in ACTIVATIONS else name for name in names], args.output)
    except OSError as error:
        raise UsageError(f"--output must be a file that can be written, got {args.output!r}: {error.strerror}") from None
    print(f"wrote {args.output}")
    return 0
