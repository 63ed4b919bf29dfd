"""What kernels cannot read in memory the reference computes."""
from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from .. import reference
from ..context import in_memory


def or_reference(function: Callable) -> Callable:
    """The function, and the reference's of its name for tensors that are not in memory."""
    readable = getattr(reference, function.__name__)

    @functools.wraps(function)
    def choose(*arguments: object, **keywords: object) -> object:
        given = (*arguments, *keywords.values())
        return (function if all(in_memory(value) for value in given if isinstance(value, Tensor)) else readable)(*arguments, **keywords)

    return choose
