"""What ``python -m fastlayers check`` checks: each operation of the kernel interface against the reference in float64."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product, zip_longest
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .reference import activations
from .reference.dropout import uniform_like
from .reference.dtypes import HALF, accumulate_dtype
from .reference.gated import empty_halved
from .specs import ACTIVATIONS, UPDATE_RULES, Activation, UpdateRule
from .tolerance import allowed_error, severity, worst_composed_share, worst_share

Findings = Iterator[tuple[str, float]]
"""(what was looked at, its worst error as a share of what is allowed); NaN where a result is NaN and must not be."""

_SHAPE = (8, 6, 9, 11)
_P = 0.25
_SEED = 0x123456789ABCDEF
_MOVED = 0.125  # learnable parameters are that far from their start, where some do nothing
_REPEATS = 3
_KINK_MARGIN = 1e-2  # around a kink both one-sided derivatives are right; bfloat16 parameters move it by less than this
_HYPERPARAMETERS = {"momentum": 0.9, "dampening": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def activation_values(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """Every activation, alone, over the whole range of the dtype."""
    x = _sweep(dtype).to(device)
    for row in ACTIVATIONS.values():
        parameters, seed, arguments = _arguments(row, x)
        z = x.double().requires_grad_()
        oracle = activations.function(row.name)(z, *arguments)
        (slope,) = torch.autograd.grad(oracle.sum(), z)
        y = kernels.epilogue_forward(x, None, None, None, None, parameters, seed, row.name, _constants(row), 0.0, 0)
        yield row.name, worst_share(y, oracle.detach(), allowed_error(oracle.detach(), x, slope, row.ulp))


def activation_derivatives(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """The derivative of every activation, from x and, where the row allows, from y."""
    x = _sweep(dtype).to(device)
    for row in ACTIVATIONS.values():
        yield row.name, _derivative_share(kernels, row, "derivative", x)
        if row.derives_from_output(_constants(row)):
            y = activations.function(row.name)(x.double(), *_arguments(row, x)[2]).to(dtype)
            yield f"{row.name} from y", _derivative_share(kernels, row, "derivative_from_output", y)


def _derivative_share(kernels: ModuleType, row: Activation, kind: str, x: Tensor) -> float:
    parameters, seed, arguments = _arguments(row, x)
    z = x.double().requires_grad_()
    oracle = activations.function(row.name, kind)(z, *arguments)[0]
    slope = torch.autograd.grad(oracle.sum(), z, allow_unused=True)[0] if oracle.requires_grad else None
    slope = torch.zeros_like(z) if slope is None else slope
    dx = kernels.epilogue_backward(
        torch.ones_like(x), x, None, None, None, None, parameters, seed, row.name, _constants(row), 0.0, 0, kind != "derivative",
        (True, False, False, False, False),
    )[0]
    oracle = oracle.detach()
    return worst_share(dx, oracle, allowed_error(oracle, x, slope, row.derivative_ulp, row.derivative_absolute))


def dropout_masks(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """The mask must be the reference's, bit for bit: the one that is applied, and the one that is handed out."""
    for count, p, number in product((1, 7, 4099), (0.1, 0.5, 1e-6, 1.0), (1234, _SEED)):
        x, seed = torch.ones(count, device=device, dtype=dtype), torch.tensor(number, device=device)
        y = kernels.epilogue_forward(x, None, None, None, None, None, seed, "identity", (), p, 0)
        kept = (y != 0).cpu(), kernels.dropout_mask(0, count, seed, p).cpu()
        expected = reference.dropout_mask(0, count, seed.cpu(), p)
        yield f"p = {p:g}", 0.0 if all(torch.equal(mask, expected) for mask in kept) else float("inf")


def epilogue_forward(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """Everything at once: mean, scale, shift, residual, activation, dropout; NCHW and channels_last."""
    for row, layout in product(ACTIVATIONS.values(), _LAYOUTS):
        given = _epilogue_arguments(row, device, dtype, layout)
        yield f"{row.name} {layout}", _composed(kernels, "epilogue_forward", given)


def epilogue_backward(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """All gradients of the same."""
    for row, layout in product(ACTIVATIONS.values(), _LAYOUTS):
        x, *rest = _epilogue_arguments(row, device, dtype, layout)
        z = _pre_activation(x, *rest[:4])
        dy = _away_from_kinks(row, _random(x.shape, 7, x), z, rest[4])
        given = (dy, x, *rest, False, (True, True, True, True, bool(row.learnables)))
        terms = _gradient_terms(row, dy, x, z, rest[0], 1.0)
        yield f"{row.name} {layout}", _composed(kernels, "epilogue_backward", given, terms=terms)


def epilogue_inverse(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """x from y, of every activation that can be inverted."""
    for row, layout in product(ACTIVATIONS.values(), _LAYOUTS):
        if not row.inverts(_constants(row)):
            continue
        x, *rest, _, name, constants, _, channel_dim = _epilogue_arguments(row, device, dtype, layout)
        z = x.double().clamp(-2, 2)  # beyond, some are flat but for rounding
        y = torch.empty_like(x).copy_(activations.function(name)(z, *_arguments(row, x)[2]))
        yield f"{name} {layout}", _composed(kernels, "epilogue_inverse", (y, *rest, name, constants, channel_dim))


def batch_norm_statistics(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """Mean and sum of squared deviations, far from zero as well."""
    for layout, offset in product(_LAYOUTS, (0.0, 100.0)):
        x = _input(device, dtype, layout) + offset
        yield f"mean {offset:g} {layout}", _composed(kernels, "batch_norm_statistics", (x, 1), terms=(_mean_terms(x), 0.0))


def batch_norm_forward(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """Training and evaluation, fixed momentum and cumulative average, with residual, activation and dropout."""
    for row, layout, (training, momentum) in product(ACTIVATIONS.values(), _LAYOUTS, ((True, 0.1), (True, None), (False, 0.1))):
        x, _, scale, shift, residual, parameters, seed, *_ = _epilogue_arguments(row, device, dtype, layout)
        running = (_random(scale.shape, 11, scale), _random(scale.shape, 12, scale).abs() + 0.5, torch.tensor(3, device=device))
        given = (x, scale, shift, *running, residual, parameters, seed, row.name, _constants(row), _P, training, momentum, 1e-5, 1)
        size = sum(part.double().abs().max().item() for part in (x.double() * scale.double().view(-1, 1, 1), shift, residual))
        terms = (size, _mean_terms(x), 0.0, _mean_terms(x), 0.0, 0.0)
        yield f"{row.name} {layout}", _composed(kernels, "batch_norm_forward", given, changed=slice(3, 6), terms=terms)


def batch_norm_backward(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """All gradients, with the statistics of the batch and with the running ones."""
    for row, layout, training in product(ACTIVATIONS.values(), _LAYOUTS, (True, False)):
        shared, z = _batch_norm_arguments(row, device, dtype, layout)
        given = (*shared, training, 1, (True, True, True, True, bool(row.learnables)))
        terms = _gradient_terms(row, *shared[:2], z, *shared[2:4])
        yield f"{row.name} {layout}", _composed(kernels, "batch_norm_backward", given, terms=terms)


def batch_norm_backward_input(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """The gradient of x alone, with means of dz that come from elsewhere: other processes, in synchronised batch norm."""
    for row, layout in product(ACTIVATIONS.values(), _LAYOUTS):
        shared, _ = _batch_norm_arguments(row, device, dtype, layout)
        means = (_random(shared[2].shape, seed, shared[2]) for seed in (8, 9))
        yield f"{row.name} {layout}", _composed(kernels, "batch_norm_backward_input", (*shared, 1, *means))


def gated(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """Every activation as a gate, both ways, with dropout, along the two outer dimensions."""
    for row, layout, dim in product(ACTIVATIONS.values(), _LAYOUTS, (0, 1)):
        if row.random:
            continue
        x = _input(device, dtype, layout)
        parameters, _, arguments = _arguments(row, x)
        rest = (parameters, torch.tensor(_SEED, device=device), row.name, _constants(row), _P, dim, dim == 0)
        dy = _random(empty_halved(x, dim).shape, 7, empty_halved(x, dim))
        value, gate = x.double().chunk(2, dim)[::-1] if dim == 0 else x.double().chunk(2, dim)
        slopes = activations.function(row.name, "derivative")(gate, *arguments)[1:]
        terms = max((((slope.abs() + 1) * (dy * value).abs()).sum().item() for slope in slopes), default=0.0)
        forward = _composed(kernels, "gated_forward", (x, *rest))
        backward = _composed(kernels, "gated_backward", (dy, x, *rest, (True, bool(row.learnables))), terms=(0.0, terms))
        yield f"{row.name} {layout} dim {dim}", max(forward, backward, key=severity)


def optimizer_step(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """Every update rule over a list of tensors, with each of its flags and with gradients that are clipped."""
    for row in UPDATE_RULES.values():
        for flag in ("", "maximize", *row.flags):
            flags = [name == flag for name in ("maximize", *row.flags)]
            given = _optimizer_arguments(row, flags, device, dtype)
            yield f"{row.name} {flag}".rstrip(), _composed(kernels, "optimizer_step", given, changed=slice(1, 7))


def gradient_norm(kernels: ModuleType, device: str, dtype: torch.dtype) -> Findings:
    """Sum of squares and the flag for infinity and NaN."""
    grads = _tensors(4, device, dtype)
    yield "sum of squares", _composed(kernels, "gradient_norm", (grads,), outputs=slice(0, 1))
    for value in (float("inf"), float("nan")):
        broken = [*grads[:-1], grads[-1].clone()]
        broken[-1][-1] = value
        flags = [kernels.gradient_norm(one)[1].item() for one in (grads, broken)]
        yield f"{value} is noticed", 0.0 if flags == [0.0, 1.0] else float("inf")


OPERATIONS: dict[str, Callable[[ModuleType, str, torch.dtype], Findings]] = {
    function.__name__: function
    for function in (
        activation_values, activation_derivatives, dropout_masks, epilogue_forward, epilogue_backward, epilogue_inverse,
        batch_norm_statistics, batch_norm_forward, batch_norm_backward, batch_norm_backward_input, gated, optimizer_step, gradient_norm,
    )
}


def _composed(
    kernels: ModuleType, name: str, arguments: Sequence[object], changed: slice = slice(0), outputs: slice = slice(None),
    terms: Sequence[float] = (),
) -> float:
    """Worst share over the results of one operation and the arguments that it changes in place (those of ``changed``).

    terms: for each of them, how large its terms are in sum where it is a sum, else 0.
    """
    results = []
    for module, dtype in ((kernels, None), (reference, torch.float64), (reference, None)):
        own = [_copied(argument, dtype) for argument in arguments]
        result = getattr(module, name)(*own)
        results.append([value for value in (*_flatten(result)[outputs], *_flatten(own[changed])) if value is not None])
    shares = (
        worst_composed_share(actual.cpu(), oracle.cpu(), plain.cpu(), size)
        for (actual, oracle, plain), size in zip_longest(zip(*results, strict=True), terms[:len(results[0])], fillvalue=0.0)
    )
    return max(shares, key=severity)


def _mean_terms(x: Tensor) -> float:
    """The magnitudes that a channel's mean is made of."""
    return reference.batch_norm_statistics(x.double().abs(), 1)[0].max().item()


def _gradient_terms(row: Activation, dy: Tensor, x: Tensor, z: Tensor, mean: Tensor, rstd: Tensor | float) -> tuple[float, ...]:
    """For dx, dresidual and the sums over a channel of dz, dz (x - mean) rstd and dy df/dparameter: the magnitudes they are made of."""
    slopes = [slope.abs() + 1 for slope in activations.function(row.name, "derivative")(z, *_arguments(row, x)[2])]
    size = dy.double().abs()
    centred = (x.double() - mean.double().view(-1, 1, 1)).abs() * (rstd.double().view(-1, 1, 1) if isinstance(rstd, Tensor) else rstd)
    shift, scale, *parameters = (
        one.sum((0, 2, 3)).max().item() for one in (size * slopes[0], size * slopes[0] * centred, *(size * slope for slope in slopes[1:])))
    return 0.0, 0.0, scale, shift, x.size(1) * max(parameters, default=0.0)  # a parameter that all channels share sums over them


def _copied(value: object, dtype: torch.dtype | None) -> object:
    """A copy in the same memory order, floating tensors in ``dtype`` where it is given."""
    if isinstance(value, list):
        return [_copied(item, dtype) for item in value]
    if not isinstance(value, Tensor):
        return value
    return value.clone() if dtype is None or not value.is_floating_point() else value.to(dtype, copy=True)


def _flatten(value: object) -> list[object]:
    """The items of nested lists and tuples; a tensor with one dimension or more is an item."""
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _flatten(part)]
    return [value]


def _sweep(dtype: torch.dtype) -> Tensor:
    """All float16 or bfloat16 numbers; else random bit patterns and random numbers near zero, with the special ones."""
    if dtype in HALF:
        return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    generator = torch.Generator().manual_seed(0)
    integer = torch.int64 if dtype == torch.float64 else torch.int32
    facts = torch.iinfo(integer)
    patterns = torch.randint(facts.min, facts.max, (2**15,), generator=generator, dtype=integer).view(dtype)
    near = torch.randn(2**15, generator=generator, dtype=dtype) * 6
    if dtype == torch.float64:
        # in between the reference's own exp gives up too early, at 1.702 x in quick_gelu
        patterns = patterns[(patterns.abs() < 400) | (patterns.abs() > 750)]
        patterns = patterns[~(patterns.abs() > 1e308)]  # beyond, a parameter times x is infinite
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), *(k for r in ACTIVATIONS.values() for k, _ in r.kinks)])
    return torch.cat([patterns, near, special.to(dtype)])


def _random(shape: Sequence[int], seed: int, like: Tensor) -> Tensor:
    """Standard normal numbers with the dtype, device and memory order of ``like``."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.empty_like(like).copy_(values)


def _input(device: str, dtype: torch.dtype, layout: str) -> Tensor:
    like = torch.empty(_SHAPE, device=device, dtype=dtype, memory_format=_LAYOUTS[layout])
    return _random(_SHAPE, 1, like)


def _constants(row: Activation) -> tuple[float, ...]:
    return tuple(float(constant.default) for constant in row.constants)


def _arguments(row: Activation, x: Tensor) -> tuple[Tensor | None, Tensor | None, list[Tensor | float]]:
    """Learnable parameters and seed as kernels take them, and all arguments as the reference functions take them, in float64."""
    parameters, arguments, seed = None, list(_constants(row)), None
    if row.learnables:
        start = row.start(_REPEATS if row.repeats else None)
        parameters = torch.tensor([[value + _MOVED] for value in start], device=x.device, dtype=accumulate_dtype(x))
        arguments = [*parameters.double(), *arguments]
    if row.random:
        seed = torch.tensor(_SEED, device=x.device)
        arguments.append(uniform_like(x, seed).double())
    return parameters, seed, arguments


def _epilogue_arguments(row: Activation, device: str, dtype: torch.dtype, layout: str) -> tuple:
    """x, mean, scale, shift, residual, parameters, seed, activation, constants, p, channel_dim."""
    x = _input(device, dtype, layout)
    vector = torch.empty(_SHAPE[1], device=device, dtype=accumulate_dtype(x))
    mean, scale, shift = (_random(vector.shape, seed, vector) for seed in (2, 3, 4))
    residual, seed = _random(_SHAPE, 5, x), torch.tensor(_SEED, device=device)
    return x, mean, scale.abs() + 0.5, shift, residual, _arguments(row, x)[0], seed, row.name, _constants(row), _P, 1


def _batch_norm_arguments(row: Activation, device: str, dtype: torch.dtype, layout: str) -> tuple[tuple, Tensor]:
    """(dy, x, mean, rstd, weight, bias, residual, parameters, seed, activation, constants, p) of this batch, and z."""
    x, _, weight, bias, residual, parameters, seed, *rest = _epilogue_arguments(row, device, dtype, layout)
    mean, m2 = reference.batch_norm_statistics(x, 1)
    rstd = torch.rsqrt(m2 * weight.numel() / x.numel() + 1e-5)
    z = _pre_activation(x, mean, weight.double() * rstd.double(), bias, residual)
    dy = _away_from_kinks(row, _random(x.shape, 7, x), z, parameters)
    return (dy, x, mean, rstd, weight, bias, residual, parameters, seed, *rest[:3]), z


def _pre_activation(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, residual: Tensor) -> Tensor:
    return reference.epilogue_forward(
        *(value.double() for value in (x, mean, scale, shift, residual)), None, None, "identity", (), 0.0, 1
    )


def _away_from_kinks(row: Activation, dy: Tensor, z: Tensor, parameters: Tensor | None) -> Tensor:
    """dy, with 0 where rounding could move z across a kink."""
    for kink in row.kinks_with(() if parameters is None else parameters):
        dy.masked_fill_((z - kink).abs() < _KINK_MARGIN, 0)
    return dy


def _tensors(seed: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    return [_random((size,), seed + size, torch.empty(size, device=device, dtype=dtype)) for size in (1, 64, 1000, 4097)]


def _optimizer_arguments(row: UpdateRule, flags: list[bool], device: str, dtype: torch.dtype) -> tuple:
    """The arguments of optimizer_step after three updates, with a norm that clips."""
    params, grads = _tensors(1, device, dtype), _tensors(2, device, dtype)
    hyperparameters = [1e-2, 1e-2, *(_HYPERPARAMETERS.get(name, 0.5) for name in row.hyperparameters)]
    names = row.present_states(hyperparameters, flags)
    sizes = {"grad_avg": 0.05}  # whose square the mean square exceeds
    states = [state.abs() * sizes.get(name, 1) + 0.1 * (name not in sizes)
              for k, name in enumerate(names) for state in _tensors(3 + k, device, dtype)]
    scalars = [torch.tensor(3.0 if name == "step" else 0.5, device=device) for name in row.scalars for _ in params]
    return (
        row.name, params, grads, states, scalars, [], [], hyperparameters, flags, [], None, None, reference.gradient_norm(grads), None,
        1.0, 0.0,
    )
