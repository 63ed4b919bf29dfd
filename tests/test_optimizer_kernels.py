"""optimizer_step and gradient_norm on every backend: against float64, at every size, with every option of the interface."""
from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
import torch
from conftest import BACKENDS, emulated_cuda, running_on
from optimizer_cases import RICHEST, STEPS, Lists, Step, lists, oracle, run
from tolerances import assert_within, rounding, unit
from torch import Tensor

import fastlayers as fl
from fastlayers.backends import select
from fastlayers.reference.dropout import random_numbers
from fastlayers.reference.optimizers import stochastically_rounded
from fastlayers.specs import UPDATE_RULES

SIZES = (0, 1, 5, 64, 127, 129, 4095, 8192, 8193, 17003)  # 8192: what one Triton program takes
GPU_BACKENDS = ("triton", "cuda")  # which run in the emulator where there is no GPU
MIXED = ((torch.float16, None), (torch.float16, torch.float32), (torch.float16, torch.bfloat16), (torch.bfloat16, torch.float32),
         (torch.float32, torch.bfloat16))
CASES = [(step, dtype, None) for step in STEPS for dtype in (torch.float32, torch.bfloat16)] + [
    (step, torch.float64, None) for step in RICHEST.values()] + [
    (RICHEST[rule], dtype, state_dtype) for rule in ("sgd", "adamw", "rmsprop", "adamax") for dtype, state_dtype in MIXED]
ROUNDINGS = 8  # no element of any rule goes through more operations than this that lose half a unit of p, g or a state


@pytest.fixture(params=BACKENDS)
def kernels(request: pytest.FixtureRequest):
    """The functions of a backend; .device is where its tensors are."""
    with running_on(request.param) as device:
        module = select(torch.empty(0, device=device))
        module.device = device
        yield module


def assert_updated(before: Lists, after: Lists, want: Lists) -> None:
    """after is want, but for rounding: a few units of what went into each number, and one rounding to its dtype."""
    for old, new, exact in zip(before.written(), after.written(), want.written(), strict=True):
        magnitude = exact.abs() + old.cpu().double().abs() + 1
        assert_within(new.cpu(), exact, ROUNDINGS * unit(before.params[0]) * magnitude + rounding(exact, new.dtype), str(new.dtype))


@pytest.mark.parametrize(("step", "dtype", "state_dtype"), CASES, ids=str)
def test_one_step_against_float64(kernels, step: Step, dtype: torch.dtype, state_dtype: torch.dtype | None) -> None:
    before = lists(step, SIZES, dtype, state_dtype, kernels.device)
    after = before.map(Tensor.clone)
    run(kernels, step, after)
    assert_updated(before, after, oracle(step, before))
    for old, new in zip(before.grads, after.grads, strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step", [STEPS[2], RICHEST["adam"], RICHEST["nadam"], RICHEST["lion"]], ids=str)
def test_tensor_hyperparameters_scaling_and_clipping(kernels, step: Step, dtype: torch.dtype) -> None:
    before = lists(step, (7, 300), dtype, device=kernels.device)
    tensors = [torch.tensor(0.3), torch.tensor([0.05], dtype=torch.float64)] + [None] * (len(step.hyperparameters) - 2)
    if "beta2" in UPDATE_RULES[step.rule].hyperparameters:
        tensors[2:4] = torch.tensor(0.7), torch.tensor(0.6, dtype=torch.float64)
    options = {
        "tensors": [None if x is None else x.to(kernels.device) for x in tensors], "norm": kernels.gradient_norm(before.grads),
        "grad_scale": torch.tensor(4.0, device=kernels.device), "found_inf": torch.tensor(0.0, device=kernels.device)}
    for max_grad_norm in (0.5, 1e6):
        after = before.map(Tensor.clone)
        run(kernels, step, after, **options, max_grad_norm=max_grad_norm)
        assert_updated(before, after, oracle(step, before, **options, max_grad_norm=max_grad_norm))


@pytest.mark.parametrize("step", [RICHEST["sgd"], RICHEST["nadam"]], ids=str)
def test_found_inf_changes_nothing(kernels, step: Step) -> None:
    before = lists(step, (7, 300), torch.bfloat16, device=kernels.device, masters=True, averages=True)
    after = before.map(Tensor.clone)
    run(kernels, step, after, grad_scale=torch.tensor(2.0, device=kernels.device), found_inf=torch.tensor(1.0, device=kernels.device),
        seed=torch.tensor(3, device=kernels.device), ema_decay=0.5)
    for old, new in zip(before.every(), after.every(), strict=True):
        assert torch.equal(old, new)


def test_steps_are_counted_one_by_one(kernels) -> None:
    given = lists(STEPS[5], (0, 5, 8192, 30000), torch.float32, device=kernels.device)
    for _ in range(3):
        run(kernels, STEPS[5], given)
    assert [count.item() for count in given.scalars] == [3, 6, 9, 12]


@pytest.mark.parametrize("step", RICHEST.values(), ids=str)
def test_nan_and_infinite_gradients_reach_their_own_elements_only(kernels, step: Step) -> None:
    given = lists(step, (40,), torch.float32, device=kernels.device)
    given.grads[0][3], given.grads[0][5] = float("nan"), float("inf")
    run(kernels, step, given)
    given.grads[0][3] = 1.0
    run(kernels, step, given)
    for x in given.params + given.states:
        assert set(x.isfinite().logical_not().nonzero().flatten().tolist()) <= {3, 5}
        assert x[3].isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step", [RICHEST["adam"], RICHEST["lion"]], ids=str)
def test_masters(kernels, step: Step, dtype: torch.dtype) -> None:
    """The arithmetic goes on from what was lost in rounding, but for parameters that were changed since."""
    before = lists(step, SIZES, dtype, torch.float32, kernels.device, masters=True)
    before.params[-1][5::7] *= 2
    after = before.map(Tensor.clone)
    run(kernels, step, after)
    assert_updated(before, after, oracle(step, before))
    assert all(torch.equal(p, master.to(dtype)) for p, master in zip(after.params, after.masters, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step", [RICHEST["sgd"], RICHEST["nadam"]], ids=str)
def test_averages(kernels, step: Step, dtype: torch.dtype) -> None:
    """They are averages of the parameters as stored."""
    before = lists(step, SIZES, dtype, device=kernels.device, averages=True)
    after = before.map(Tensor.clone)
    run(kernels, step, after, ema_decay=0.9)
    averages, after.averages, before.averages = (before.averages, after.averages), [], []
    assert_updated(before, after, oracle(step, before))
    for old, new, p in zip(*averages, after.params, strict=True):
        want = old.cpu().double() + (1 - 0.9) * (p.cpu().double() - old.cpu().double())
        assert_within(new.cpu(), want, 3 * unit(p) * (old.cpu().double().abs() + p.cpu().double().abs() + 1), "average")


@pytest.mark.parametrize(("dtype", "masters"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)], ids=str)
@pytest.mark.parametrize("step", [RICHEST["adamw"], RICHEST["rmsprop"]], ids=str)
def test_stochastic_rounding(kernels, step: Step, dtype: torch.dtype, masters: bool) -> None:
    """Rounding by given numbers is monotone: results lie between those of the oracle less and plus what arithmetic may be off."""
    seed = 0x123456789ABCDEF
    sizes = (0, 5, 64, 129, 8193)
    before = lists(step, sizes, dtype, torch.bfloat16, kernels.device, masters=masters)
    after, want = before.map(Tensor.clone), oracle(step, before)
    run(kernels, step, after, seed=torch.tensor(seed, device=kernels.device))
    numbers, first = [], 0
    for size in sizes:
        numbers.append(random_numbers(first, size, torch.tensor(seed), 2))
        first += (size + 7) // 8 * 8
    drawn = [*([] if masters or dtype != torch.bfloat16 else zip(numbers, before.params, after.params, want.params, strict=True)),
             *zip(numbers * len(step.state_names), before.states, after.states, want.states, strict=True)]
    ups = 0
    for number, old, new, exact in drawn:
        slack = ROUNDINGS * unit(before.params[0]) * (exact.abs() + old.cpu().double().abs() + 1)
        low, high = (stochastically_rounded((exact + sign * slack).float(), number) for sign in (-1, 1))
        assert (low <= new.cpu()).all()
        assert (new.cpu() <= high).all()
        ups += int((new.cpu() != exact.bfloat16()).sum())
    assert not drawn or ups > 1000  # it is not rounding to nearest
    if masters:
        assert all(torch.equal(p, master.bfloat16()) for p, master in zip(after.params, after.masters, strict=True))


def test_stochastic_rounding_keeps_the_mean_infinities_and_nan(kernels) -> None:
    """1 - 2^-10 is a quarter of the way from 1 to the next smaller bfloat16, 1 - 2^-8."""
    step = STEPS[0]
    p = torch.ones(80000, dtype=torch.bfloat16, device=kernels.device)
    grad = torch.full_like(p, 2.0**-10 / step.hyperparameters[0])
    p[:3] = torch.tensor([float("inf"), float("-inf"), float("nan")])
    given = Lists([p], [grad])
    run(kernels, step, given, seed=torch.tensor(7, device=kernels.device))
    assert p[:2].tolist() == [float("inf"), float("-inf")]
    assert p[2].isnan()
    assert p[3:].unique().tolist() == [1 - 2.0**-8, 1.0]
    assert (p[3:] < 1).double().mean().item() == pytest.approx(0.25, abs=0.01)  # three standard deviations are 0.005


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_unaligned_memory(kernels, dtype: torch.dtype) -> None:
    step = STEPS[9]
    before = lists(step, (1001,), dtype, device=kernels.device)
    memory = before.map(lambda x: torch.cat([x.new_zeros(1), x, x.new_zeros(1)]) if x.dim() else x.clone())
    after = memory.map(lambda x: x[1:-1] if x.dim() else x)
    run(kernels, step, after)
    assert_updated(before, after, oracle(step, before))
    assert all(x[0] == 0 and x[-1] == 0 for x in [*memory.params, *memory.states])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_gradient_norm(kernels, dtype: torch.dtype) -> None:
    grads = [torch.randn(size, device=kernels.device).to(dtype) for size in SIZES]
    squares, invalid = kernels.gradient_norm(grads).tolist()
    assert invalid == 0
    assert squares == pytest.approx(sum(g.double().square().sum().item() for g in grads), rel=1e-12)
    for value in (float("inf"), float("-inf"), float("nan")):
        grads[-1][-1] = value
        squares, invalid = kernels.gradient_norm(grads).tolist()
        assert invalid == 1
        assert not squares < float("inf")


def test_gradient_norm_where_float32_squares_would_overflow(kernels) -> None:
    grads = [torch.full((3000,), 1e30, device=kernels.device)]
    torch.testing.assert_close(kernels.gradient_norm(grads).tolist(), [3000 * grads[0][0].double().item() ** 2, 0.0], rtol=1e-12, atol=0)
    assert kernels.gradient_norm([torch.full((3,), 1e200, dtype=torch.float64, device=kernels.device)]).tolist() == [float("inf"), 0.0]


def test_gradient_norm_of_nothing(kernels) -> None:
    assert kernels.gradient_norm([]).tolist() == [0, 0]
    assert kernels.gradient_norm([torch.empty(0, 3, device=kernels.device)]).tolist() == [0, 0]


@pytest.mark.parametrize(("step", "dtype"), [
    *((step, torch.float32) for step in STEPS), *((RICHEST[rule], torch.bfloat16) for rule in ("sgd", "adamw"))], ids=str)
def test_cpp_gives_the_same_bits_for_any_number_of_threads(step: Step, dtype: torch.dtype) -> None:
    """bfloat16 with stochastic rounding."""
    seed = torch.tensor(5) if dtype == torch.bfloat16 else None
    with running_on("cpp"):
        module, threads = select(torch.empty(0)), torch.get_num_threads()
        given, results = lists(step, (100003, 5, 70001, 64, 33333), dtype), []
        try:
            for count in (1, 2, 4):
                torch.set_num_threads(count)
                after = given.map(Tensor.clone)
                norm = module.gradient_norm(after.grads)
                run(module, step, after, norm=norm, seed=seed, max_grad_norm=1.0)
                results.append([norm, *after.written()])
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@contextlib.contextmanager
def counting(backend: str, lists: Lists, **options: object):
    """The backend's functions and what the emulator counts, one entry for each launch; these lists are all that kernels may reach."""
    emulator = pytest.importorskip("ptxsim.triton", reason="the emulator is installed with: pip install -e tools/ptxsim")
    if backend == "triton":
        import fastlayers.kernels as kernels

        with emulator.device(arch=90, by_address=lists.every(), **options) as device:
            yield kernels, device.stats
    else:
        with emulated_cuda(**options) as device, fl.backend("cuda"):
            yield select(torch.empty(0)), device.stats


@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_one_launch_for_a_list(backend: str) -> None:
    given = lists(STEPS[5], (5, 10000, 64), torch.float32)
    with counting(backend, given) as (kernels, stats):
        norm = kernels.gradient_norm(given.grads)
        assert len(stats) == 2
        run(kernels, STEPS[5], given, norm=norm, max_grad_norm=1.0)
        assert len(stats) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_traffic_instructions_and_races(backend: str, step: Step, dtype: torch.dtype) -> None:
    """Nobody reads or writes what another program writes; traffic at most 1.1 of the least, 35 instructions an element."""
    given = lists(step, (65536, 3 * 8192), dtype)
    with counting(backend, given, check_races="strict") as (kernels, stats):
        kernels.gradient_norm(given.grads)
        run(kernels, step, given)
    numel = sum(p.numel() for p in given.params)
    for launch, arrays in zip((stats[0], stats[2]), (1, 3 + 2 * len(step.state_names)), strict=True):
        sectors = launch.global_read_sectors + launch.global_write_sectors
        assert 32 * sectors <= 1.1 * arrays * numel * dtype.itemsize
        assert not launch.local_bytes
        assert launch.thread_instructions <= 35 * numel


def test_triton_interpreter() -> None:
    """TRITON_INTERPRET=1 has to be set before Triton is imported: in another process."""
    script = """
import torch
import fastlayers as fl

lists = [[torch.linspace(-1, 1, n).requires_grad_() for n in (3, 9000)] for _ in range(2)]
for name, params in zip(("triton", "reference"), lists):
    optimizer = fl.optim.AdamW(params, amsgrad=True, max_grad_norm=1.0)
    for p in params:
        p.grad = p.detach().cos()
    with fl.backend(name):
        optimizer.step()
for p, q in zip(*lists):
    torch.testing.assert_close(p, q)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_written_tensors_are_marked_for_autograd(kernels) -> None:
    p = torch.ones(3, device=kernels.device, requires_grad=True)
    loss = (p * p).sum()
    with torch.no_grad():
        run(kernels, STEPS[0], Lists([p], [torch.ones_like(p)]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def _arguments(**changed: object) -> list[object]:
    p, g, m, v = (torch.ones(2, 3) for _ in range(4))
    arguments = {"rule": "adam", "params": [p], "grads": [g], "states": [m, v], "scalars": [torch.zeros(())], "masters": [],
                 "averages": [], "hyperparameters": [0.1, 0.0, 0.9, 0.999, 1e-8], "flags": [False, False], "tensors": [],
                 "grad_scale": None, "found_inf": None, "norm": None, "seed": None, "max_grad_norm": 0.0, "ema_decay": 0.0}
    return list({**arguments, **changed}.values())


@pytest.mark.parametrize(("kind", "message", "changed"), [
    (ValueError, f"optimizer_step: rule must be one of {', '.join(UPDATE_RULES)}, got 'rprop'", {"rule": "rprop"}),
    (ValueError, "optimizer_step: hyperparameters must have 5 elements, got 2", {"hyperparameters": [0.1, 0.0]}),
    (ValueError, "optimizer_step: flags must have 2 elements, got 1", {"flags": [False]}),
    (ValueError, "optimizer_step: states must have 2 elements, got 1", {"states": [torch.ones(2, 3)]}),
    (ValueError, "optimizer_step: scalars must have 1 elements, got 0", {"scalars": []}),
    (ValueError, "optimizer_step: grads must have 1 elements, got 0", {"grads": []}),
    (ValueError, "optimizer_step: tensors must have 5 elements, got 1", {"tensors": [None]}),
    (ValueError, "optimizer_step: averages must have 1 elements, got 2", {"averages": [torch.ones(2, 3)] * 2}),
    (RuntimeError, "optimizer_step: averages must all be Float, got Double at position 0", {"averages": [torch.ones(2, 3).double()]}),
    (RuntimeError, "optimizer_step: params must be Half or BFloat16 to have masters, got Float at position 0",
     {"masters": [torch.ones(2, 3)]}),
    (RuntimeError, "optimizer_step: scalars must have one element, got [2] at position 0", {"scalars": [torch.zeros(2)]}),
    (TypeError, "optimizer_step: grads must be a list of tensors, got int", {"grads": 3}),
    (TypeError, "optimizer_step: grads must hold tensors, got NoneType at position 0", {"grads": [None]}),
    (RuntimeError, "optimizer_step: params must be float32, float64, float16 or bfloat16, got Int at position 0",
     {"params": [torch.ones(2, 3, dtype=torch.int32)]}),
    (RuntimeError, "optimizer_step: grads must all be Float, got Double at position 0", {"grads": [torch.ones(2, 3).double()]}),
    (RuntimeError, "optimizer_step: grads must have their parameter's shape [2, 3], got [3, 2] at position 0",
     {"grads": [torch.ones(3, 2)]}),
    (RuntimeError, "optimizer_step: grads must have their parameter's strides [3, 1], got [1, 2] at position 0",
     {"grads": [torch.ones(3, 2).t()]}),
    (RuntimeError, "optimizer_step: params must fill their memory without gaps, got strides [6, 1] at position 0",
     {"params": [torch.ones(2, 6)[:, :3]]}),
    (RuntimeError, "optimizer_step: states must be Float like their parameter, Float or BFloat16, got Half at position 0",
     {"states": [torch.ones(2, 3).half(), torch.ones(2, 3).half()]}),
    (RuntimeError, "optimizer_step: grads must be on cpu, got meta at position 0", {"grads": [torch.ones(2, 3, device="meta")]}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_cpp_refuses_before_anything_changes(kind, message: str, changed: dict) -> None:
    with running_on("cpp"):
        module = select(torch.empty(0))
        arguments = _arguments(**changed)
        before = [[x.clone() for x in value] for value in arguments[1:7] if isinstance(value, list) and None not in value]
        with pytest.raises(kind) as error:
            module.optimizer_step(*arguments)
        assert str(error.value) == message
        after = [value for value in arguments[1:7] if isinstance(value, list) and None not in value]
        assert all(x.device.type == "meta" or torch.equal(x, y) for a, b in zip(before, after, strict=True)
                   for x, y in zip(a, b, strict=True))
