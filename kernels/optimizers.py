"""Optimizer updates in Triton: a pair of functions for each row of specs.UPDATE_RULES, under the row's name.

    {name}_numbers(numbers, scalars, FLAGS)  what hyperparameters and scalars come to, float64 scalars: once a program
    {name}(p, g, states, numbers, FLAGS)     (p, states) of a block, in the dtype of the arithmetic

``numbers`` are [lr, weight_decay, ...], scalars (t, ...), FLAGS (maximize, ...), as in specs.py; states holds those that exist. g has
its sign, scale and clipping. What the scalars become, where there is more than the step, is a third function,
``{name}_scalars(numbers, scalars, step)``. The loop that applies them is in optimizer_step.py.
"""
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _penalised(p, g, weight_decay):
    """g with the gradient of the L2 penalty; 0 times an infinite p would be NaN."""
    if weight_decay != 0:
        g = g + weight_decay * p
    return g


@triton.jit
def _decayed(p, g, number, DECOUPLED: tl.constexpr):
    """(p, g) after weight decay of either kind; number is from _decay."""
    if DECOUPLED:
        return p * number, g
    else:
        return p, _penalised(p, g, number)


@triton.jit
def _decay(numbers, DECOUPLED: tl.constexpr):
    """What _decayed needs of [lr, weight_decay, ...]."""
    if DECOUPLED:
        return 1.0 - numbers[0] * numbers[1]
    else:
        return numbers[1]


@triton.jit
def _power(base, exponent):
    return tl.exp2(exponent * tl.log2(base))


@triton.jit
def _moments(g, states, weight1, beta2, weight2):
    """Adam's running means of g and g^2."""
    return states[0] + weight1 * (g - states[0]), beta2 * states[1] + weight2 * g * g


@triton.jit
def sgd_numbers(numbers, scalars, FLAGS: tl.constexpr):
    return numbers[0], numbers[1], numbers[2], 1.0 - numbers[3]


@triton.jit
def sgd(p, g, states, numbers, FLAGS: tl.constexpr):
    lr, weight_decay, momentum, undamped = numbers
    NESTEROV: tl.constexpr = FLAGS[1]
    FIRST: tl.constexpr = FLAGS[2]
    g = _penalised(p, g, weight_decay)
    if len(states) == 0:
        return p - lr * g, ()
    else:
        buffer = g
        if not FIRST:
            buffer = momentum * states[0] + undamped * g
        step = buffer
        if NESTEROV:
            step = g + momentum * buffer
        return p - lr * step, (buffer,)


@triton.jit
def adagrad_numbers(numbers, scalars, FLAGS: tl.constexpr):
    lr, weight_decay, lr_decay, eps = numbers
    return lr / (1.0 + (scalars[0] - 1.0) * lr_decay), weight_decay, eps


@triton.jit
def adagrad(p, g, states, numbers, FLAGS: tl.constexpr):
    step, weight_decay, eps = numbers
    g = _penalised(p, g, weight_decay)
    total = states[0] + g * g
    return p - step * (g / (tl.sqrt(total) + eps)), (total,)


@triton.jit
def rmsprop_numbers(numbers, scalars, FLAGS: tl.constexpr):
    lr, weight_decay, alpha, eps, momentum = numbers
    return lr, weight_decay, alpha, 1.0 - alpha, eps, momentum


@triton.jit
def rmsprop(p, g, states, numbers, FLAGS: tl.constexpr):
    lr, weight_decay, alpha, weight, eps, momentum = numbers
    CENTERED: tl.constexpr = FLAGS[1]
    g = _penalised(p, g, weight_decay)
    v = alpha * states[0] + weight * g * g
    square = v
    means = ()
    if CENTERED:
        mean = states[len(states) - 1]
        mean = mean + weight * (g - mean)
        square = v - mean * mean
        square = tl.where(square < 0, 0.0, square)  # in this order a NaN is kept
        means = (mean,)
    step = g / (tl.sqrt(square) + eps)
    if len(states) == 2 + len(means):
        step = momentum * states[1] + step
        return p - lr * step, (v, step) + means
    else:
        return p - lr * step, (v,) + means


@triton.jit
def _adam_numbers(numbers, scalars, DECOUPLED: tl.constexpr):
    _, _, beta1, beta2, eps = numbers
    step = numbers[0] / (1.0 - _power(beta1, scalars[0]))
    root_scale = 1.0 / tl.sqrt(1.0 - _power(beta2, scalars[0]))
    return step, _decay(numbers, DECOUPLED), 1.0 - beta1, beta2, 1.0 - beta2, root_scale, eps


@triton.jit
def _adam(p, g, states, numbers, AMSGRAD: tl.constexpr):
    step, _, weight1, beta2, weight2, root_scale, eps = numbers
    m, v = _moments(g, states, weight1, beta2, weight2)
    if AMSGRAD:
        largest = tl.maximum(states[2], v, propagate_nan=tl.PropagateNan.ALL)
        return p - step * (m / (tl.sqrt(largest) * root_scale + eps)), (m, v, largest)
    else:
        return p - step * (m / (tl.sqrt(v) * root_scale + eps)), (m, v)


@triton.jit
def adam_numbers(numbers, scalars, FLAGS: tl.constexpr):
    return _adam_numbers(numbers, scalars, False)


@triton.jit
def adam(p, g, states, numbers, FLAGS: tl.constexpr):
    p, g = _decayed(p, g, numbers[1], False)
    return _adam(p, g, states, numbers, FLAGS[1])


@triton.jit
def adamw_numbers(numbers, scalars, FLAGS: tl.constexpr):
    return _adam_numbers(numbers, scalars, True)


@triton.jit
def adamw(p, g, states, numbers, FLAGS: tl.constexpr):
    p, g = _decayed(p, g, numbers[1], True)
    return _adam(p, g, states, numbers, FLAGS[1])


@triton.jit
def _nadam_momentum(numbers, t):
    return numbers[2] * (1.0 - 0.5 * _power(0.96 + 0.0 * t, t * numbers[5]))


@triton.jit
def nadam_scalars(numbers, scalars, step):
    """(step, the product of the momenta so far), float32 as in torch."""
    return step, scalars[1] * _nadam_momentum(numbers, step.to(tl.float64)).to(tl.float32)


@triton.jit
def nadam_numbers(numbers, scalars, FLAGS: tl.constexpr):
    lr, _, beta1, beta2, eps, _ = numbers
    t, product = scalars
    next_momentum = _nadam_momentum(numbers, t + 1.0)
    gradient_weight = (1.0 - _nadam_momentum(numbers, t)) / (1.0 - product)
    moment_weight = next_momentum / (1.0 - product * next_momentum)
    root_scale = 1.0 / tl.sqrt(1.0 - _power(beta2, t))
    return lr, _decay(numbers, FLAGS[1]), 1.0 - beta1, beta2, 1.0 - beta2, root_scale, eps, gradient_weight, moment_weight


@triton.jit
def nadam(p, g, states, numbers, FLAGS: tl.constexpr):
    lr, decay, weight1, beta2, weight2, root_scale, eps, gradient_weight, moment_weight = numbers
    p, g = _decayed(p, g, decay, FLAGS[1])
    m, v = _moments(g, states, weight1, beta2, weight2)
    return p - lr * ((gradient_weight * g + moment_weight * m) / (tl.sqrt(v) * root_scale + eps)), (m, v)


@triton.jit
def radam_numbers(numbers, scalars, FLAGS: tl.constexpr):
    lr, _, beta1, beta2, eps = numbers
    t = scalars[0]
    power = _power(beta2, t)
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * t * power / (1.0 - power)
    rectification = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
    adaptive = tl.where(length > 5.0, tl.sqrt(rectification * (1.0 - power)), 0.0)
    return lr / (1.0 - _power(beta1, t)), _decay(numbers, FLAGS[1]), 1.0 - beta1, beta2, 1.0 - beta2, adaptive, eps


@triton.jit
def radam(p, g, states, numbers, FLAGS: tl.constexpr):
    step, decay, weight1, beta2, weight2, adaptive, eps = numbers
    p, g = _decayed(p, g, decay, FLAGS[1])
    m, v = _moments(g, states, weight1, beta2, weight2)
    return p - step * tl.where(adaptive != 0, adaptive * (m / (tl.sqrt(v) + eps)), m), (m, v)


@triton.jit
def adamax_numbers(numbers, scalars, FLAGS: tl.constexpr):
    lr, weight_decay, beta1, beta2, eps = numbers
    return lr / (1.0 - _power(beta1, scalars[0])), weight_decay, 1.0 - beta1, beta2, eps


@triton.jit
def adamax(p, g, states, numbers, FLAGS: tl.constexpr):
    step, weight_decay, weight1, beta2, eps = numbers
    g = _penalised(p, g, weight_decay)
    m = states[0] + weight1 * (g - states[0])
    largest = tl.maximum(beta2 * states[1], tl.abs(g) + eps, propagate_nan=tl.PropagateNan.ALL)
    return p - step * (m / largest), (m, largest)


@triton.jit
def lion_numbers(numbers, scalars, FLAGS: tl.constexpr):
    lr, _, beta1, beta2 = numbers
    return lr, _decay(numbers, True), 1.0 - beta1, 1.0 - beta2


@triton.jit
def lion(p, g, states, numbers, FLAGS: tl.constexpr):
    lr, decay, direction_weight, weight = numbers
    direction = states[0] + direction_weight * (g - states[0])
    sign = tl.where(direction > 0, 1.0, tl.where(direction < 0, -1.0, direction))  # a NaN stays one
    return p * decay - lr * sign, (states[0] + weight * (g - states[0]),)
