"""What the optimizer tests share: every rule with every option at a value that is not its default, and where it runs."""
from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from conftest import BACKENDS
from tolerances import STEP_TOLERANCES
from torch import Tensor

import fastlayers as fl
from fastlayers.reference import optimizers as reference
from fastlayers.specs import UPDATE_RULES

NAMES = tuple(row.optimizer for row in UPDATE_RULES.values())
SHAPES = ((3, 4), (5,), (), (0, 2), (7, 3, 3, 3), (130,))


@dataclass(frozen=True)
class Step:
    """One rule with its numbers and flags as kernels take them."""

    rule: str
    hyperparameters: tuple[float, ...]
    flags: tuple[bool, ...]

    @property
    def state_names(self) -> tuple[str, ...]:
        return UPDATE_RULES[self.rule].present_states(self.hyperparameters, self.flags)

    def __str__(self) -> str:
        return "-".join([self.rule, *map(str, self.hyperparameters), *(str(flag)[0] for flag in self.flags)])


STEPS = (
    Step("sgd", (0.1, 0.0, 0.0, 0.0), (False, False, False)),
    Step("sgd", (0.1, 0.2, 0.9, 0.0), (False, False, False)),
    Step("sgd", (0.1, 0.0, 0.9, 0.3), (True, False, False)),
    Step("sgd", (0.1, 0.0, 0.9, 0.3), (False, False, True)),
    Step("sgd", (0.1, 0.2, 0.9, 0.0), (False, True, False)),
    Step("adam", (0.01, 0.0, 0.9, 0.999, 1e-8), (False, False)),
    Step("adam", (0.01, 0.0, 0.0, 0.5, 1e-3), (False, False)),
    Step("adam", (0.01, 0.2, 0.8, 0.99, 1e-6), (True, True)),
    Step("adamw", (0.01, 0.01, 0.9, 0.999, 1e-8), (False, False)),
    Step("adamw", (0.01, 0.2, 0.8, 0.99, 1e-6), (True, True)),
    Step("adagrad", (0.01, 0.0, 0.0, 1e-10), (False,)),
    Step("adagrad", (0.1, 0.2, 0.5, 1e-3), (True,)),
    Step("rmsprop", (0.01, 0.0, 0.99, 1e-8, 0.0), (False, False)),
    Step("rmsprop", (0.01, 0.2, 0.8, 1e-3, 0.0), (False, True)),
    Step("rmsprop", (0.01, 0.0, 0.9, 1e-6, 0.5), (True, False)),
    Step("rmsprop", (0.01, 0.1, 0.9, 1e-6, 0.5), (False, True)),
    Step("nadam", (0.01, 0.0, 0.9, 0.999, 1e-8, 4e-3), (False, False)),
    Step("nadam", (0.01, 0.2, 0.8, 0.99, 1e-6, 0.1), (True, False)),
    Step("nadam", (0.01, 0.2, 0.8, 0.99, 1e-6, 0.1), (False, True)),
    Step("radam", (0.01, 0.0, 0.9, 0.999, 1e-8), (False, False)),
    Step("radam", (0.01, 0.2, 0.8, 0.99, 1e-6), (True, False)),
    Step("radam", (0.01, 0.2, 0.8, 0.99, 1e-6), (False, True)),
    Step("adamax", (0.01, 0.0, 0.9, 0.999, 1e-8), (False,)),
    Step("adamax", (0.01, 0.2, 0.8, 0.5, 1e-3), (True,)),
    Step("lion", (0.01, 0.0, 0.875, 0.99), (False,)),  # whose products are exact: a sign is not a matter of rounding
    Step("lion", (0.01, 0.2, 0.75, 0.5), (True,)),
)
RICHEST = {step.rule: step for step in STEPS}
"""The last of each rule: weight decay, every state."""


@dataclass
class Lists:
    """The lists among the arguments of optimizer_step, in their order."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[Tensor] = field(default_factory=list)
    scalars: list[Tensor] = field(default_factory=list)
    masters: list[Tensor] = field(default_factory=list)
    averages: list[Tensor] = field(default_factory=list)

    def all(self) -> tuple[list[Tensor], ...]:
        return self.params, self.grads, self.states, self.scalars, self.masters, self.averages

    def written(self) -> list[Tensor]:
        return [*self.params, *self.states, *self.scalars, *self.masters, *self.averages]

    def every(self) -> list[Tensor]:
        return [*self.written(), *self.grads]

    def map(self, function) -> Lists:
        return Lists(*([function(x) for x in tensors] for tensors in self.all()))


def lists(
    step: Step, sizes: Sequence[int], dtype: torch.dtype, state_dtype: torch.dtype | None = None, device: object = "cpu",
    masters: bool = False, averages: bool = False,
) -> Lists:
    """Random tensors; second moments are at least 0.1, so that no update is many times larger than its gradient."""
    wide = torch.promote_types(dtype, torch.float32)
    exact = [torch.randn(size, device=device).to(wide) for size in sizes]
    params = [x.to(dtype) for x in exact]
    grads = [torch.randn(size, device=device).to(dtype) for size in sizes]
    names, row = step.state_names, UPDATE_RULES[step.rule]
    states = [(torch.rand(size, device=device) * 0.3 if name == "grad_avg" else torch.rand(size, device=device) + 0.1)
              .to(state_dtype or dtype) for name in names for size in sizes]
    scalars = [torch.tensor(float(3 * i) if name == "step" else 0.3 / (1 + i), device=device)
               for name in row.scalars for i in range(len(sizes))]
    return Lists(params, grads, states, scalars, exact if masters else [],
                 [torch.randn(size, device=device).to(wide) for size in sizes] if averages else [])


def run(
    kernels, step: Step, given: Lists, *, tensors: Sequence[Tensor | None] = (), grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None, norm: Tensor | None = None, seed: Tensor | None = None, max_grad_norm: float = 0.0,
    ema_decay: float = 0.0,
) -> None:
    """optimizer_step of a backend."""
    kernels.optimizer_step(
        step.rule, *given.all(), list(step.hyperparameters), list(step.flags), list(tensors), grad_scale, found_inf, norm, seed,
        max_grad_norm, ema_decay)


def oracle(step: Step, before: Lists, **options: object) -> Lists:
    """The same step in float64. A half-precision parameter that has a master stands for it where they differ."""
    after = before.map(lambda x: x.cpu().double())
    masters, after.masters = after.masters, []
    if masters:
        after.params = [torch.where(master.to(p.dtype).cpu().double() == p.cpu(), master, p.cpu().double())
                        for master, p in zip(masters, before.params, strict=True)]
    options = {name: option.cpu() if isinstance(option, Tensor) else option for name, option in options.items()}
    run(reference, step, after, **options)
    after.masters = after.params if masters else []
    return after


class PaperLion(torch.optim.Optimizer):
    """The pseudocode of arXiv:2302.06675, algorithm 2, which torch.optim does not have."""

    def __init__(
        self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0, *, foreach=None, maximize=False, capturable=False, differentiable=False,
        fused=None,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "weight_decay": weight_decay, "foreach": foreach, "maximize": maximize, "capturable": capturable,
            "differentiable": differentiable, "fused": fused})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = -p.grad if group["maximize"] else p.grad
                momentum = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = beta1 * momentum + (1 - beta1) * grad
                p.sub_(float(group["lr"]) * (torch.sign(update) + group["weight_decay"] * p))
                momentum.copy_(beta2 * momentum + (1 - beta2) * grad)


PAPERS = {"Lion": PaperLion}
"""What stands for a class that torch.optim lacks, called the same with Paper before it."""


def twin(name: str) -> type[torch.optim.Optimizer]:
    """The class of torch.optim, or what stands for it."""
    return PAPERS.get(name) or getattr(torch.optim, name)


def on_backends(every: Sequence, few: Sequence) -> list:
    """(backend, *case) for each case; in the emulator, which is slow, only the few: the kernels have tests of their own."""
    return [(backend, *(case if isinstance(case, tuple) else (case,))) for backend in BACKENDS
            for case in (few if backend in ("triton", "cuda") else every)]


EVERY_RULE = on_backends(NAMES, ("AdamW", "NAdam"))


def make_params(dtype: torch.dtype = torch.float32, device: object = "cpu", shapes=SHAPES) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(shape, dtype=torch.float64).to(dtype).to(device).requires_grad_() for shape in shapes]


def layouts() -> dict[str, Callable[[], Tensor]]:
    return {
        "channels_last": lambda: torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last),
        "channels_last_1x1": lambda: torch.randn(4, 6, 1, 1).to(memory_format=torch.channels_last),
        "transposed": lambda: torch.randn(6, 5).t(),
        "permuted": lambda: torch.randn(3, 4, 5).permute(2, 0, 1),
        "gaps": lambda: torch.randn(6, 8)[:, :5],
        "every second": lambda: torch.randn(20)[::2],
        "offset": lambda: torch.randn(100)[3:],
    }


def set_grads(*lists: list[Tensor]) -> None:
    """New gradients, the same for each list of parameters."""
    for params in zip(*lists, strict=True):
        value = torch.randn(params[0].shape, dtype=torch.float64)
        for p in params:
            p.grad = torch.empty_like(p).copy_(value)


def make_steps(count: int, *optimizers: torch.optim.Optimizer) -> None:
    """Steps of several optimizers with the same new gradients."""
    for _ in range(count):
        set_grads(*([p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers))
        for optimizer in optimizers:
            optimizer.step()


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for p, q in zip(ours, theirs, strict=True):
        tolerance = STEP_TOLERANCES[p.dtype]
        torch.testing.assert_close(p.detach().cpu(), q.detach().cpu(), rtol=tolerance, atol=tolerance)


def pair(name: str, params: tuple[list[Tensor], list[Tensor]] | None = None, device: object = "cpu", **kwargs: object):
    """(our parameters, our optimizer, torch's parameters, torch's optimizer)."""
    ours, theirs = params or (make_params(device=device), make_params(device=device))
    extra = kwargs.pop("ours", {})
    return ours, getattr(fl.optim, name)(ours, **kwargs, **extra), theirs, twin(name)(theirs, **kwargs, foreach=False)


EAGER = {"lr": 0.05}


def optimizer_of(name: str, params: list[Tensor], **options: object) -> torch.optim.Optimizer:
    return getattr(fl.optim, name)(params, **EAGER, **({"momentum": 0.9} if name == "SGD" else {}), **options)


def exact_twin(name: str, params: list[Tensor]) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """The same in float64, by torch."""
    exact = [p.detach().cpu().double().requires_grad_() for p in params]
    return exact, twin(name)(exact, **EAGER, **({"momentum": 0.9} if name == "SGD" else {}), foreach=False)


def set_same_grads(params: list[Tensor], exact: list[Tensor], scale: float = 1.0) -> None:
    set_grads(params)
    for p, q in zip(params, exact, strict=True):
        p.grad = p.grad * scale
        q.grad = p.grad.cpu().double()


def resumed(optimizer: torch.optim.Optimizer, name: str, params: list[Tensor], **options: object) -> torch.optim.Optimizer:
    """A new optimizer that goes on from a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = optimizer_of(name, params, **options)
    other.load_state_dict(torch.load(file))
    return other
