"""A new activation is four edits: a row, a torch function, a C++ functor, a Triton pair. These tests name any cell that is missing."""
from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

import fastlayers as fl
from fastlayers.reference import activations
from fastlayers.specs import ACTIVATIONS, UPDATE_RULES

ROOT = Path(__file__).parents[1]
ROWS = list(ACTIVATIONS.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_activation_has_every_cell(row) -> None:
    kinds = ["", "derivative"] + (["derivative_from_output"] if row.from_output != "never" else [])
    kinds += ["inverse"] if row.invertible != "never" else []
    for kind in kinds:
        assert callable(activations.function(row.name, kind)), f"fastlayers/reference/activations.py lacks {row.name} {kind}"
    header = (ROOT / "csrc/common/activations.h").read_text()
    assert re.search(rf"\b{row.name}\b", header), f"csrc/common/activations.h lacks {row.name}"
    source = (ROOT / "kernels/activations.py").read_text()
    for kind in kinds:
        name = f"{row.name}_{kind}" if kind else row.name
        assert re.search(rf"^(def {name}\(|{name} = )", source, re.M), f"kernels/activations.py lacks {name}"
    assert hasattr(fl.nn, row.module), f"fastlayers.nn lacks {row.module}"
    assert all((row.formula, row.derivative, row.source))


@pytest.mark.parametrize("row", list(UPDATE_RULES.values()), ids=lambda row: row.name)
def test_every_update_rule_has_every_cell(row) -> None:
    for file in ("fastlayers/reference/optimizers.py", "csrc/common/update_rules.h", "kernels/optimizers.py"):
        assert re.search(rf"\b{row.name}\b", (ROOT / file).read_text()), f"{file} lacks {row.name}"
    assert hasattr(fl.optim, row.optimizer), f"fastlayers.optim lacks {row.optimizer}"
    assert issubclass(getattr(fl.optim, row.optimizer), getattr(torch.optim, row.optimizer))


def arguments_of(row):
    """Default arguments in float64."""
    return [*[torch.tensor(p.init, dtype=torch.float64) for p in row.learnables], *[c.default for c in row.constants]]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_reference_derivative_is_that_of_the_reference_function(row) -> None:
    """autograd through the function, away from kinks; and the derivative stated at each kink."""
    x = torch.linspace(-6, 6, 999, dtype=torch.float64, requires_grad=True)
    y = activations.function(row.name)(x, *arguments_of(row))
    want, = torch.autograd.grad(y.sum(), x)
    got = activations.function(row.name, "derivative")(x.detach(), *arguments_of(row))[0]
    away = torch.ones_like(x, dtype=torch.bool)
    for kink, _ in row.kinks:
        away &= (x.detach() - kink).abs() > 1e-9
    torch.testing.assert_close(got[away], want[away], rtol=1e-12, atol=1e-14)
    for kink, slope in row.kinks:
        at = activations.function(row.name, "derivative")(torch.tensor([kink], dtype=torch.float64), *arguments_of(row))[0]
        assert at.item() == slope
    if row.from_output != "never":
        from_output = activations.function(row.name, "derivative_from_output")(y.detach(), *arguments_of(row))[0]
        torch.testing.assert_close(from_output[away], got[away], rtol=1e-9, atol=1e-12)


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
        lost = torch.finfo(dtype).eps * (4 * y.abs() / slope.clamp(min=torch.finfo(dtype).tiny) + 4 * x.abs())
        sharp = lost < 0.1
        assert sharp[250:750].all()
        assert ((back - x).abs() <= lost + torch.finfo(dtype).tiny)[sharp].all()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_limits_at_infinity(row) -> None:
    """f(inf), f(-inf) are limits, never NaN where there is one; f(NaN) is NaN."""
    values = torch.tensor([math.inf, -math.inf, math.nan, 1e300, -1e300], dtype=torch.float64)
    y = activations.function(row.name)(values, *arguments_of(row))
    assert y[2].isnan()
    assert not y[:2].isnan().any()
    assert not y[3:].isnan().any()


def test_a_row_is_refused_when_its_name_stands_twice() -> None:
    from fastlayers.specs import _by_name

    with pytest.raises(ValueError, match="a name stands twice"):
        _by_name((ROWS[0], ROWS[0]))
