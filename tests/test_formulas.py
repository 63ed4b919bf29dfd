"""Activations registered from formulas: refused with a reason, or held to the same tests as those that are built in."""
from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

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
from tolerances import close

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
    """The formulas, for the tests of this file, and of test_formulas_refused.py."""
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
            close(got, want)
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
        found = (torch.autograd.grad(f(x, layer.a).sum(), (x, layer.a)) for f in (lambda x, _: layer(x), function))
        for got, want in zip(*found, strict=True):
            close(got, want)
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
        close(got, want)


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


def test_pickles_carry_the_formula(tmp_path) -> None:
    """Another process registers what it loads, and refuses it where the name stands for something else; here nothing changes."""
    model = torch.nn.Sequential(of("own_two")(0.3, num_parameters=4), fl.nn.BatchNorm1d(4, activation="own_pieces"), of("own_mish")())
    model.eval()
    x, path = torch.randn(5, 4), tmp_path / "model.pt"
    torch.save((model, of("own_gate"), x, model(x)), path)
    loaded, kind, *_ = torch.load(path, weights_only=False)
    assert [type(layer) for layer in (*loaded, *copy.deepcopy(model))] == [type(layer) for layer in model] * 2
    assert kind is of("own_gate")
    Own = type("Own", (kind,), {"__module__": __name__})
    with pytest.raises(pickle.PicklingError, match="Own"):  # by its name, which this one has not
        pickle.dumps(Own())
    load = f"""
import torch, fastlayers as fl
model, kind, x, y = torch.load({str(path)!r}, weights_only=False)
torch.testing.assert_close(model(x), y)
assert kind is fl.nn.OwnGate and kind().beta.item() == 1.5 and fl.nn.OwnTwo().c == 0.1
"""
    other = "import fastlayers as fl; fl.register_activation('own_two', 'x * x')"
    for before in ("", other):
        done = subprocess.run([sys.executable, "-c", f"{before}\n{load}"], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is (before == ""), done.stderr
    assert "register_activation: a pickled 'own_two' must be the formula that is registered here, ('x * x', (), ()), got (" in done.stderr


def test_exported_programs_want_the_formula(tmp_path) -> None:
    """Another process that has not registered it is told so, and computes the same once it has."""
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return fl.functional.bias_activation(x, x[0], "own_pieces")

    x, path = torch.randn(5, 4), tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Model(), (x,)), path)
    torch.save((x, Model()(x)), tmp_path / "values.pt")
    run = f"""
import torch, fastlayers as fl
x, y = torch.load({str(tmp_path / "values.pt")!r})
model = torch.export.load({str(path)!r}).module()
try: model(x)
except ValueError as refusal: print(refusal)
fl.register_activation("own_pieces", {FORMULAS["own_pieces"][0]!r})
torch.testing.assert_close(model(x), y)
"""
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "register_activation: an exported program's activation must be registered before it runs, got 'own_pieces'\n"


def test_in_tritons_interpreter() -> None:
    """All functions of formulas, whose libdevice the interpreter has not, against the reference; float32 and float64."""
    done = subprocess.run([sys.executable, "-c", f"""
import torch, fastlayers as fl
from tolerances import close
layer = fl.register_activation("all_of_them", {EVERYTHING!r}, parameters={{"a": 0.5}})()
for dtype in (torch.float32, torch.float64):
    results = []
    for name in ("reference", "triton"):
        x = torch.linspace(-7, 7, 129, dtype=dtype, requires_grad=True)
        with fl.backend(name):
            y = layer.to(dtype)(x)
            results.append((y, *torch.autograd.grad(y.sum(), (x, layer.a))))
    for got, want in zip(*results):
        close(got, want)
"""], env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
