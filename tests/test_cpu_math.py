"""The C++ mathematics of every activation, on every instruction set: against float64 over all kinds of inputs, and bit for bit.

Each instruction set runs in a process of its own, since the choice is made at import.
"""
from __future__ import annotations

import math
import os
import subprocess
import sys

import mpmath
import pytest
import torch
from torch import Tensor

import fastlayers as fl
from fastlayers import reference, specs
from fastlayers.reference import activations, dropout

ROWS = tuple(specs.ACTIVATIONS.values())
HALF_TYPES = (torch.float16, torch.bfloat16)
SWEEP_STRIDE = 4093  # of float32 bit patterns: 2^20 of them, in every binade
SEED = 0x123456789ABCDEF

pytestmark = pytest.mark.skipif(not fl.backends()["cpp"].startswith("available"), reason=fl.backends()["cpp"])


def float32_inputs() -> Tensor:
    """Bit patterns from all over float32, plus zeros, infinities, NaN, the kinks, and the neighbours of all these."""
    sweep = torch.arange(-(2**31), 2**31, SWEEP_STRIDE, dtype=torch.int64).to(torch.int32).view(torch.float32)
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, *(kink for row in ROWS for kink, _ in row.kinks)]
    points = torch.tensor(special)
    up, down = torch.full_like(points, math.inf), torch.full_like(points, -math.inf)
    dense = torch.linspace(-15, 15, 100_001)  # where the functions bend
    return torch.cat([sweep, points, torch.nextafter(points, up), torch.nextafter(points, down), dense])


def inputs(dtype: torch.dtype, index: int = 0) -> Tensor:
    """All 65,536 values of a half type; float32_inputs, a sixteenth of them for arguments other than the defaults."""
    if dtype == torch.float32:
        return float32_inputs()[::16 if index else 1].contiguous()
    return torch.arange(-(2**15), 2**15, dtype=torch.int64).to(torch.int16).view(dtype)


DOUBLES = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "log_sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "tanhshrink": lambda x: x - mpmath.tanh(x),
}
"""What is made of the exponential, whose float64 has series of its own."""


def float64_inputs() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([scale * torch.randn(200, dtype=torch.float64, generator=generator) for scale in (1e-3, 0.5, 2, 12)])
    return x.clamp(-37, 19)  # where gelu begins to leave the normal range, and softplus ends


Arguments = tuple[tuple[float, ...], tuple[float, ...]]
OTHER_ARGUMENTS: dict[str, list[Arguments]] = {
    "binary_step": [((), (1.0,))],
    "leaky_relu": [((), (0.0,)), ((), (-0.5,))],
    "prelu": [((0.0,), ()), ((-1.5,), ()), ((30000.0,), ())],
    "rrelu": [((), (-0.25, 0.75))],
    "elu": [((), (0.25,)), ((), (-2.0,))],
    "celu": [((), (0.375,)), ((), (3.0,)), ((), (-1.5,))],
    "isru": [((), (0.03125,)), ((), (50.0,))],
    "isrlu": [((), (0.03125,)), ((), (50.0,))],
    "srelu": [((-1.0, -0.5, 2.0, 3.0), ()), ((0.25, 0.0, 0.75, -0.75), ()), ((3.0, 20.0, -4.0, 0.0), ())],
    "apl": [((0.5, -1.25), ()), ((0.25, -0.5, 3.0, 1.0, 0.0, -2.0), ()),
            ((0.1, -0.2, 0.3, -0.4, 0.5, 0.0, 2.0, -30.0, 1.0, -1.0, 2.0, -2.0, 3.0, 0.0, 0.5, 100.0), ())],
    "softplus": [((), (2.5, 20.0)), ((), (0.125, 5.0)), ((), (-1.5, 10.0))],
    "soft_exponential": [((alpha,), ()) for alpha in (-3.0, -1.25, -0.7, -0.01, 0.01, 0.3, 0.9, 2.5)],
    "swish": [((0.0,), ()), ((-1.3,), ()), ((40.0,), ()), ((0.01,), ())],
    "hardtanh": [((), (-2.0, 0.5))],
    "softshrink": [((), (0.0,)), ((), (1.5,))],
    "hardshrink": [((), (2.0,)), ((), (-1.0,))],
    "threshold": [((), (-1.0, 3.0))],
    "snake": [((0.0,), ()), ((-0.7,), ()), ((5.0,), ()), ((40.0,), ())],
}
"""(learnable parameters, constants) that are not the defaults."""


def all_arguments(row: specs.Activation) -> list[Arguments]:
    """The defaults, then the others."""
    return [(tuple(row.start()), tuple(float(constant.default) for constant in row.constants)), *OTHER_ARGUMENTS.get(row.name, [])]


CASES = [(row, index) for row in ROWS for index in range(len(all_arguments(row)))]


def case_name(case: object) -> str:
    """silu, swish-0, swish-1, ...: the defaults first."""
    return getattr(case, "name", str(case))


def run_kernels() -> dict[object, Tensor]:
    """Everything that the tests look at, computed by the instruction set of this process."""
    from fastlayers import _C

    results: dict[object, Tensor] = {}
    for row, index in CASES:
        learnables, constants = all_arguments(row)[index]
        parameters = torch.tensor(learnables)[:, None] if learnables else None
        seed = torch.tensor(SEED) if row.random else None
        common = (None, None, None, parameters, seed, row.name, constants, 0.0)
        for dtype in (torch.float32, *HALF_TYPES):
            x = inputs(dtype, index)
            dx = (True, False, False, False, False)
            results[row.name, index, dtype, "value"] = _C.epilogue_forward(x, None, *common, 0)
            results[row.name, index, dtype, "derivative"] = _C.epilogue_backward(torch.ones_like(x), x, None, *common, 0, False, dx)[0]
        x = inputs(torch.float32, index)
        if row.derives_from_output(constants):
            y = activations.function(row.name)(x.double(), *given(row, index, x.double())).float()
            results[row.name, index, "from_output"] = _C.epilogue_backward(torch.ones_like(y), y, None, *common, 0, True, dx)[0]
        if learnables:  # every element a channel with parameters of its own: their gradients are then those of one element
            spread = (None, None, None, parameters.expand(-1, x.numel()).contiguous(), seed, row.name, constants, 0.0)
            wanted = (True, False, False, False, True)
            dx, *_, slopes = _C.epilogue_backward(torch.ones_like(x)[None], x[None], None, *spread, 1, False, wanted)
            results[row.name, index, "parameters"] = slopes
            results[row.name, index, "derivative along"] = dx[0]
    for name in DOUBLES:
        x, common = float64_inputs(), (None, None, None, None, None, name, all_arguments(specs.ACTIVATIONS[name])[0][1], 0.0)
        results[name, "float64 value"] = _C.epilogue_forward(x, None, *common, 0)
        wanted = (True, False, False, False, False)
        results[name, "float64 derivative"] = _C.epilogue_backward(torch.ones_like(x), x, None, *common, 0, False, wanted)[0]
    results["mask"] = torch.stack([_C.dropout_mask(first, 5000, torch.tensor(SEED), 0.3) for first in (0, 3, 2**35 + 5)])
    results.update(layer_results())
    return results


def layer_results() -> dict[object, Tensor]:
    """Batch norm with everything on, forward and backward, in shapes that take each path."""
    from fastlayers import _C

    results = {}
    for shape in ((6, 5, 7, 9), (4, 3, 150, 150), (300, 24), (3, 40, 3, 3), (64, 18, 20, 20)):
        for dtype in (torch.float32, torch.bfloat16):
            for channels_last in (False, True):
                if channels_last and len(shape) != 4:
                    continue
                generator = torch.Generator().manual_seed(0)
                x, dy, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
                if channels_last:
                    x, dy, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy, residual))
                weight, bias = torch.rand(shape[1], generator=generator), torch.randn(shape[1], generator=generator)
                tail = (residual, torch.full((1, shape[1]), 0.25), torch.tensor(SEED), "prelu", (), 0.1)
                y, mean, rstd = _C.batch_norm_forward(x, weight, bias, None, None, None, *tail, True, 0.1, 1e-5, 1)
                gradients = _C.batch_norm_backward(dy, x, mean, rstd, weight, bias, *tail, True, 1, (True,) * 5)
                for name, tensor in zip(("y", "mean", "rstd", "dx", "dresidual", "dweight", "dbias", "dparameters"),
                                        (y, mean, rstd, *gradients), strict=True):
                    results["layer", shape, dtype, channels_last, name] = tensor
    return results


def available_capabilities() -> list[str]:
    """Instruction sets that this processor has, worst first."""
    from fastlayers import _C

    names = ["baseline", "avx2", "avx512"]
    return names[:names.index(_C.cpu_capability()) + 1]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[object, Tensor]]:
    """run_kernels() of each instruction set."""
    folder = tmp_path_factory.mktemp("cpu_math")
    processes = {capability: subprocess.Popen([sys.executable, __file__, str(folder / capability)],
                                              env={**os.environ, "FASTLAYERS_CPU_CAPABILITY": capability})
                 for capability in available_capabilities()}
    for capability, process in processes.items():
        assert process.wait(timeout=300) == 0, capability
    return {capability: torch.load(folder / capability, mmap=True) for capability in processes}


def given(row: specs.Activation, index: int, x: Tensor) -> list[Tensor | float]:
    """What the reference functions take after x, in its dtype."""
    learnables, constants = all_arguments(row)[index]
    uniform = [dropout.uniform_like(x, torch.tensor(SEED))] if row.random else []
    return [*torch.tensor(learnables, dtype=torch.float32).to(x.dtype), *constants, *uniform]


def oracle(row: specs.Activation, index: int, x: Tensor) -> tuple[Tensor, ...]:
    """(value, derivative, derivative in each learnable parameter) in float64."""
    wide = x.double()
    arguments = given(row, index, wide)
    return activations.function(row.name)(wide, *arguments), *activations.function(row.name, "derivative")(wide, *arguments)


def spacing(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbouring numbers of dtype around value: one unit in the last place."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(value.double().abs().clamp_min(info.tiny))
    return torch.ldexp(torch.full_like(value, info.eps, dtype=torch.float64), exponent - 1)


def own_rounding(x: Tensor, slope: Tensor) -> Tensor:
    """What the rounding of x to float32 makes of a function with this slope there."""
    return (0.5 * spacing(x, torch.float32) * slope).nan_to_num(nan=0.0)


def assert_errors(got: Tensor, want: Tensor, x: Tensor, allowed: Tensor, what: str) -> None:
    """|got - want| <= allowed wherever want is a number that got's dtype can hold, and the same infinity or NaN elsewhere."""
    rounded = want.to(got.dtype)
    exact = (got == rounded) | (got.isnan() & rounded.isnan())
    error = torch.where(exact, torch.zeros_like(want), (got.double() - want).abs())
    bad = ~(error <= allowed)
    if bad.any():
        worst = torch.where(bad, error / allowed, 0).nan_to_num(nan=math.inf).argmax()
        at = (tensor.flatten()[worst].item() for tensor in (x, got, want))
        pytest.fail("{}: {} off, f({:.9g}) = {:.9g}, not {:.9g}".format(what, int(bad.sum()), *at))


def check(results: dict[str, dict[object, Tensor]], key: tuple, want: Tensor, x: Tensor, allowed: Tensor) -> None:
    """assert_errors for what every instruction set computed; several rows of results have x in common."""
    for capability, got in each_capability(results, key):
        assert_errors(got, want, x.expand_as(want), allowed, f"{' '.join(map(str, key))} on {capability}")


def each_capability(results: dict[str, dict[object, Tensor]], key: object) -> list[tuple[str, Tensor]]:
    return [(capability, tensors[key]) for capability, tensors in results.items()]


@pytest.mark.parametrize(("row", "index"), [case for case in CASES if not case[0].random], ids=case_name)
def test_float32(results, row: specs.Activation, index: int) -> None:
    """Value and derivatives within the row's budgets, plus the input's own rounding: half a unit of it times the slope.

    Derivatives in parameters, which a row has no budget for, get twice that of the derivative in x; snake's crosses zero as its
    derivative in x does, and gets the same absolute error in units of its terms.
    """
    x = inputs(torch.float32, index)
    with torch.enable_grad():
        wide = x.double().requires_grad_()
        value, *slopes = oracle(row, index, wide)
        turns = [torch.autograd.grad(slope.sum(), wide, retain_graph=True)[0].abs() if slope.requires_grad else torch.zeros_like(wide)
                 for slope in slopes]
    value, *slopes = (tensor.detach() for tensor in (value, *slopes))
    allowed = row.ulp * spacing(value, torch.float32) + own_rounding(x, slopes[0].abs())
    check(results, (row.name, index, torch.float32, "value"), value, x, allowed)
    budget = (row.derivative_ulp * spacing(slopes[0], torch.float32)).clamp_min(row.derivative_absolute)
    allowed = budget + own_rounding(x, turns[0])
    check(results, (row.name, index, torch.float32, "derivative"), slopes[0], x, allowed)
    if row.learnables:
        check(results, (row.name, index, "derivative along"), slopes[0], x, allowed)
        budgets = [2 * row.derivative_ulp * spacing(slope, torch.float32) + own_rounding(x, turn)
                   for slope, turn in zip(slopes[1:], turns[1:], strict=True)]
        if row.name == "snake":
            (alpha,), _ = all_arguments(row)[index]
            terms = wide.detach().abs() * wide.detach().abs().clamp(max=1 / abs(alpha) if alpha else math.inf)
            budgets[0] += row.derivative_absolute * terms.nan_to_num(nan=0.0, posinf=0.0)
        check(results, (row.name, index, "parameters"), torch.stack(slopes[1:]), x, torch.stack(budgets))
    if row.derives_from_output(all_arguments(row)[index][1]):
        number = ~x.isnan()
        by_y = (turns[0] / slopes[0].abs()).nan_to_num(nan=0.0, posinf=0.0) if index else torch.zeros_like(value)
        allowed = budget + own_rounding(value, by_y)
        check(results, (row.name, index, "from_output"), slopes[0], x, allowed.where(number, math.inf))


@pytest.mark.parametrize(("row", "index"), [case for case in CASES if case[0].random], ids=case_name)
def test_random_activations_are_the_same_bits(results, row: specs.Activation, index: int) -> None:
    """As the reference in float32."""
    x = inputs(torch.float32, index)
    arguments = given(row, index, x)
    slope, = activations.function(row.name, "derivative")(x, *arguments)
    wanted = {"value": activations.function(row.name)(x, *arguments), "derivative": slope}
    for kind, want in wanted.items():
        for capability, got in each_capability(results, (row.name, index, torch.float32, kind)):
            assert torch.equal(got.nan_to_num(nan=7.0), want.nan_to_num(nan=7.0)), (kind, capability)


@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize(("row", "index"), CASES, ids=case_name)
def test_half_types(results, row: specs.Activation, index: int, dtype: torch.dtype) -> None:
    """All inputs: never more than one unit off, and the nearest number in 99.5 %."""
    x = inputs(dtype)
    for kind, want in zip(("value", "derivative"), oracle(row, index, x), strict=False):
        unit = spacing(want, dtype)
        absolute = row.derivative_absolute if kind == "derivative" else 0.0
        for capability, got in each_capability(results, (row.name, index, dtype, kind)):
            assert_errors(got, want, x, unit + absolute, f"{row.name} {kind} on {capability}")
            number = got.isfinite() & want.isfinite()
            nearest = (got.double() - want).abs()[number] <= 0.5 * unit[number]
            assert nearest.double().mean() >= 0.995, f"{row.name} {kind} on {capability}: {nearest.double().mean():.4f} correctly rounded"


PRECISE = [(-1.0, x) for x in (1e-30, 3e-9, 1e-4, 0.3, 0.999, 1.0, 1.001, 2.0, 1e6, 3e38)] + [
    (1.0, x) for x in (-100.0, -60.0, -20.0, -3.0, -0.5, -1e-4, 1e-9, 0.7, 5.0, 88.0)] + [
    (2.5, 35.7), (-3.0, 2.6666667), (0.3, 290.0), (10.0, 8.8), (10.0, -8.8), (1e-5, -2e5), (1e-5, -1e5), (1e-5, 7e6), (1e-6, -1e7),
    (1e-10, -1.1e10), (1e-15, -5e16), (-1e-5, 2e5), (-1e-10, -7e9)]
"""(alpha, x) where soft_exponential's formula cancels in float64, or overflows float32 on the way."""


def test_soft_exponential_where_float64_cancels() -> None:
    """Against 60 digits: value and derivative within the row's budget, the derivative in alpha within twice that."""
    from fastlayers import _C

    row = specs.ACTIVATIONS["soft_exponential"]
    alpha, x = torch.tensor(PRECISE).T.contiguous()
    common = (None, None, None, None, alpha[None].contiguous(), None, row.name, (), 0.0, 1)
    value = _C.epilogue_forward(x[None], *common)[0]
    dx, *_, dalpha = _C.epilogue_backward(torch.ones_like(x)[None], x[None], *common, False, (True, False, False, False, True))
    with mpmath.workdps(60):
        want = [[float(part) for part in precise_soft_exponential(a, v)] for a, v in zip(alpha.tolist(), x.tolist(), strict=True)]
    budgets = (row.ulp, row.derivative_ulp, 2 * row.derivative_ulp)
    for got, exact, ulp in zip((value, dx[0], dalpha[0]), torch.tensor(want, dtype=torch.float64).T, budgets, strict=True):
        assert_errors(got, exact, x, ulp * spacing(exact, torch.float32), row.name)


def precise_soft_exponential(alpha: float, x: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """(f, df/dx, df/dalpha) with mpmath."""
    a, v = mpmath.mpf(alpha), mpmath.mpf(x)
    if a > 0:
        growth = mpmath.exp(a * v)
        return (growth - 1) / a + a, growth, 1 + ((a * v - 1) * growth + 1) / a**2
    u = 1 - a * (v + a)
    return -mpmath.log(u) / a, 1 / u, (mpmath.log(u) + a * (v + 2 * a) / u) / a**2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_random_slopes_in_every_layout(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """The reference's bits, whatever the shape, the number of threads, the dropout beside it; a seed with p = 0 drops nothing."""
    from fastlayers import _C

    threads = torch.get_num_threads()
    try:
        for shape in ((3, 5, 4, 7), (2, 3, 150, 150), (64, 18, 20, 20), (1, 1, 1, 1)):
            x = -torch.ones(shape, dtype=dtype).contiguous(memory_format=layout)
            for p in (0.0, 0.3):
                arguments = (None, None, None, None, None, torch.tensor(SEED), "rrelu", (0.1, 0.7), p, 1)
                want = reference.epilogue_forward(x, *arguments)
                assert p or (want != 0).all()
                for count in (1, 2, 3):
                    torch.set_num_threads(count)
                    assert torch.equal(_C.epilogue_forward(x, *arguments), want), (shape, p, count)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("rows", [0, 1, 3, 18])
def test_wrong_number_of_hinges(rows: int) -> None:
    from fastlayers import _C

    parameters = torch.zeros(rows, 1)
    with pytest.raises(ValueError, match=r"parameters must be a contiguous cpu tensor of shape \[2 times 1 to 8, 1 or 3\], got shape"):
        _C.epilogue_forward(torch.zeros(2, 3), None, None, None, None, parameters, None, "apl", (), 0.0, 1)


def test_random_activation_without_seed() -> None:
    from fastlayers import _C

    with pytest.raises(ValueError, match="epilogue_forward: seed must be given for rrelu, got None"):
        _C.epilogue_forward(torch.zeros(2, 3), None, None, None, None, None, None, "rrelu", (0.1, 0.3), 0.0, 1)


def test_masks_are_the_same_bits(results) -> None:
    want = torch.stack([dropout.random_numbers(first, 5000, torch.tensor(SEED)) >= dropout.threshold(0.3) for first in (0, 3, 2**35 + 5)])
    for capability, got in each_capability(results, "mask"):
        assert torch.equal(got, want), capability


def test_fused_multiply_add_gives_the_same_bits(results) -> None:
    """AVX2 and AVX-512 agree in everything, sums included; without fused multiply-add the last bits may differ."""
    if "avx512" not in results:
        pytest.skip("this processor has no AVX-512 to compare AVX2 with")
    for key, tensor in results["avx2"].items():
        other = results["avx512"][key]
        same = (tensor == other) | (tensor.isnan() & other.isnan()) if tensor.is_floating_point() else tensor == other
        assert same.all(), key


def test_thread_count_does_not_change_bits() -> None:
    before = torch.get_num_threads()
    try:
        by_threads = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            by_threads.append(layer_results())
    finally:
        torch.set_num_threads(before)
    for key, tensor in by_threads[0].items():
        for threads, other in zip((2, 4), by_threads[1:], strict=True):
            assert torch.equal(tensor, other[key]), (key, threads)


def test_mean_far_from_zero() -> None:
    """Statistics of mean 1e4 and deviation 1e-2: no worse than twice torch's own error."""
    from fastlayers import _C

    torch.manual_seed(0)
    for shape, channel_dim in (((32, 8, 40, 40), 1), ((4, 2, 300, 300), 1), ((5000, 16), 1)):
        x = 1e4 + 1e-2 * torch.randn(shape)
        wide = x.double().movedim(channel_dim, 0).flatten(1)
        count = wide.size(1)
        mean, m2 = _C.batch_norm_statistics(x, channel_dim)
        torch_mean, torch_rstd = torch.native_batch_norm(x, None, None, None, None, True, 0.1, 0.0)[1:]
        want_mean, want_var = wide.mean(1), wide.var(1, unbiased=False)
        floor = torch.finfo(torch.float32).eps
        assert ((mean - want_mean).abs() <= 2 * (torch_mean - want_mean).abs() + floor * want_mean).all()
        torch_error = (torch_rstd.double().pow(-2) - want_var).abs()
        assert ((m2.double() / count - want_var).abs() <= 2 * torch_error + 4 * floor * want_var).all()


@pytest.mark.parametrize("name", DOUBLES)
def test_float64_is_within_four_units(results: dict[str, dict[object, Tensor]], name: str) -> None:
    x, function = float64_inputs(), DOUBLES[name]
    with mpmath.workdps(60):
        value = torch.tensor([float(function(mpmath.mpf(v))) for v in x.tolist()], dtype=torch.float64)
        slope = torch.tensor([float(mpmath.diff(function, mpmath.mpf(v))) for v in x.tolist()], dtype=torch.float64)
    unit = torch.nextafter(value.abs(), torch.tensor(math.inf, dtype=torch.float64)) - value.abs()
    for capability, got in each_capability(results, (name, "float64 value")):
        assert ((got - value).abs() <= 4 * unit).all(), capability
    for capability, got in each_capability(results, (name, "float64 derivative")):
        assert ((got - slope).abs() <= 4 * torch.finfo(torch.float64).eps).all(), capability


def test_unknown_capability_fails_at_import() -> None:
    for value in ("sse9", "AVX2"):
        environment = {**os.environ, "FASTLAYERS_CPU_CAPABILITY": value}
        code = "import torch, fastlayers._C"
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode != 0
        assert f"FASTLAYERS_CPU_CAPABILITY must be baseline, avx2 or avx512, got {value}" in run.stderr


if __name__ == "__main__":
    torch.save(run_kernels(), sys.argv[1])
