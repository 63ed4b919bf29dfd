"""Dropout modules: torch.nn's, each with its kernel, and the other convention of when to scale."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Proxy

from .. import checks, functional
from ..functional.dropout import CONVENTIONS
from ..overrides import traced
from .scripting import NotScripted


class _Scaled(NotScripted):
    """What classes share that know both conventions."""

    convention: str = "train"

    def __init__(self, p: float = 0.5, inplace: bool = False, *, convention: str = "train") -> None:
        checks.one_of(type(self).__name__, "convention", convention, CONVENTIONS)
        super().__init__(p, inplace)
        self.convention = convention

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", convention={self.convention!r}" if self.convention != "train" else "")


class Dropout(_Scaled, torch.nn.Dropout):
    """Drop each element with probability p while training, and scale the others so that the mean is exact.

    y = x m, m = 0 with probability t / 65536 and else 1 / (1 - t / 65536), t = round(65536 p). Drop-in for ``torch.nn.Dropout``.
    Nothing but an 8-byte seed is kept for backward; the mask is a function of seed and element index alone, the same on every backend.

    Args:
        p: probability in [0, 1]. Default 0.5.
        inplace: write the result into x. Default False.
        convention: "train" as above, the default; "eval" only drops while training and multiplies by 1 - t / 65536 in evaluation, as in
            the paper; keyword only.

    Shape: any. float32, float64, float16, bfloat16.

    Raises:
        ValueError: ``dropout probability has to be between 0 and 1, but got 1.5`` from torch's constructor.
        RuntimeError: ``dropout: x must be float32, bfloat16, float16 or float64, got int64``.

    Accuracy: float32 (float64 for float64) throughout, rounded once.

    Source: Srivastava et al., JMLR 15 (2014).

    >>> y = Dropout(0.1)(torch.randn(4, 8))
    """

    def forward(self, input: Tensor, residual_after: Tensor | None = None) -> Tensor:
        """y = x m + residual_after while training, else x + residual_after; x is input, residual_after like it or None."""
        if isinstance(input, Proxy):
            return traced(self, input, residual_after)
        return functional.dropout(input, self.p, self.training, self.inplace, convention=self.convention, residual_after=residual_after)


class _OfChannels(_Scaled):
    """y = function(x, p, ...), what Dropout1d, 2d and 3d differ in."""

    _function: Callable[..., Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """y while training, else x; x is input."""
        if isinstance(input, Proxy):
            return traced(self, input)
        return self._function(input, self.p, self.training, self.inplace, convention=self.convention)


_CHANNELS = """Drop whole channels with probability p while training, and scale the others so that the mean is exact.

y[n, c] = x[n, c] m[n, c], m the mask of element n C + c of :class:`Dropout`. Drop-in for ``torch.nn.{name}``.

Args:
    p, inplace, convention: as in :class:`Dropout`.

Shape: x {shape}; y like x. float32, float64, float16, bfloat16.

Raises, accuracy: as :class:`Dropout`; {refused}.

Source: Tompson et al., arXiv:1411.4280.

>>> y = {name}(0.1)(torch.randn({example}))
"""


class Dropout1d(_OfChannels, torch.nn.Dropout1d):
    __doc__ = _CHANNELS.format(name="Dropout1d", shape="(N, C, L) or (C, L)", example="2, 3, 4",
                               refused="RuntimeError: ``dropout1d: x must be 2-D or 3-D, got ...``")
    _function = staticmethod(functional.dropout1d)


class Dropout2d(_OfChannels, torch.nn.Dropout2d):
    __doc__ = _CHANNELS.format(name="Dropout2d", shape="(N, C, H, W); (N, C, L) with torch's warning", example="2, 3, 4, 5",
                               refused="torch's warning where x is not 4-D")
    _function = staticmethod(functional.dropout2d)


class Dropout3d(_OfChannels, torch.nn.Dropout3d):
    __doc__ = _CHANNELS.format(name="Dropout3d", shape="(N, C, D, H, W) or (C, D, H, W)", example="2, 3, 4, 5, 6",
                               refused="torch's warning where x is not 4-D or 5-D")
    _function = staticmethod(functional.dropout3d)


class _Alpha(NotScripted):
    """y = function(x, p, ...), of elements or of channels."""

    _function: Callable[..., Tensor]

    def forward(self, input: Tensor) -> Tensor:
        """y while training, else x; x is input."""
        if isinstance(input, Proxy):
            return traced(self, input)
        return self._function(input, self.p, self.training, self.inplace)


class AlphaDropout(_Alpha, torch.nn.AlphaDropout):
    """Dropout that keeps mean 0 and variance 1 while training, for networks of SELU.

    y = a x + b where kept, -a alpha + b where dropped: see :func:`fastlayers.functional.alpha_dropout`. Drop-in for
    ``torch.nn.AlphaDropout``; ``inplace``, which torch's module takes and ignores, is honoured.

    Args:
        p, inplace: as in :class:`Dropout`.

    Shape: any. float32, float64, float16, bfloat16.

    Raises, accuracy: as :class:`Dropout`.

    Source: Klambauer et al., arXiv:1706.02515.

    >>> y = AlphaDropout(0.1)(torch.randn(4, 8))
    """

    _function = staticmethod(functional.alpha_dropout)


class FeatureAlphaDropout(_Alpha, torch.nn.FeatureAlphaDropout):
    """:class:`AlphaDropout` of whole channels, x[n, c]. Drop-in for ``torch.nn.FeatureAlphaDropout``; ``inplace`` is honoured.

    Args:
        p, inplace: as in :class:`Dropout`.

    Shape: (N, C, ...). float32, float64, float16, bfloat16.

    Raises:
        RuntimeError: ``feature_alpha_dropout: x must be at least 2-D, got ...``

    Source: Klambauer et al., arXiv:1706.02515.

    >>> y = FeatureAlphaDropout(0.1)(torch.randn(4, 8, 3))
    """

    _function = staticmethod(functional.feature_alpha_dropout)
