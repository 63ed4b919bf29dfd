"""The bar chart of ``python -m fastlayers bench --plot FILE``: how many times faster than eager PyTorch."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastlayers.usage import need

_COLOURS = {"compile": "#8a8f98", "ours": "#e4572e"}
_LABELS = {"compile": "torch.compile", "ours": "fastlayers"}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the chart of ``results`` (the document of --save) to ``path``."""
    need("matplotlib", "bench").use("Agg")
    from matplotlib import pyplot

    cases = results["cases"]
    names = list(cases)[::-1]
    shown = [name for name in _COLOURS if any(name in case["ms"] for case in cases.values())]
    thickness = 0.8 / len(shown)
    style = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 9}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.34 * len(names)), layout="constrained")
        for index, contender in enumerate(shown):
            places = [row - 0.4 + thickness * (index + 0.5) for row in range(len(names))]
            speeds = [cases[name]["ms"]["eager"] / cases[name]["ms"].get(contender, float("nan")) for name in names]
            bars = axes.barh(places, speeds, thickness, color=_COLOURS[contender], label=_LABELS[contender])
            axes.bar_label(bars, labels=["" if speed != speed else f"{speed:.2f}" for speed in speeds], padding=2, fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="times as fast as eager PyTorch", xscale="log", ylim=(-0.6, len(names) - 0.4))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.1)
        axes.set_title(f"fastlayers {results['fastlayers']}, torch {results['torch']}, {results['device']}, {results['threads']} threads")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(path, format="png", dpi=110)
        pyplot.close(figure)
