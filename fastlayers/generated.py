"""Activations that were registered as formulas: the source generated for each, and how it becomes functions."""
from __future__ import annotations

import hashlib
import linecache
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Generated:
    """Python source that defines functions ``name`` and ``name_derivative``, as PyTorch for the reference and as Triton.

    The name is one of the content, so that no cache, linecache's or Triton's, takes one formula for another.
    """

    name: str
    torch: str
    triton: str


REGISTERED: dict[str, Generated] = {}
"""By the name of the row; everything else about it stands in specs.ACTIVATIONS like that of any other."""


def name_of(content: str) -> str:
    """A function's name that follows from what it computes, in this process and in every other."""
    return f"formula_{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def load(source: str, title: str, names: Mapping[str, object]) -> dict[str, object]:
    """What generated source defines, in a namespace that holds ``names``.

    Triton and tracebacks read the source again: from linecache, so that no file is written.
    """
    filename = f"<fastlayers {title}>"
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    namespace = dict(names)
    exec(compile(source, filename, "exec"), namespace)
    return namespace
