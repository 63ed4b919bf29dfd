"""Training one network in both libraries, step by step in turn: same weights, same batches, same moments of the machine."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .. import optim as fused_optim
from ..contenders import LIBRARIES, copy_weights
from ..measure import clock, saved_bytes
from ..specs import UPDATE_RULES
from .data import Digits
from .nets import DROPOUT, build

_CLASSES = {row.name: row.optimizer for row in UPDATE_RULES.values()}
OPTIMIZERS = tuple(name for name, optimizer in _CLASSES.items() if hasattr(torch.optim, optimizer))
_EVALUATION_BATCH = 1000
COMPARED_STEPS = 100
"""The comparison without dropout ends with the first epoch, or here when the epoch is longer."""
GENTLER = 50
"""By how much the learning rate is divided for curves that float32's roundings do not part."""


@dataclass(frozen=True)
class Settings:
    """What the user can vary; None takes the network's own default."""

    batch_size: int = 64
    activation: str = "relu"
    dropout: float | None = None
    optimizer: str = "adam"
    lr: float = 1e-3
    seed: int = 0
    device: str = "cpu"

    def probability(self, net: str) -> float:
        """The dropout probability for this network."""
        return DROPOUT[net] if self.dropout is None else self.dropout


@dataclass
class Run:
    """One network in one library while it trains, and what was measured."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    saved_bytes: int = 0

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One forward, backward and update, timed."""
        loss = torch.zeros(())

        def work() -> None:
            nonlocal loss
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()

        self.milliseconds.append(clock(images.device, flush=False)(work, 1))
        self.losses.append(loss.item())


OnStep = Callable[[Mapping[str, Run]], None]


def train(net: str, settings: Settings, epochs: int, digits: Digits, on_step: OnStep) -> dict[str, Run]:
    """Train ``net`` with PyTorch and with fastlayers; the learning rate falls to zero along a cosine, for both alike."""
    runs = _pair(net, settings, settings.probability(net), torch.float32)
    steps = steps_per_epoch(settings, digits)
    for run in runs.values():
        run.saved_bytes = _saved_bytes(run.model, digits, settings)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, epochs * steps) for run in runs.values()]
    torch.manual_seed(settings.seed)
    batches = torch.Generator().manual_seed(settings.seed)
    for _ in range(epochs):
        for images, labels in _batches(digits, settings, batches, torch.float32):
            _step_in_turn(runs, images, labels)
            for schedule in schedules:
                schedule.step()
            on_step(runs)
        for run in runs.values():
            run.accuracies.append(_accuracy(run.model, digits, settings))
    return runs


def comparisons(settings: Settings) -> dict[str, tuple[Settings, torch.dtype]]:
    """How the loss curves without dropout are compared, by the name that the table has for it."""
    return {
        "float64": (settings, torch.float64),
        "float32": (settings, torch.float32),
        f"float32, lr / {GENTLER}": (replace(settings, lr=settings.lr / GENTLER), torch.float32),
    }


def compare_without_dropout(net: str, settings: Settings, digits: Digits, dtype: torch.dtype, on_step: OnStep) -> dict[str, float]:
    """The largest relative difference from PyTorch's loss over the first epoch, with dropout off and a constant learning rate.

    In float32 PyTorch itself runs along from weights that differ by one rounding: training amplifies the last bit (a relu flips,
    Adam divides a small gradient by its own size), so this, not zero, is what the difference compares with.
    """
    runs = _pair(net, settings, 0.0, dtype)
    if dtype == torch.float32:
        runs["torch, one rounding apart"] = _nudged(runs["torch"], settings)
    for count, (images, labels) in enumerate(_batches(digits, settings, torch.Generator().manual_seed(settings.seed), dtype)):
        if count == COMPARED_STEPS:
            break
        _step_in_turn(runs, images, labels)
        on_step(runs)
    expected = runs.pop("torch").losses
    return {name: max(abs(a - b) / abs(b) for a, b in zip(run.losses, expected, strict=True)) for name, run in runs.items()}


def steps_per_epoch(settings: Settings, digits: Digits) -> int:
    """Whole batches in the training images."""
    return len(digits.train_labels) // settings.batch_size


def _pair(net: str, settings: Settings, dropout: float, dtype: torch.dtype) -> dict[str, Run]:
    """The network in both libraries, with the same weights."""
    torch.manual_seed(settings.seed)
    models = {library: build(net, library, settings.activation, dropout).to(settings.device, dtype) for library in LIBRARIES}
    copy_weights(models["torch"], models["fastlayers"])
    libraries = {"torch": torch.optim, "fastlayers": fused_optim}
    return {library: Run(model, _optimizer(libraries[library], model, settings)) for library, model in models.items()}


def _optimizer(library: object, model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    keyword = {"momentum": 0.9} if settings.optimizer == "sgd" else {}
    return getattr(library, _CLASSES[settings.optimizer])(model.parameters(), lr=settings.lr, **keyword)


def _nudged(run: Run, settings: Settings) -> Run:
    """A copy whose weights are off by up to one unit in the last place."""
    model = copy.deepcopy(run.model)
    generator = torch.Generator(settings.device).manual_seed(settings.seed)
    with torch.no_grad():
        for value in model.parameters():
            direction = torch.randint(-1, 2, value.shape, generator=generator, device=value.device)
            value.copy_(torch.nextafter(value, value + direction))
    return Run(model, _optimizer(torch.optim, model, settings))


def _batches(digits: Digits, settings: Settings, generator: torch.Generator, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of whole batches in random order."""
    order = torch.randperm(len(digits.train_labels), generator=generator)
    for chosen in order.split(settings.batch_size)[:steps_per_epoch(settings, digits)]:
        yield digits.train_images[chosen].to(settings.device, dtype), digits.train_labels[chosen].to(settings.device)


def _step_in_turn(runs: Mapping[str, Run], images: Tensor, labels: Tensor) -> None:
    """One step of each, the first one last at every other step: neither always finds the caches warm."""
    order = list(runs.values())
    backwards = len(order[0].losses) % 2 == 1
    for run in reversed(order) if backwards else order:
        run.step(images, labels)


@torch.no_grad()
def _accuracy(model: nn.Module, digits: Digits, settings: Settings) -> float:
    """The share of test images that are recognised."""
    model.eval()
    right = 0
    for images, labels in zip(digits.test_images.split(_EVALUATION_BATCH), digits.test_labels.split(_EVALUATION_BATCH), strict=True):
        right += int((model(images.to(settings.device)).argmax(1).cpu() == labels).sum())
    model.train()
    return right / len(digits.test_labels)


def _saved_bytes(model: nn.Module, digits: Digits, settings: Settings) -> int:
    """What one training batch leaves for backward; on a copy, since a forward pass moves the running statistics."""
    model = copy.deepcopy(model)
    chosen = torch.arange(settings.batch_size)  # an index copies; a slice would keep, and count, all images
    images, labels = digits.train_images[chosen].to(settings.device), digits.train_labels[chosen].to(settings.device)
    return saved_bytes(lambda: nn.functional.cross_entropy(model(images), labels), model)
