"""A new activation is four edits: a row, a torch function, a C++ functor, a Triton pair. These tests name any cell that is missing."""
from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from cases import ELSEWHERE, HALF_ELSEWHERE
from cpu_results import OTHER_ARGUMENTS
from optimizer_cases import PAPERS, STEPS
from tolerances import close

import fastlayers as fl
from fastlayers.reference import activations
from fastlayers.specs import ACTIVATIONS, UPDATE_RULES, Activation

ROOT = Path(__file__).parents[1]
ROWS = list(ACTIVATIONS.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_activation_has_every_cell(row) -> None:
    kinds = ["", "derivative"] + (["derivative_from_output"] if row.from_output != "never" else [])
    for kind in [*kinds, *(["inverse"] if row.invertible != "never" else [])]:
        assert callable(activations.function(row.name, kind))  # which says what is lacking
    header = (ROOT / "csrc/common/activations.h").read_text()
    assert re.search(rf"X\({row.name}\)", header), f"FL_ACTIVATIONS in csrc/common/activations.h lacks {row.name}"
    source = "".join(path.read_text() for path in (ROOT / "kernels").glob("activations_*.py"))
    for kind in kinds:
        name = f"{row.name}_{kind}" if kind else row.name
        assert re.search(rf"^(def {name}\(|{name} = )", source, re.M), f"kernels/activations_*.py lack {name}"
    if row.invertible != "never":
        assert f"def {row.name}_inverse(" in (ROOT / "kernels/inverses.py").read_text(), f"kernels/inverses.py lacks {row.name}_inverse"
    assert hasattr(fl.nn, row.module), f"fastlayers.nn lacks {row.module}"
    assert all((row.formula, row.derivative, row.source))


def test_every_functor_has_a_row() -> None:
    """FL_ACTIVATIONS names nothing that specs.py does not."""
    header = (ROOT / "csrc/common/activations.h").read_text()
    listed = re.search(r"#define FL_ACTIVATIONS\(X\)((?:.*\\\n)*.*)\n", header)[1]
    named = re.findall(r"X\((\w+)\)", listed)
    assert not {*named} - {*ACTIVATIONS}, f"specs.py lacks {', '.join({*named} - {*ACTIVATIONS})}"
    assert len(named) == len({*named}), "FL_ACTIVATIONS names one twice"


def test_a_triton_function_that_is_missing_is_named() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from fastlayers.kernels.activations import function

    with pytest.raises(AttributeError, match=r"kernels/activations_\*\.py lack tanhh_derivative"):
        function("tanhh", "derivative", True)


@pytest.mark.parametrize("row", [row for row in ROWS if row.constants or row.learnables], ids=lambda row: row.name)
def test_every_argument_is_tested_at_other_values(row) -> None:
    """At the defaults alone, what a kernel makes of an argument would not show."""
    others = OTHER_ARGUMENTS.get(row.name, [])
    assert others, f"OTHER_ARGUMENTS in tests/cpu_results.py lacks {row.name}"
    for k, constant in enumerate(row.constants):
        assert any(constants[k] != constant.default for _, constants in others), f"OTHER_ARGUMENTS has no other {constant.name}"
    assert not row.learnables or row.name in {*ELSEWHERE, *dict(HALF_ELSEWHERE)}, f"ELSEWHERE in tests/cases.py lacks {row.name}"


def test_backward_may_keep_y_from_the_bound_on() -> None:
    assert [ACTIVATIONS["leaky_relu"].derives_from_output((slope,)) for slope in (-0.1, 0.0, 0.1)] == [False, True, True]


@pytest.mark.parametrize(("name", "constants", "inverts"), [
    ("leaky_relu", (0.01,), True), ("leaky_relu", (2.0**-15,), False), ("leaky_relu", (-0.5,), False),
    ("softplus", (1.0, 20.0), True), ("softplus", (1.0, 10.0), False), ("softplus", (0.0, 20.0), False), ("softplus", (-1.0, 20.0), False)])
def test_x_follows_from_y_where_every_condition_holds(name: str, constants: tuple[float, ...], inverts: bool) -> None:
    """And no slope is so small that float16 would lose y."""
    assert ACTIVATIONS[name].inverts(constants) == inverts


@pytest.mark.parametrize("fact", ["from_output", "invertible"])
def test_a_condition_names_an_argument(fact: str) -> None:
    with pytest.raises(ValueError, match=f"^mine: {fact} names no constant"):
        Activation("mine", "Mine", "f(x) = x", "f'(x) = 1", "-", **{fact: "slope >= 0"})


def test_hinges_start_evenly_spaced() -> None:
    assert [fl.nn.APL(num_hinges=count).b.flatten().tolist() for count in (1, 2, 3)] == [[0.0], [-1.0, 1.0], [-1.0, 0.0, 1.0]]


@pytest.mark.parametrize("row", list(UPDATE_RULES.values()), ids=lambda row: row.name)
def test_every_update_rule_has_every_cell(row) -> None:
    name = row.name
    for file, wanted in (("fastlayers/reference/optimizers.py", [rf"def {name}\("]), ("csrc/common/update_rules.h", [rf"  RULE\({name}, "]),
                         ("kernels/optimizers.py", [rf"def {name}\(", rf"def {name}_numbers\("])):
        for pattern in wanted:
            assert re.search(f"^{pattern}", (ROOT / file).read_text(), re.M), f"{file} lacks {pattern}"
    assert hasattr(fl.optim, row.optimizer), f"fastlayers.optim lacks {row.optimizer}"
    assert issubclass(getattr(fl.optim, row.optimizer), getattr(torch.optim, row.optimizer, torch.optim.Optimizer))
    assert getattr(fl.optim, row.optimizer).row is row
    assert row.optimizer in fl.optim.__all__, f"fastlayers/optim/__init__.py does not export {row.optimizer}"
    assert any(step.rule == row.name for step in STEPS), f"STEPS in tests/optimizer_cases.py lacks {row.name}"
    assert row.optimizer in PAPERS or hasattr(torch.optim, row.optimizer), f"PAPERS in tests/optimizer_cases.py lacks {row.optimizer}"
    described = re.search(rf"^\| `{row.optimizer}` \|.*", (ROOT / "docs/optimizers.md").read_text(), re.M)
    assert described, f"docs/optimizers.md lacks {row.optimizer}"
    for fact in (row.formula, row.source):
        assert fact.replace("|", r"\|") in described[0], f"docs/optimizers.md has another {row.optimizer} than: {fact}"


def arguments_of(row, repeats: int | None = None) -> list:
    """Start values and default constants in float64, and a number for what a random row draws."""
    learnable = [torch.tensor(value, dtype=torch.float64) for value in row.start(repeats)]
    return [*learnable, *[float(c.default) for c in row.constants], *([0.3] if row.random else [])]


def moved_arguments(row) -> list:
    """Arguments away from their start, where every learnable parameter matters."""
    given = arguments_of(row, 3 if row.repeats else None)
    return [value + 0.1 + 0.07 * k if isinstance(value, torch.Tensor) else value for k, value in enumerate(given)]


def away_from_kinks(row, x: torch.Tensor, arguments: list) -> torch.Tensor:
    away = torch.ones_like(x, dtype=torch.bool)
    for kink in row.kinks_with([value for value in arguments if isinstance(value, torch.Tensor)]):
        away &= (x - kink).abs() > 1e-9
    return away


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("arguments", [arguments_of, moved_arguments], ids=["start", "moved"])
def test_reference_derivative_is_that_of_the_reference_function(row, arguments) -> None:
    """autograd through the function, away from kinks, for x and every learnable parameter."""
    x = torch.linspace(-6, 6, 999, dtype=torch.float64)
    given = arguments(row)
    learnable = [value.expand(999).clone().requires_grad_() for value in given if isinstance(value, torch.Tensor)]
    leaf = x.clone().requires_grad_()
    y = activations.function(row.name)(leaf, *learnable, *given[len(learnable):])
    want = torch.autograd.grad(y.sum(), [leaf, *learnable], materialize_grads=True, allow_unused=True)
    got = activations.function(row.name, "derivative")(x, *given)
    away = away_from_kinks(row, x, given)
    if row.name == "soft_exponential" and arguments is arguments_of:  # at alpha = 0 autograd sees no alpha: test_limits_of_parameters
        want = want[:1]
    assert len(got) >= len(want) >= 1
    for one, other in zip(got, want, strict=False):
        close(one.expand(999)[away], other[away])
    if row.from_output != "never":
        from_output = activations.function(row.name, "derivative_from_output")(y.detach(), *given)[0]
        close(from_output[away], got[0][away])


@pytest.mark.parametrize(("row", "kink", "slope"), [
    pytest.param(row, *kink, id=f"{row.name} at {kink[0]:g}") for row in ROWS for kink in row.kinks if kink[1] is not None])
def test_stated_derivative_at_kinks(row, kink: float, slope: float) -> None:
    """As torch has it where torch has the function, else from the right."""
    at = torch.tensor([kink], dtype=torch.float64)
    given = arguments_of(row)
    assert activations.function(row.name, "derivative")(at, *given)[0].item() == slope
    if hasattr(torch.nn, row.module):
        leaf = at.clone().requires_grad_()
        constants = {constant.name: constant.default for constant in row.constants}
        getattr(torch.nn, row.module)(**constants).double()(leaf).backward()
        assert leaf.grad.item() == slope
    else:
        right = activations.function(row.name, "derivative")(at + 1e-9, *given)[0].item()
        assert right == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("alpha", [1e-9, -1e-9])
def test_limits_of_parameters(alpha: float) -> None:
    """soft_exponential and snake at alpha = 0 are the limits from both sides: they can be trained from there."""
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    for name in ("soft_exponential", "snake"):
        near = activations.function(name, "derivative")(x, torch.tensor(alpha, dtype=torch.float64))
        for one, other in zip(activations.function(name, "derivative")(x, torch.zeros((), dtype=torch.float64)), near, strict=True):
            torch.testing.assert_close(one, other, rtol=100 * abs(alpha), atol=100 * abs(alpha))
    slope = activations.function("soft_exponential", "derivative")(x, torch.zeros((), dtype=torch.float64))[1]
    torch.testing.assert_close(slope, x * x / 2 + 1)


@pytest.mark.parametrize("row", [row for row in ROWS if row.invertible != "never"], ids=lambda row: row.name)
def test_the_inverse_undoes_the_function(row) -> None:
    """As far as rounding y allows, and finite wherever y is, in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        x = torch.cat([torch.linspace(-8, 8, 999), torch.tensor([-1e4, 1e4, 0.0])]).to(dtype)
        arguments = [value.to(dtype) if isinstance(value, torch.Tensor) else value for value in arguments_of(row)]
        y = activations.function(row.name)(x, *arguments)
        back = activations.function(row.name, "inverse")(y, *arguments)
        assert back.isfinite().all()
        slope = activations.function(row.name, "derivative")(x, *arguments)[0]
        info = torch.finfo(dtype)
        lost = (4 * info.eps * y.abs() + info.tiny) / slope.clamp(min=info.tiny) + 4 * info.eps * x.abs()
        sharp = lost < 0.1
        assert sharp[250:750].all()
        assert ((back - x).abs() <= lost + info.tiny)[sharp].all()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_limits_at_infinity(row) -> None:
    """f and f' at inf and -inf are limits, never NaN where there is one; f(NaN) is NaN."""
    values = torch.tensor([math.inf, -math.inf, math.nan, 1e300, -1e300], dtype=torch.float64)
    y = activations.function(row.name)(values, *arguments_of(row))
    assert y[2].isnan()
    assert not y[3:].isnan().any()
    slope = activations.function(row.name, "derivative")(values, *arguments_of(row))[0].expand(5)
    assert not slope[3:].isnan().any()
    for result, sines in ((y, ("sinusoid",)), (slope, ("sinusoid", "snake"))):  # which have no limit
        assert result[:2].isnan().all() if row.name in sines else not result[:2].isnan().any()


def test_soft_exponential_outside_its_domain() -> None:
    """NaN, as the logarithm gives."""
    alpha = torch.tensor(-1.0, dtype=torch.float64)
    y = activations.function("soft_exponential")(torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64), alpha)
    assert y.isnan().tolist() == [True, False, False]
    assert y[1].item() == -math.inf


def test_a_row_is_refused_when_its_name_stands_twice() -> None:
    from fastlayers.specs import _by_name

    with pytest.raises(ValueError, match="a name stands twice"):
        _by_name((ROWS[0], ROWS[0]))
