"""Activations registered from formulas: refused with a reason, or held to the same tests as those that are built in."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import cases
import pytest
import sympy
import test_activations
import test_compile
import test_kernels
import test_modules
import test_specs
import torch
from conftest import running_on

import fastlayers as fl
from fastlayers import generated
from fastlayers.backends import select
from fastlayers.formulas import calculus, functions, grammar
from fastlayers.reference import activations
from fastlayers.specs import ACTIVATIONS
from fastlayers.tolerance import allowed_error, worst_share

FORMULAS = {
    "own_mish": ("x * tanh(log(1 + exp(x)))", {}, {}),
    "own_pieces": ("Piecewise((exp(x) - 1, x < 0), (x**2 / 2, x < 2), (3*x - 4, True))", {}, {}),
    "own_two": ("max(a*x, b*x) + c*sin(x)", {"a": 1.0, "b": 0.25}, {"c": 0.1}),
    "own_gate": ("x / (1 + exp(-beta*x)) + abs(x - 1) / 3", {"beta": 1.5}, {}),
}


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """The formulas, for the tests of this file alone."""
    for name, (formula, parameters, constants) in FORMULAS.items():
        fl.register_activation(name, formula, parameters=parameters, constants=constants)
    yield
    for name in FORMULAS:
        fl.unregister_activation(name)


def of(name: str) -> type[torch.nn.Module]:
    return getattr(fl.nn, ACTIVATIONS[name].module)


MODULES = {
    **{name: lambda name=name: of(name)() for name in FORMULAS},
    "one parameter per channel": lambda: of("own_two")(0.3, num_parameters=4, a=0.75),
    "dropout": lambda: of("own_gate")(dropout=0.3),
    "batch norm, by name": lambda: fl.nn.BatchNorm1d(4, activation="own_pieces", dropout=0.2),
    "batch norm, module": lambda: fl.nn.BatchNorm1d(4, activation=of("own_two")(num_parameters=4)),
}

CASES = (
    [cases.Case("own_two", dtype=dtype) for dtype in cases.DTYPES] + [cases.Case(name) for name in FORMULAS if name != "own_two"]
    + [cases.Case(name, (2, 5, 33), affine=False, residual=False, p=0.0, per_channel=False) for name in FORMULAS]
    + [cases.Case(name, (4, 6, 5, 3), "channels_last", torch.bfloat16, residual=False) for name in FORMULAS]
    + [cases.Case("own_two", (2, 3, 9), "permuted"), cases.Case("own_two", (0, 3)), cases.Case("own_mish", (1, 1, 4097))]
)
BATCH_NORM = [cases.Case(name, (4, 8, 3, 3), layout) for name in FORMULAS for layout in ("contiguous", "channels_last")]
KERNELS = pytest.mark.parametrize("backend", ["reference", "triton"], indirect=True)  # C++ has no kernels of them


@KERNELS
@pytest.mark.parametrize("case", CASES, ids=str)
def test_epilogue(backend: str, case: cases.Case) -> None:
    test_kernels.test_epilogue_forward(backend, case)
    test_kernels.test_epilogue_backward(backend, case)


@KERNELS
@pytest.mark.parametrize("case", BATCH_NORM, ids=str)
def test_batch_norm(backend: str, case: cases.Case) -> None:
    test_kernels.test_batch_norm(backend, case, True)


@pytest.mark.parametrize("arguments", [test_specs.arguments_of, test_specs.moved_arguments], ids=["start", "moved"])
@pytest.mark.parametrize("name", FORMULAS)
def test_derivative_of_the_row(name: str, arguments) -> None:
    test_specs.test_reference_derivative_is_that_of_the_reference_function(ACTIVATIONS[name], arguments)


@pytest.mark.parametrize("name", ["own_mish", "own_two"])
def test_function_module_and_name(backend: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every backend, C++ too, where the reference steps in."""
    row = ACTIVATIONS[name]
    monkeypatch.setitem(test_activations.ROWS_BY_MODULE, row.module, [row])
    test_activations.test_function_module_and_name_are_one(backend, row)
    if row.learnables:
        test_activations.test_parameter_gradients_beside_autograd(backend, row, 4)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_first_and_second_derivatives(make, training: bool) -> None:
    test_modules.test_gradcheck("auto", make, training)


@pytest.mark.parametrize("make", [
    lambda: of("own_mish")(), lambda: of("own_two")(num_parameters=4, dropout=0.2),
    lambda: fl.nn.BatchNorm2d(4, activation="own_gate", dropout=0.1),
], ids=["plain", "per channel, dropout", "batch norm"])
def test_fullgraph(make) -> None:
    test_compile.test_fullgraph(make, "contiguous")


@pytest.mark.parametrize("name", FORMULAS)
def test_modules_copy_pickle_and_print(name: str) -> None:
    test_modules.test_modules_copy_pickle_and_print(ACTIVATIONS[name].module)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@KERNELS
def test_mish_is_mish(backend: str, dtype: torch.dtype) -> None:
    """Value and derivative are within the budgets of the formula's row, of the oracle of the built-in row."""
    row = ACTIVATIONS["own_mish"]
    x = torch.linspace(-80, 80, 4001).to(dtype)
    z = x.double().clone().requires_grad_()
    oracle = activations.function("mish")(z)
    slope, = torch.autograd.grad(oracle.sum(), z, create_graph=True)
    bend, = torch.autograd.grad(slope.sum(), z)
    oracle, slope = oracle.detach(), slope.detach()
    leaf = x.clone().requires_grad_()
    y = fl.functional.own_mish(leaf)
    y.backward(torch.ones_like(y))
    assert worst_share(y.detach(), oracle, allowed_error(oracle, x, slope, row.ulp)) <= 1
    assert worst_share(leaf.grad, slope, allowed_error(slope, x, bend, row.derivative_ulp, row.derivative_absolute)) <= 1


def test_every_way_in() -> None:
    """By name, by module, as a function; with constants and parameters by position and by keyword."""
    x, bias = torch.randn(6, 4), torch.randn(4)
    mish = torch.nn.Mish()
    torch.testing.assert_close(fl.functional.bias_activation(x, bias, "own_mish"), mish(x + bias))
    torch.testing.assert_close(fl.nn.BatchNorm1d(4, activation="own_mish")(x), mish(torch.nn.BatchNorm1d(4)(x)))
    layer = fl.nn.OwnTwo(0.5, num_parameters=4, a=2.0)
    want = torch.maximum(2 * x, 0.25 * x) + 0.5 * torch.sin(x)
    torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(fl.functional.own_two(x, torch.full((4,), 2.0), torch.full((4,), 0.25), c=0.5), want)
    torch.testing.assert_close(fl.functional.own_two(x, torch.tensor([2.0]), torch.tensor([0.25]), 0.5), want)
    assert list(layer.state_dict()) == ["a", "b"]
    dropped = fl.functional.own_mish(x, dropout=0.5, seed=3)
    torch.testing.assert_close(dropped, mish(x) * fl.functional.dropout(torch.ones_like(x), 0.5, True, seed=3))


def test_the_reference_steps_in_for_kernels_that_were_compiled_before() -> None:
    if not fl.backends()["cpp"].startswith("available"):
        pytest.skip(fl.backends()["cpp"])
    x = torch.randn(10, requires_grad=True)
    for name in ("auto", "cpp"):
        with fl.backend(name):
            assert select(x).__name__ == "fastlayers._C"
            assert select(x, "own_mish").__name__ == "fastlayers.reference"
            assert select(x, "silu").__name__ == "fastlayers._C"
            fl.nn.OwnMish()(x).sum().backward()
    assert fl.backends("own_mish")["cpp"] == (
        "not available: cpp has no kernel of 'own_mish', which was registered as a formula; triton and reference compute it")
    assert fl.backends("own_mish")["reference"] == "available on every device"
    assert fl.backends("silu") == fl.backends()
    with pytest.raises(ValueError, match=r"backends: activation must be one of identity, .*, own_gate, got 'nope'"):
        fl.backends("nope")


@pytest.mark.parametrize(("formula", "kinks"), [
    ("abs(x)", [(0, 1)]), ("abs(3 - x)", [(3, 1)]), ("abs(x**2 - 4)", [(-2, 4), (2, 4)]), ("max(x, 0)", [(0, 1)]), ("min(x, 0)", [(0, 0)]),
    ("x * sign(x)", [(0, 1)]), ("max(-1, min(x, 1))", [(-1, 1), (1, 0)]), ("x if x > 0 else 2*x", [(0, 1)]),
    ("x if x >= 0 else 2*x", [(0, 1)]), ("x if x < 0 else 2*x", [(0, 2)]), ("2*x if not 0 <= x else x", [(0, 1)]),
    ("x if -x > 0 else 2*x", [(0, 2)]), ("where(x > 0 and x < 1, x, x**2)", [(0, 1), (1, 2)]), ("x**2 if x > 0 else -x**2", []),
    ("max(x, 2*x, 3*x)", [(0, 3)]), ("Heaviside(x) * x", [(0, 1)]), ("abs(sin(x))", []),
])
def test_at_a_kink_the_derivative_is_the_right_one(formula: str, kinks: list[tuple[float, float]]) -> None:
    """Kinks where polynomials say so; the derivative there is the difference quotient to the right, also where no kink is listed."""
    fl.register_activation("bent", formula)
    try:
        assert list(ACTIVATIONS["bent"].kinks) == kinks
        x = torch.tensor([kink for kink, _ in kinks] + [0.0, 1.0], dtype=torch.float64)
        f, derivative = activations.function("bent"), activations.function("bent", "derivative")
        torch.testing.assert_close(derivative(x)[0], (f(x + 1e-7) - f(x)) / 1e-7, rtol=1e-5, atol=1e-5)
    finally:
        fl.unregister_activation("bent")


def test_a_maximum_of_many() -> None:
    """Tangents of x**2 / 2, the right one at each kink; conditions of numbers alone count too."""
    formula = f"max({', '.join(f'{k}*x - {k * k}/2' for k in range(-8, 9))}) if sin(1)**2 + cos(1)**2 < 2 else 3*x"
    kind = fl.register_activation("own_tangents", formula)
    try:
        x = torch.arange(-10, 10.5, 0.5, dtype=torch.float64, requires_grad=True)
        y = kind()(x)
        slope, = torch.autograd.grad(y.sum(), x)
    finally:
        fl.unregister_activation("own_tangents")
    nearest = (x.detach() + 0.5).floor().clamp(-8, 8)
    assert torch.equal(slope, nearest)
    torch.testing.assert_close(y, nearest * x - nearest.square() / 2)


def test_the_default_device_is_none_of_a_formula() -> None:
    """A layer may be registered where it is first made, and that may be without memory."""
    with torch.device("meta"):
        fl.register_activation("bent", "max(x, 0)")
    try:
        assert list(ACTIVATIONS["bent"].kinks) == [(0, 1)]
    finally:
        fl.unregister_activation("bent")


def test_a_single_point_has_the_derivative_of_its_branch() -> None:
    fl.register_activation("own_sinc", "1 if x == 0 else sin(x) / x")
    try:
        x = torch.tensor([0.0, 1e-3, 2.0], dtype=torch.float64)
        torch.testing.assert_close(activations.function("own_sinc")(x), activations.function("sinc")(x))
        for got, want in zip(*(activations.function(name, "derivative")(x) for name in ("own_sinc", "sinc")), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)
    finally:
        fl.unregister_activation("own_sinc")


@KERNELS
@pytest.mark.parametrize(("formula", "function"), [
    ("max(x, 0)**a", lambda x, a: x.relu()**a), ("abs(x)**a", lambda x, a: x.abs()**a),
    ("sqrt(relu(x - a))", lambda x, a: (x - a).relu().sqrt()), ("relu(x) * relu(x)**a", lambda x, a: x.relu() * x.relu()**a),
])
def test_no_gradient_is_nan_where_a_factor_of_it_is_0(backend: str, formula: str, function) -> None:
    """u^a / u and log(u) u^a at u = 0, and a flat branch's 0 times whatever: the gradients are PyTorch's."""
    layer = fl.register_activation("steep", formula, parameters={"a": 1.25})()
    try:
        x = torch.tensor([-1.5, 0.0, -0.0, 1.5], requires_grad=True)
        got = torch.autograd.grad(layer(x).sum(), (x, layer.a))
        torch.testing.assert_close(got, torch.autograd.grad(function(x, layer.a).sum(), (x, layer.a)), rtol=1e-5, atol=1e-6)
    finally:
        fl.unregister_activation("steep")


@pytest.mark.parametrize(("formula", "rewritten"), [
    ("log(1 + exp(2*x))", "softplus(2*x)"), ("log(exp(x) + 1) / 3", "softplus(x)/3"), ("log(1 + x**2)", "log1p(x**2)"),
    ("2*exp(x) - 2", "2*expm1(x)"), ("x * (exp(-x) - 1)", "x*expm1(-x)"), ("1 / (1 + exp(-x))", "sigmoid(x)"),
    ("exp(x) / (1 + exp(x))", "sigmoid(x)"), ("x / (1 + exp(x))**2", "x*sigmoid(-x)**2"), ("(exp(x) - 1) / (exp(x) + 1)", "tanh(x/2)"),
    ("(exp(x) - exp(-x)) / (exp(x) + exp(-x))", "tanh(x)"), ("(exp(x) - exp(-x)) / 2", "sinh(x)"),
    ("exp(x) - x", "-x + exp(x)"), ("exp(x) + 1", "exp(x) + 1"),
])
def test_formulas_are_rewritten_to_what_neither_overflows_nor_cancels(formula: str, rewritten: str) -> None:
    x = sympy.Symbol("x", real=True)
    plain = grammar.parse(formula, {"x": x})
    stable = functions.stable(plain)
    assert str(stable) == rewritten
    for value in (-1.5, 0.25, 2.0):
        assert abs(float(stable.subs(x, value)) - float(plain.subs(x, value))) < 1e-12
    slope = calculus.derivative(stable, x, x)
    for value in (-1.5, 0.25, 2.0):
        assert abs(float(slope.subs(x, value)) - float(plain.diff(x).subs(x, value))) < 1e-12


@KERNELS
def test_no_overflow_where_the_written_formula_has_one(backend: str) -> None:
    x = torch.tensor([-1e4, -200.0, -90.0, 90.0, 200.0, 1e4], requires_grad=True)
    for name in ("own_mish", "own_gate"):
        y = of(name)()(x)
        grad, = torch.autograd.grad(y.sum(), x)
        assert y.isfinite().all()
        assert grad.isfinite().all()


@KERNELS
def test_a_name_given_up_and_taken_again_computes_the_new_formula(backend: str) -> None:
    """No cache of kernels or of source takes the one for the other."""
    x = torch.linspace(-2, 2, 65)
    for formula, want in (("x * 2", x * 2), ("x * 3", x * 3)):
        fl.register_activation("changing", formula)
        try:
            torch.testing.assert_close(fl.functional.changing(x), want)
        finally:
            fl.unregister_activation("changing")
    with pytest.raises(AttributeError):
        _ = fl.functional.changing
    with pytest.raises(AttributeError):
        _ = fl.nn.Changing
    assert "changing" not in ACTIVATIONS
    assert "changing" not in generated.REGISTERED


def test_the_same_definition_again_changes_nothing() -> None:
    formula, parameters, constants = FORMULAS["own_two"]
    assert fl.register_activation("own_two", formula, parameters=parameters, constants=constants) is fl.nn.OwnTwo


EVERYTHING = (
    "sin(x) + cos(x)*atan(3*x) + tan(x/9) + sinh(x/4) - cosh(x/4) + asinh(x) + erf(x)*erfc(x) + log1p(x**2) + expm1(-x*x) "
    "+ sigmoid(x) + softplus(x)*sign(x) + Heaviside(x - 1) + relu(x) + min(x, 1, a*x) + (x**2 + 1)**0.3 + sqrt(1 + x**2)**3 "
    "+ (x*x + 0.1)**(-2) + log(x**2 + 2) + exp(-abs(x)) + tanh(x)")


@pytest.fixture
def everything():
    """A module of EVERYTHING, all functions of formulas."""
    yield fl.register_activation("all_of_them", EVERYTHING, parameters={"a": 0.5})()
    fl.unregister_activation("all_of_them")


def test_all_functions_of_formulas(everything: torch.nn.Module) -> None:
    """Compiled Triton beside the reference, value and both gradients."""
    results = []
    for name in ("reference", "triton"):
        x = torch.linspace(-7, 7, 129, requires_grad=True)
        with running_on(name):
            y = everything(x)
            results.append((y, *torch.autograd.grad(y.sum(), (x, everything.a))))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("target", ["sm_100", "gfx942", "gfx1100"])
def test_all_functions_compile_for_other_gpus(everything: torch.nn.Module, target: str) -> None:
    """AMD's library of functions is another one."""
    compiled = pytest.importorskip("compiled", reason="needs the emulator: pip install -e tools/ptxsim")
    x = torch.randn(64, 8)
    with compiled.compiling(compiled.TARGETS[target]) as launches:
        from fastlayers import kernels

        arguments = (x, None, None, None, None, torch.rand(1, 1), None, "all_of_them", (), 0.0, 1)
        kernels.epilogue_forward(*arguments)
        kernels.epilogue_backward(x, *arguments, False, (True, False, False, False, True))
    assert [launch.kernel for launch in launches][:2] == ["epilogue_forward_contiguous", "epilogue_backward_contiguous"]


def test_in_tritons_interpreter() -> None:
    """All functions of formulas, whose libdevice the interpreter has not, against the reference; float32 and float64."""
    done = subprocess.run([sys.executable, "-c", f"""
import torch, fastlayers as fl
layer = fl.register_activation("all_of_them", {EVERYTHING!r}, parameters={{"a": 0.5}})()
for dtype, tolerance in ((torch.float32, 4e-6), (torch.float64, 1e-13)):
    results = []
    for name in ("reference", "triton"):
        x = torch.linspace(-7, 7, 129, dtype=dtype, requires_grad=True)
        with fl.backend(name):
            y = layer.to(dtype)(x)
            results.append((y, *torch.autograd.grad(y.sum(), (x, layer.a))))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
"""], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def refuse(name="refused", formula="x", **keywords):
    return lambda: fl.register_activation(name, formula, **keywords)


START = "register_activation: "
REFUSED = [
    (refuse("silu"), "name must not be taken, got 'silu', which is an activation"),
    (refuse("own_mish", "x"), "name must not be taken, got 'own_mish', which is an activation"),
    (refuse("batch_norm"), "name must not be taken, got 'batch_norm', which is fastlayers.functional.batch_norm"),
    (refuse("linear"), "name must not be taken, got 'linear', which is the class torch.nn.Linear"),
    (refuse("drop out"), "name must be a Python identifier, no keyword and without a leading underscore, got 'drop out'"),
    (refuse("lambda"), "name must be a Python identifier, no keyword and without a leading underscore, got 'lambda'"),
    (refuse("_own"), "name must be a Python identifier, no keyword and without a leading underscore, got '_own'"),
    (refuse(formula="x +"), "formula must read like a Python expression, got 'x +': "),
    (refuse(formula=""), "formula must read like a Python expression, got '': "),
    (refuse(formula="x\0"), "formula must read like a Python expression, got 'x\\x00': "),
    (refuse(formula="x; x"), "formula must read like a Python expression, got 'x; x': "),
    (refuse(formula="x * y"), "formula must use no names but x, pi, e, E and those of functions, got 'y'"),
    (refuse(formula="gamma(x)"), "formula must use no functions but abs, Abs, arctan, "),
    (refuse(formula="x^2"), "formula must write a power as **, got 'x ^ 2'"),
    (refuse(formula="x // 2"), "formula must be made of numbers, names, + - * / **, a if b else c and known functions, got 'x // 2'"),
    (refuse(formula="floor(x)"), "formula must be differentiable, got 'floor(x)', which is a staircase"),
    (refuse(formula="2 * pi"), "formula must depend on x, got '2 * pi'"),
    (refuse(formula="x - x"), "formula must depend on x, got 'x - x'"),
    (refuse(formula="x", parameters={"beta": 1.0}), "formula must depend on beta, got 'x'"),
    (refuse(formula="x", constants={"c": 1.0}), "formula must depend on c, got 'x'"),
    (refuse(formula="x + 1/0"), "formula must be real and finite, got '1 / 0'"),
    (refuse(formula="x * log(-1)"), "formula must be real and finite, got 'log(-1)'"),
    (refuse(formula="x * (-1)**0.5"), "formula must be real and finite, got '(-1) ** 0.5'"),
    (refuse(formula="x * 1e999"), "formula must be real and finite, got '1e309'"),
    (refuse(formula="x * 1e300 * 1e300"), "formula must be real and finite, got 1.00e+600"),
    (refuse(formula="1e308 * x**64"), "formula must be real and finite, got 6.40e+309"),
    (refuse(formula="x ** 65"), "formula must have no exponents beyond 64, got 'x ** 65'"),
    (refuse(formula="exp(exp(exp(100))) * x"), "formula must be real and finite, got 'exp(exp(100))'"),
    (refuse(formula="0**x"), "formula must be differentiable in x, got 0**x, whose derivative is "),
    (refuse(formula="exp(x, 2)"), "formula must give exp one argument, got 'exp(x, 2)'"),
    (refuse(formula="exp(u=x)"), "formula must be made of numbers"),
    (refuse(formula="Piecewise((x, x > 0))"), "formula must give Piecewise pairs (value, condition), the last condition True, got "),
    (refuse(formula="x if x else 0"), "formula must have comparisons for conditions, got 'x'"),
    (refuse(formula="(x > 0) * x"), "formula must be made of numbers"),
    (refuse(formula="True * x"), "formula must be made of numbers"),
    (refuse(formula="x" + " + x" * 600), "formula must have at most 2000 characters, got 2401"),
    (refuse(formula="-" * 1900 + "x"), "formula must be nested less deeply, got "),
    (refuse(formula="exp(" * 150 + "x" + ")" * 150), "formula must be nested less deeply, got "),
    (refuse(formula="abs(1 - " * 12 + "x" + ")" * 12), "formula must have fewer choices within one another, got "),
    (refuse(formula="x * a", parameters={"a b": 1.0}), "parameters must be a Python identifier"),
    (refuse(formula="x * exp", parameters={"exp": 1.0}), "parameters must not be taken, got 'exp', which is part of formulas"),
    (refuse(formula="x", parameters={"x": 1.0}), "parameters must not be taken, got 'x', which is part of formulas"),
    (refuse(formula="x * train", parameters={"train": 1.0}), "parameters must not be taken, got 'train', which is what modules call "),
    (refuse(formula="x * self", parameters={"self": 1.0}), "parameters must not be taken, got 'self', which is what modules call "),
    (refuse(formula="x * seed", constants={"seed": 1.0}), "constants must not be taken, got 'seed', which is what modules call "),
    (refuse(formula="x * a", parameters={"a": 1.0}, constants={"a": 1.0}), "constants must not be taken, got 'a', which is a parameter"),
    (refuse(formula="x * a", parameters={"a": float("nan")}), "a must be finite, got nan"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refusal(call, message: str) -> None:
    before = list(ACTIVATIONS)
    start = time.perf_counter()
    with pytest.raises(ValueError, match="^" + re.escape(START + message)):
        call()
    assert time.perf_counter() - start < 20
    assert list(ACTIVATIONS) == before
    assert "refused" not in generated.REGISTERED


@pytest.mark.parametrize("formula", [
    "__import__('os').getpid() * x", "x.real", "(lambda: x)()", "[x for _ in (1,)][0]", "x.__class__(1)", "eval('x')", "exp.__globals__",
    "f'{x}'", "(x := 1)", "x @ x", "'x' * x", "abs(*[x])", "9**9**9**9 * x", "where(x > 0, x, print(x))",
])
def test_nothing_is_evaluated(formula: str) -> None:
    with pytest.raises(ValueError, match=r"^register_activation: formula must "):
        fl.register_activation("refused", formula)


def test_types_are_checked() -> None:
    for arguments, message in (
        ((3, "x"), "name must be a str, got int"), (("refused", sympy.Symbol("x")), "formula must be a str, got Symbol"),
    ):
        with pytest.raises(TypeError, match=START + message):
            fl.register_activation(*arguments)
    with pytest.raises(TypeError, match=START + "a must be a number, got str"):
        fl.register_activation("refused", "a * x", parameters={"a": "1"})
    with pytest.raises(TypeError, match=START + "parameters must be a dict of names and numbers, got list"):
        fl.register_activation("refused", "a * x", parameters=["a"])
    with pytest.raises(ValueError, match="unregister_activation: name must be one of own_mish, own_pieces, own_two, own_gate, got 'silu'"):
        fl.unregister_activation("silu")


def test_nothing_to_unregister(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlayers.formulas.register._definitions", {})
    with pytest.raises(ValueError, match="name must be one of those registered, of which there are none, got 'silu'"):
        fl.unregister_activation("silu")


def test_without_sympy_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(ImportError, match=r"^register_activation: sympy must be installed, got none: pip install fastlayers\[symbolic\]$"):
        fl.register_activation("refused", "x * 2")
