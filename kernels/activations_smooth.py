"""Smooth activations that saturate or turn linear, as pairs of Triton functions; conventions in activations.py."""
from __future__ import annotations

import triton
import triton.language as tl

from . import math
from .math import FAR, FAR_FLOAT64, NEAR

_FLAT = tl.constexpr(1e18)  # where 1 + x^2 is x^2
SELU_SCALE = tl.constexpr(1.0507009873554805)
SELU_SLOPE = tl.constexpr(1.7580993408473766)  # times alpha


@triton.jit
def sigmoid(x, p):
    d, f = math.logistic(-math.bounded(x, FAR if x.dtype == tl.float32 else FAR_FLOAT64), 0.0)
    return f / d


@triton.jit
def sigmoid_derivative(x, p):
    s, n, _ = math.gate(-tl.abs(x))
    return (s * n,)


@triton.jit
def sigmoid_derivative_from_output(y, p):
    return (y * (1 - y),)


@triton.jit
def tanh(x, p):
    return math.tanh(x)


@triton.jit
def tanh_derivative(x, p):
    s, n, _ = math.gate(-2 * tl.abs(x))
    return (4 * s * n,)


@triton.jit
def tanh_derivative_from_output(y, p):
    return (1 - y * y,)


@triton.jit
def arctan(x, p):
    return math.arctan(x)


@triton.jit
def arctan_derivative(x, p):
    """In units of 2^32, so that x^2 does not overflow before the result is 0."""
    scaled = x * 2.0**-16
    return (1 / tl.fma(scaled, scaled, 2.0**-32) * 2.0**-32,)


@triton.jit
def softsign(x, p):
    near = math.bounded(x, _FLAT)
    return near / (1 + tl.abs(near))


@triton.jit
def softsign_derivative(x, p):
    inverse = 1 / (1 + tl.abs(x))
    return (inverse * inverse,)


@triton.jit
def isru(x, p):
    limit = _FLAT / tl.sqrt(p[0])
    near = math.larger(math.smaller(x, limit), -limit)
    return near / tl.sqrt(tl.fma(near * near, tl.broadcast_to(p[0], x.shape), 1.0))


@triton.jit
def isru_derivative(x, p):
    inverse = 1 / tl.fma(x * x, tl.broadcast_to(p[0], x.shape), 1.0)
    return (inverse * tl.sqrt(inverse),)


@triton.jit
def isrlu(x, p):
    return tl.where(x >= 0, x, isru(x, p))


@triton.jit
def isrlu_derivative(x, p):
    return (tl.where(x >= 0, 1.0, isru_derivative(x, p)[0]),)


@triton.jit
def elu(x, p):
    return tl.where(x > 0, x, p[0] * math.expm1(x, 0.0, True))


@triton.jit
def elu_derivative(x, p):
    return (tl.where(x > 0, 1.0, p[0] * math.fast_exp(x, 1.0)),)


@triton.jit
def elu_derivative_from_output(y, p):
    return (tl.where(y > 0, 1.0, y + p[0]),)


@triton.jit
def selu(x, p):
    return tl.where(x > 0, x * math.constant(x, SELU_SCALE), math.expm1(x, 0.0, True) * math.constant(x, SELU_SLOPE))


@triton.jit
def selu_derivative(x, p):
    return (tl.where(x > 0, math.constant(x, SELU_SCALE), math.fast_exp(x, 1.0) * math.constant(x, SELU_SLOPE)),)


@triton.jit
def selu_derivative_from_output(y, p):
    return (tl.where(y > 0, math.constant(y, SELU_SCALE), y + math.constant(y, SELU_SLOPE)),)


@triton.jit
def _ratio(x, alpha):
    """(y, low): x / alpha is y + low; low is 0 far out, where exp(y) is 0 or infinite."""
    inverse = 1 / alpha
    y = x * inverse
    return y, tl.where(tl.abs(y) < NEAR, -math.rounding_of_product(alpha, y, x) * inverse, 0.0)


@triton.jit
def celu(x, p):
    y, low = _ratio(x, p[0])
    return tl.where(x > 0, x, p[0] * math.expm1(y, low, False))


@triton.jit
def celu_derivative(x, p):
    """Where alpha is negative it grows without bound, and its error must stay small beside it."""
    y, low = _ratio(x, p[0])
    return (tl.where(x > 0, 1.0, math.exp(y, low)),)


@triton.jit
def celu_derivative_half(x, p):
    return (tl.where(x > 0, 1.0, math.fast_exp(x * (1 / p[0]), 1.0)),)


@triton.jit
def celu_derivative_from_output(y, p):
    return (tl.where(y > 0, 1.0, y * (1 / p[0]) + 1),)


@triton.jit
def _softplus(y, low):
    """log(1 + exp(y + low))."""
    LIMIT: tl.constexpr = -FAR if y.dtype == tl.float32 else -FAR_FLOAT64
    e, f = math.scaled_exp(math.at_least(-tl.abs(y), LIMIT), tl.where(y > 0, -low, low))
    return tl.fma(math.log1p_unit(e), f, math.at_least(y, 0.0))


@triton.jit
def softplus(x, p):
    beta, threshold = p
    y = x * beta
    low = tl.where(tl.abs(y) < NEAR, math.rounding_of_product(beta, x, y), 0.0)
    return tl.where(y > threshold, x, _softplus(y, low) * (1 / beta))


@triton.jit
def softplus_derivative(x, p):
    beta, threshold = p
    y = x * beta
    near = math.bounded(y, FAR if x.dtype == tl.float32 else FAR_FLOAT64)
    low = tl.where(near == y, math.rounding_of_product(beta, x, y), 0.0)
    d, f = math.logistic(-near, low)
    return (tl.where(y > threshold, 1.0, f / d),)


@triton.jit
def softplus_half(x, p):
    beta, threshold = p
    y = x * beta
    root = math.fast_exp(tl.abs(y), -0.5)
    e = root * root
    return tl.where(y > threshold, x, (math.log1p_half(e) + math.at_least(y, 0.0)) * (1 / beta))


@triton.jit
def bent_identity(x, p):
    near = math.bounded(x, _FLAT)
    return x * tl.fma(near / (tl.sqrt(tl.fma(near, near, 1.0)) + 1), 0.5, 1.0)


@triton.jit
def bent_identity_derivative(x, p):
    near = math.bounded(x, _FLAT)
    return (tl.fma(near / tl.sqrt(tl.fma(near, near, 1.0)), 0.5, 1.0),)


@triton.jit
def bent_identity_half(x, p):
    """Far from 0 the terms one by one: their sum lies close to the middle of two numbers of half types, and must stay on its side."""
    a = tl.abs(x)
    root = tl.sqrt(tl.fma(x, x, 1.0))
    far = (tl.fma(a, 0.5, x) - math.at_least(a * 2.0**-22, 0.5)) + 0.5 / (root + a)
    return tl.where(a > 16, tl.where(a == float("inf"), x, far), x * tl.fma(x / (root + 1), 0.5, 1.0))


@triton.jit
def log_sigmoid(x, p):
    return -_softplus(-x, tl.zeros_like(x))


@triton.jit
def log_sigmoid_derivative(x, p):
    return (math.gate(-x)[0],)


@triton.jit
def log_sigmoid_derivative_from_output(y, p):
    return (-math.expm1(y, 0.0, True),)


@triton.jit
def tanhshrink(x, p):
    return math.x_minus_tanh(x)


@triton.jit
def tanhshrink_derivative(x, p):
    value = math.tanh(x)
    return (value * value,)
