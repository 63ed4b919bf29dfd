"""A step among torch's tools: hooks, the profiler, what is printed, schedulers, closures, torch.compile."""
from __future__ import annotations

import functools
import sys
import threading
import time
import warnings

import pytest
import torch
from optimizer_cases import NAMES, assert_equal, make_params, make_steps, pair, set_grads, twin
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import fastlayers as fl


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(torch.optim, name)])
def test_hooks_run_once_and_may_come_and_go(name: str) -> None:
    """Global ones too, and with what torch gives them: the optimizer, and step's arguments as they were given."""
    _, ours, _, theirs = pair(name)
    for given in (((), {}), ((lambda: None,), {}), ((), {"closure": lambda: None}), ((None,), {})):
        calls = {theirs: [], ours: []}

        def hook(optimizer, arguments, keywords, calls=calls, when="everywhere"):
            calls[optimizer].append((when, arguments[0] is optimizer, arguments[1:], keywords))

        for optimizer in calls:
            handles = [optimizer.register_step_pre_hook(functools.partial(hook, when="before")),
                       optimizer.register_step_post_hook(functools.partial(hook, when="after"))]
            optimizer.step(*given[0], **given[1])
            for handle in handles:
                handle.remove()
            optimizer.step(*given[0], **given[1])
            everywhere = register_optimizer_step_post_hook(hook)
            optimizer.step(*given[0], **given[1])
            everywhere.remove()
        assert calls[ours] == calls[theirs]
        assert [call[0] for call in calls[ours]] == ["before", "after", "everywhere"]


def test_hooks_of_a_subclass_with_its_own_step_run_once() -> None:
    class Mine(fl.optim.Adam):
        def step(self, closure=None):
            return super().step(closure)

    optimizer, calls = Mine(make_params()), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    make_steps(2, optimizer)
    assert calls == [1, 1]


@pytest.mark.parametrize("call", [lambda step: step, lambda step: lambda: step()], ids=["step", "function"])
def test_a_compiled_step_calls_hooks(call) -> None:
    """As torch's does: what clips in a hook would else be lost without a word. Hooks may come after compiling."""
    class Mine(fl.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    calls = {}
    for kind in (torch.optim.SGD, fl.optim.SGD, Mine):
        torch._dynamo.reset()
        p = torch.ones(3, requires_grad=True)
        optimizer, calls[kind] = kind([p], lr=0.5), []
        step = torch.compile(call(optimizer.step), backend="aot_eager")
        for before in (False, True):
            p.grad = torch.full((3,), 8.0)
            if before:
                optimizer.register_step_pre_hook(lambda *_, p=p: (p.grad.mul_(0.125), None)[1])
                optimizer.register_step_post_hook(lambda *_, p=p, kind=kind: calls[kind].append(p.tolist()))
            step()
    assert calls[fl.optim.SGD] == calls[Mine] == calls[torch.optim.SGD] == [[-3.5] * 3]


def test_the_profiler_sees_the_step() -> None:
    _, optimizer, _, _ = pair("Adam")
    set_grads(make_params())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        make_steps(1, optimizer)
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_torchs_and_the_options(name: str) -> None:
    p = torch.ones(3, requires_grad=True)
    text = repr(getattr(fl.optim, name)([p]))
    assert text == repr(twin(name)([p])).removeprefix("Paper")
    with_options = repr(getattr(fl.optim, name)([p], max_grad_norm=1.0, ema_decay=0.9, master_weights=False))
    assert with_options == text.removesuffix(")") + "\nOptions\n    max_grad_norm: 1.0\n    ema_decay: 0.9\n)"


@pytest.mark.parametrize("name", NAMES)
def test_schedulers(name: str) -> None:
    ours, optimizer, theirs, theirs_optimizer = pair(name, lr=0.1)
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=9, cycle_momentum=False) for o in (optimizer, theirs_optimizer)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            make_steps(1, optimizer, theirs_optimizer)
            for scheduler in schedulers:
                scheduler.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("compiled", [False, True])
def test_closure_is_called_with_gradients_enabled(compiled: bool) -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = fl.optim.SGD([p], lr=0.25)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        step = torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step
        assert step(closure).item() == 3
    assert p.tolist() == [0.5] * 3
    assert optimizer.step() is None


@pytest.mark.parametrize("kwargs", [{"foreach": True}, {"fused": True}, {"foreach": False, "capturable": True}], ids=str)
def test_ways_to_step_are_accepted(kwargs: dict) -> None:
    ours, theirs = make_params(), make_params()
    make_steps(3, fl.optim.AdamW(ours, **kwargs), torch.optim.AdamW(theirs, foreach=False))
    assert_equal(ours, theirs)


@pytest.mark.parametrize(("name", "kwargs", "whole"), [
    ("Adam", {"lr": torch.tensor(0.1)}, True), ("AdamW", {"amsgrad": True}, True), ("SGD", {"lr": 0.1}, True),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, True), ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, False),
], ids=str)
def test_compiled_steps(name: str, kwargs: dict, whole: bool) -> None:
    """One graph, but for a momentum buffer whose first value differs from all later ones."""
    torch._dynamo.reset()
    ours, optimizer, theirs, theirs_optimizer = pair(
        name, ([torch.ones(3, 4, requires_grad=True)], [torch.ones(3, 4, requires_grad=True)]), ours={"max_grad_norm": 0.7}, **kwargs)
    step = torch.compile(lambda: optimizer.step(), fullgraph=whole, backend="aot_eager")
    for _ in range(4):
        set_grads(ours, theirs)
        step()
        torch.nn.utils.clip_grad_norm_(theirs, 0.7)
        theirs_optimizer.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_compiles_no_more_than_twice(name: str) -> None:
    """Of any number. torch.optim's keep one symbolic that has changed; compiled for each, a step would soon be left uncompiled."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    momentum = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    ours, optimizer, theirs, theirs_optimizer = pair(name, lr=0.1, weight_decay=0.1, **momentum)
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend=counter)
    for _ in range(12):
        set_grads(ours, theirs)
        step()
        theirs_optimizer.step()
        for group in (*optimizer.param_groups, *theirs_optimizer.param_groups):
            group.update({key: value * 0.9 for key, value in group.items() if isinstance(value, float)})
            if "betas" in group:
                group["betas"] = tuple(beta * 0.9 for beta in group["betas"])
    assert_equal(ours, theirs)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_a_compiled_step_whose_momentum_is_0_for_a_while(name: str) -> None:
    """The buffer is left alone meanwhile."""
    torch._dynamo.reset()
    ours, optimizer, theirs, theirs_optimizer = pair(name, lr=0.1, momentum=0.9)
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="aot_eager")
    for momentum in (0.9, 0.8, 0.7, 0.0, 0.6, 0.0, 0.5):
        for group in (*optimizer.param_groups, *theirs_optimizer.param_groups):
            group["momentum"] = momentum
        set_grads(ours, theirs)
        step()
        theirs_optimizer.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_meta_parameters_get_states(name: str) -> None:
    """As in torch: what a step keeps can be counted before there is memory for it."""
    p = torch.nn.Parameter(torch.empty(3, 4, device="meta"))
    optimizer = getattr(fl.optim, name)([p], lr=0.1, max_grad_norm=1.0, **({"momentum": 0.9} if name == "SGD" else {}))
    for _ in range(2):
        p.grad = torch.empty_like(p)
        optimizer.step()
    held = [value for value in optimizer.state[p].values() if value.is_meta and value.shape == p.shape]
    assert bool(held) == bool(optimizer.row.states)


def test_a_gradient_may_be_dropped_while_a_step_runs(cpu_backend: str) -> None:
    """By another thread, which runs while kernels do: they go on with the memory that they were given."""
    p = torch.nn.Parameter(torch.zeros(30_000_000))  # of which malloc gives the memory back at once
    optimizer = fl.optim.SGD([p], lr=1.0)
    p.grad = torch.zeros_like(p)
    optimizer.step()  # the first one looks for gradients for longer
    begins, dropped = threading.Event(), threading.Event()

    def drop() -> None:
        for _ in range(6):
            begins.wait()
            begins.clear()
            time.sleep(5e-3)  # so long that kernels run, which take three times that
            p.grad = None
            dropped.set()

    threading.Thread(target=drop, daemon=True).start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100.0)  # the thread's turn comes when kernels run, not while gradients are looked for: torch may crash then
    try:
        for _ in range(6):
            p.grad = torch.ones_like(p)
            begins.set()
            optimizer.step()
            assert dropped.wait(60)
            dropped.clear()
    finally:
        sys.setswitchinterval(interval)
    assert p.detach().unique().tolist() == [-6.0]
