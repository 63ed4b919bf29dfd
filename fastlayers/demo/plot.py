"""demo.png: one row per network with the loss curves, the accuracies, and bars for time and memory."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contenders import LIBRARIES
from ..usage import need
from .report import times_less

_NAMES = {"torch": "PyTorch", "fastlayers": "fastlayers"}
_COLOURS = {"torch": "#8a8f98", "fastlayers": "#e4572e"}
_STYLES = {"torch": "-", "fastlayers": "--"}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the picture of ``results`` (the document of demo.json) to ``path``."""
    matplotlib = need("matplotlib", "demo")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    nets = results["nets"]
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11, "font.size": 10, "legend.frameon": False}
    with pyplot.rc_context(style):
        figure, grid = pyplot.subplots(
            len(nets), 4, figsize=(14, 3.4 * len(nets) + 0.7), squeeze=False, width_ratios=(3, 3, 1.6, 1.6), layout="constrained",
        )
        figure.suptitle(
            f"fastlayers {results['fastlayers']} beside PyTorch {results['torch']}   ({results['data']}, {results['activation']}, "
            f"{results['optimizer']}, {results['threads']} threads, {results['device']})", fontsize=12,
        )
        for axes, (net, found) in zip(grid, nets.items(), strict=True):
            _losses(axes[0], net, found)
            _accuracies(axes[1], net, found)
            _bars(axes[2], {library: found[library]["ms_per_step"] for library in LIBRARIES}, "time per step", "ms")
            _bars(axes[3], {library: found[library]["saved_bytes"] / 2**20 for library in LIBRARIES}, "saved for backward", "MiB")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _losses(axes: Any, net: str, found: Mapping[str, Any]) -> None:
    """Every step faintly, the mean of the last tenth of an epoch on top."""
    steps = found["steps_per_epoch"]
    window = max(1, steps // 10)
    for library in LIBRARIES:
        losses = found[library]["losses"]
        smooth = [sum(losses[max(0, i - window + 1):i + 1]) / min(i + 1, window) for i in range(len(losses))]
        epochs = [(i + 1) / steps for i in range(len(losses))]
        axes.plot(epochs, losses, color=_COLOURS[library], alpha=0.18, linewidth=0.8)
        axes.plot(epochs, smooth, _STYLES[library], color=_COLOURS[library], linewidth=1.8, label=_NAMES[library])
    axes.set(title=f"{net}: training loss", xlabel="epoch", yscale="log")
    axes.grid(alpha=0.25)
    axes.legend()


def _accuracies(axes: Any, net: str, found: Mapping[str, Any]) -> None:
    for library in LIBRARIES:
        percent = [100 * value for value in found[library]["accuracies"]]
        axes.plot(range(1, len(percent) + 1), percent, _STYLES[library], marker="o", markersize=4, color=_COLOURS[library], linewidth=1.8,
                  label=f"{_NAMES[library]}  {percent[-1]:.1f} %")
    axes.set(title=f"{net}: test accuracy, %", xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")


def _bars(axes: Any, values: Mapping[str, float], title: str, unit: str) -> None:
    names, colours = [_NAMES[library] for library in values], [_COLOURS[library] for library in values]
    bars = axes.bar(names, list(values.values()), color=colours, width=0.6)
    axes.bar_label(bars, labels=[f"{value:.3g} {unit}" for value in values.values()], padding=2)
    plain, fused = (values[library] for library in LIBRARIES)
    axes.set(title=f"{title}\n{times_less(plain, fused)}", yticks=[])
    axes.margins(y=0.15)
    axes.spines["left"].set_visible(False)
