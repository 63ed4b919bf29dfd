"""Batch norm, residual, activation and dropout in extended precision: an oracle for float64, which torch in float64 is not."""
from __future__ import annotations

import numpy as np
from torch import Tensor

Number = np.longdouble
_CHANNELS, _OTHERS = (1, -1, 1, 1), (0, 2, 3)


def block(
    values: dict[str, Tensor], running: list[Tensor], activation: str, multiplier: Tensor, training: bool, dy: Tensor, eps: float = 1e-5
) -> dict[str, np.ndarray]:
    """y and the gradients of x, residual, weight and bias, those that ``values`` holds; activation names a class of torch.nn."""
    given = {name: wide(value) for name, value in values.items()}
    x, gradient = given["x"], wide(dy) * wide(multiplier)
    mean = x.mean(_OTHERS, keepdims=True) if training else wide(running[0]).reshape(_CHANNELS)
    variance = np.square(x - mean).mean(_OTHERS, keepdims=True) if training else wide(running[1]).reshape(_CHANNELS)
    rstd = 1 / np.sqrt(variance + Number(eps))
    normalised = (x - mean) * rstd
    weight = given["weight"].reshape(_CHANNELS) if "weight" in given else Number(1)
    z = normalised * weight
    z = z + given["bias"].reshape(_CHANNELS) if "bias" in given else z
    z = z + given["residual"] if "residual" in given else z
    y, slope = _ACTIVATIONS[activation](z)
    dz = gradient * slope
    dx = dz - dz.mean(_OTHERS, keepdims=True) - normalised * (dz * normalised).mean(_OTHERS, keepdims=True) if training else dz
    found = {"y": y * wide(multiplier), "x": weight * rstd * dx, "residual": dz, "weight": (dz * normalised).sum(_OTHERS),
             "bias": dz.sum(_OTHERS)}
    return {name: found[name] for name in ("y", *values)}


def wide(value: Tensor) -> np.ndarray:
    """A tensor's numbers in extended precision."""
    return value.double().numpy().astype(Number)


def _piecewise(z: np.ndarray, below: float) -> tuple[np.ndarray, np.ndarray]:
    return np.where(z > 0, z, z * Number(below)), np.where(z > 0, Number(1), Number(below))


def _silu(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gate = 1 / (1 + np.exp(-z))
    return z * gate, gate * (1 + z * (1 - gate))


_ACTIVATIONS = {
    "Identity": lambda z: (z, np.ones_like(z)), "ReLU": lambda z: _piecewise(z, 0.0), "PReLU": lambda z: _piecewise(z, 0.25), "SiLU": _silu,
}
