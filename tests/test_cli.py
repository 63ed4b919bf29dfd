"""``python -m fastlayers``: exit codes, and messages to the letter."""
from __future__ import annotations

import math
import subprocess
import sys

import cases
import pytest
import torch

import fastlayers as fl
from fastlayers import check, plot, reference, usage
from fastlayers.cli import main
from fastlayers.specs import ACTIVATIONS


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "fastlayers: the following arguments are required: COMMAND"),
    (["demo", "--net", "resnet"], "fastlayers demo: --net must be one of mlp, cnn, all, got 'resnet'"),
    (["demo", "--activation", "rely"], f"fastlayers demo: --activation must be one of {', '.join(ACTIVATIONS)}, got 'rely'"),
    (["demo", "--backend", "metal"], "fastlayers demo: --backend must be one of auto, reference, cpp, triton, cuda, got 'metal'"),
    (["demo", "--epochs", "0"], "fastlayers demo: --epochs must be a whole number of at least 1, got '0'"),
    (["demo", "--epochs", "two"], "fastlayers demo: --epochs must be a whole number of at least 1, got 'two'"),
    (["demo", "--batch-size", "1"], "fastlayers demo: --batch-size must be a whole number of at least 2, got '1'"),
    (["demo", "--dropout", "1.5"], "fastlayers demo: --dropout must be a number between 0 and 1, got '1.5'"),
    (["demo", "--lr", "nan"], "fastlayers demo: --lr must be a number at least 0, got 'nan'"),
    (["demo", "--data"], "fastlayers demo: --data expected one argument"),
    (["demo", "--data", "/no/such"], "fastlayers demo: --data must be a folder with the four IDX files of MNIST, got '/no/such'"),
    (["demo", "--fast"], "fastlayers demo: unrecognized arguments: --fast"),
    (["plot", "silu", "sillu"], f"fastlayers plot: NAME must be one of {', '.join(ACTIVATIONS)}, got 'sillu'"),
    (["plot", "leaky_relu(steep=2)"],
     "fastlayers plot: NAME leaky_relu must take no constants but negative_slope, got 'leaky_relu(steep=2)'"),
    (["plot"], "fastlayers plot: the following arguments are required: NAME"),
    (["plot", "silu", "--output", "/no/such/sheet.png"],
     "fastlayers plot: --output must be a file that can be written, got '/no/such/sheet.png': No such file or directory"),
    (["check", "--dtype", "int8"], "fastlayers check: --dtype must be one of float32, float64, float16, bfloat16, got 'int8'"),
    (["bench", "--only", "nothing"], "fastlayers bench: --only must match the name of a case (--list shows them), got 'nothing'"),
    (["bench", "--save", "/no/such/run.json"], "fastlayers bench: --save must be a file that can be written, got '/no/such/run.json'"),
    (["bench", "--plot", "/"], "fastlayers bench: --plot must be a file that can be written, got '/'"),
    (["bench", "--against", "/no/such"],
     "fastlayers bench: --against must be a file that can be read, got '/no/such': No such file or directory"),
])
def test_wrong_request(arguments, message, capsys, tmp_path, monkeypatch):
    """One line on stderr, exit code 2, nothing written."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err == message + "\n"
    assert printed.out == ""
    assert not list(tmp_path.iterdir())


def test_unavailable_backend_says_why(capsys, tmp_path):
    reason = fl.backends()["cuda"].removeprefix("not available: ")
    assert main(["demo", "--backend", "cuda", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"fastlayers demo: --backend must be an available backend, got 'cuda': {reason}\n"
    assert main(["check", "--backend", "cuda"]) == 2
    assert capsys.readouterr().err == f"fastlayers check: --backend must be an available one, got 'cuda': {reason}\n"


def test_missing_extra(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rich", None)
    for command, extra in (("demo", "demo"), ("check", "demo"), ("bench", "bench")):
        options = ["--output", str(tmp_path)] if command == "demo" else []
        assert main([command, *options]) == 2
        assert capsys.readouterr().err == f"fastlayers {command}: rich is not installed: pip install fastlayers[{extra}]\n"


def test_plot_without_matplotlib(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", "silu", "--output", str(tmp_path / "sheet.png")]) == 2
    assert capsys.readouterr().err == "fastlayers plot: matplotlib is not installed: pip install fastlayers[plot]\n"
    assert not list(tmp_path.iterdir())


def test_plot_writes_a_panel_for_each_name(capsys, tmp_path):
    """Constants, learnable parameters, random slopes, required constants; the names stand in the file."""
    sheet = tmp_path / "sheet.png"
    names = ["silu", "leaky_relu(0.2)", "srelu", "rrelu", "threshold(0.1, value=2)", "gelu_tanh"]
    assert main(["plot", *names, "--output", str(sheet)]) == 0
    assert capsys.readouterr().out == f"wrote {sheet}\n"
    assert cases.panels(sheet) == names


def test_plot_knows_registered_formulas(tmp_path):
    fl.register_activation("drawn", "max(a*x, x/2) * c", parameters={"a": 1.0}, constants={"c": 2.0})
    try:
        plot.draw(["drawn(3.0)"], tmp_path / "sheet.png")
        assert cases.panels(tmp_path / "sheet.png") == ["drawn(3.0)"]
        y, slope = plot.panel("drawn(3.0)").values(torch.tensor([-2.0, 2.0], dtype=torch.float64))
        assert (y.tolist(), slope.tolist()) == ([-3.0, 6.0], [1.5, 3.0])
    finally:
        fl.unregister_activation("drawn")


def test_plot_draws_function_and_derivative(monkeypatch, tmp_path):
    """What is drawn of leaky_relu(0.2): no line across the jump of the derivative."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    plot.draw(["leaky_relu(0.2)"], tmp_path / "sheet.png")
    y, slope = (line.get_ydata() for line in drawn[0].axes[0].lines[:2])
    x = torch.linspace(-5, 5, len(y), dtype=torch.float64)
    assert torch.equal(torch.from_numpy(y), torch.where(x > 0, x, 0.2 * x))
    assert set(slope[slope == slope]) == {0.2, 1.0}
    assert (slope != slope).sum() == 1
    monkeypatch.undo()
    pyplot.close(drawn[0])


def test_need_lets_an_error_inside_the_package_through(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import surely_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"):
        usage.need("broken_module", "demo")


def test_info_in_a_new_process():
    result = subprocess.run([sys.executable, "-m", "fastlayers", "info"], capture_output=True, text=True, check=True)
    lines = {line[:18].strip(): line[19:] for line in result.stdout.splitlines()}
    assert lines["fastlayers"] == fl.__version__
    assert lines["torch"] == torch.__version__
    assert {f"backend {name}": status for name, status in fl.backends().items()}.items() <= lines.items()
    assert result.stderr == ""


def test_exit_code_and_version_in_a_new_process():
    wrong = subprocess.run([sys.executable, "-m", "fastlayers", "demo", "--net", "vgg"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "fastlayers demo: --net must be one of mlp, cnn, all, got 'vgg'\n"


def test_check_passes(capsys, monkeypatch):
    """The whole check of one dtype on the reference backend, every kernel of it; test_kernels.py holds the others to the same reference."""
    kernels = Kernels()
    monkeypatch.setattr(check, "select", lambda x: kernels)
    assert main(["check", "--backend", "reference", "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    assert "batch_norm_backward" in printed
    held = len(check.OPERATIONS) - sum(name == "reference" for name, _ in check.NOT_HELD)
    assert f"{held} of {held} checks passed" in printed
    assert kernels.asked_for == set(reference.__all__)


class Kernels:
    """The reference under another name."""

    def __init__(self):
        self.asked_for = set()

    def __getattr__(self, name):
        self.asked_for.add(name)
        return getattr(reference, name)


@pytest.mark.parametrize(("operation", "broken"), [
    ("epilogue_forward", lambda y: y * (1 + 1e-5)),
    ("dropout_masks", lambda y: y.flip(0)),
    ("epilogue_inverse", lambda x: x * (1 + 1e-5)),
    ("batch_norm_backward_input", lambda dx: dx.flip(0)),
    ("batch_norm_statistics", lambda results: (results[0], results[1] * 1.001)),
    ("gradient_norm", lambda norm: norm * torch.tensor([1, 0])),
    ("activation_values", lambda y: torch.where(y.isnan(), 0, y)),
    ("batch_norm_backward", lambda gradients: (*gradients[:2], gradients[2].flip(0), *gradients[3:])),
])
def test_check_finds_a_wrong_kernel(operation, broken, monkeypatch):
    """A backend that is a little wrong fails; one that is right, under the same name, passes."""
    name = {"dropout_masks": "epilogue_forward", "activation_values": "epilogue_forward"}.get(operation, operation)
    kernels = Kernels()
    if operation != "activation_values":
        assert check.check_operation("mine", kernels, "cpu", operation, "float32").passed
    monkeypatch.setattr(kernels, name, lambda *arguments: broken(getattr(reference, name)(*arguments)), raising=False)
    found = check.check_operation("mine", kernels, "cpu", operation, "float32")
    assert not found.passed, found
    assert not found.error, found


@pytest.mark.parametrize("numbers", [(math.nan, 1.0), (1.0, math.nan), (math.inf, math.nan)], ids=str)
def test_check_says_that_a_result_is_nan(numbers, monkeypatch, capsys):
    """Whichever of the results it is, and however wrong the others are."""
    kernels = Kernels()
    monkeypatch.setattr(check, "select", lambda x: kernels)
    monkeypatch.setattr(check, "OPERATIONS", {"batch_norm_statistics": check.OPERATIONS["batch_norm_statistics"]})
    monkeypatch.setattr(
        kernels, "batch_norm_statistics",
        lambda *given: tuple(value * number for value, number in zip(reference.batch_norm_statistics(*given), numbers, strict=True)),
        raising=False)
    assert main(["check", "--backend", "reference", "--dtype", "float32"]) == 1
    assert ": the result is NaN where the reference is not\n0 of 1 checks passed" in capsys.readouterr().out


def test_check_reports_an_exception_and_exits_with_1(monkeypatch, capsys):
    def refuse(*arguments):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(reference, "gradient_norm", refuse)
    assert main(["check", "--backend", "reference", "--dtype", "float64"]) == 1
    assert "gradient_norm float64 : RuntimeError: no such instruction" in capsys.readouterr().out
