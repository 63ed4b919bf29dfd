"""torch.jit.script beside these layers."""
from __future__ import annotations

from typing import NoReturn


class NotScripted:
    """What all layers share: torch.jit.script, which compiles Python's source and knows no kernels, is refused in words of our own."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(f"{type(self).__name__}: torch.jit.script must be given torch.nn's layers, which fastlayers.revert(model) makes "
                           "of these; torch.jit.trace and torch.export take them as they are")
