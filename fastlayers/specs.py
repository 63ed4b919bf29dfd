"""The facts about every activation and every update rule, one row each.

A row drives the modules, the tests, the benchmarks, ``python -m fastlayers check`` and the documentation; what it may say is in rows.py.
The mathematics itself stands once per language, under the row's name: ``fastlayers/reference/``, ``csrc/common/`` and ``kernels/``.
"""
from __future__ import annotations

import math

from .rows import Activation, Constant, Hyperparameter, Learnable, Repeats, UpdateRule

_INFINITE = (float("-inf"), float("inf"))


_ACTIVATIONS = (
    # The classic table

    Activation(
        "identity", "Identity", "f(x) = x", "f'(x) = 1", "-", from_output="always", invertible="always", ulp=0, derivative_ulp=0,
    ),
    Activation(
        "binary_step", "BinaryStep", "f(x) = 0 if x < 0 else 1", "f'(x) = 0; with straight_through 1, the gradient of the identity",
        "McCulloch & Pitts, Bull. Math. Biophys. 5 (1943); straight_through: Bengio, Leonard & Courville, arXiv:1308.3432",
        constants=(Constant("straight_through", False, 0, 1),), kinks=((0.0, 0.0),), ulp=0, derivative_ulp=0,
    ),
    Activation(
        "sigmoid", "Sigmoid", "f(x) = 1 / (1 + exp(-x))", "f'(x) = f(x) (1 - f(x))", "Verhulst 1838; Rumelhart et al., 1986",
        from_output="always", derivative_absolute=1e-7,
    ),
    Activation(
        "tanh", "Tanh", "f(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x))", "f'(x) = 1 - f(x)^2", "LeCun et al., 1998",
        from_output="always", derivative_absolute=1.2e-7,
    ),
    Activation(
        "arctan", "ArcTan", "f(x) = arctan(x)", "f'(x) = 1 / (1 + x^2)", "Kamruzzaman & Aziz, IJCNN 2002",
    ),
    Activation(
        "softsign", "Softsign", "f(x) = x / (1 + |x|)", "f'(x) = 1 / (1 + |x|)^2", "Turian, Bergstra & Bengio, NAACL 2009",
    ),
    Activation(
        "isru", "ISRU", "f(x) = x / sqrt(1 + alpha x^2)", "f'(x) = (1 + alpha x^2)^(-3/2)", "Carlile et al., arXiv:1710.09967",
        constants=(Constant("alpha", 1.0, 0.0, refused=(0.0,)),),
    ),
    Activation(
        "relu", "ReLU", "f(x) = max(0, x)", "f'(x) = 1 if x > 0 else 0", "Nair & Hinton, ICML 2010",
        kinks=((0.0, 0.0),), from_output="always", ulp=0, derivative_ulp=0, masks=True,
    ),
    Activation(
        "leaky_relu", "LeakyReLU", "f(x) = x if x > 0 else negative_slope * x", "f'(x) = 1 if x > 0 else negative_slope",
        "Maas, Hannun & Ng, ICML 2013", constants=(Constant("negative_slope", 0.01),), kinks=((0.0, 0.01),),
        from_output="negative_slope >= 0", invertible="negative_slope > 0", ulp=1,
    ),
    Activation(
        "prelu", "PReLU", "f(x) = x if x > 0 else weight * x", "f'(x) = 1 if x > 0 else weight; df/dweight = 0 if x > 0 else x",
        "He et al., arXiv:1502.01852", learnables=(Learnable("weight", 0.25),), kinks=((0.0, 0.25),), invertible="weight > 0",
        autocast="lower", ulp=1,
    ),
    Activation(
        "rrelu", "RReLU",
        "f(x) = x if x > 0 else a x, a uniform in [lower, upper] for every element; in evaluation a = (lower + upper) / 2",
        "f'(x) = 1 if x > 0 else a", "Xu et al., arXiv:1505.00853",
        constants=(Constant("lower", 1 / 8, refused=_INFINITE), Constant("upper", 1 / 3, refused=_INFINITE)), ordered=True,
        kinks=((0.0, None),), random=True, ulp=2,
    ),
    Activation(
        "elu", "ELU", "f(x) = x if x > 0 else alpha (exp(x) - 1)", "f'(x) = 1 if x > 0 else alpha exp(x)",
        "Clevert, Unterthiner & Hochreiter, arXiv:1511.07289", constants=(Constant("alpha", 1.0),), from_output="alpha >= 0",
        invertible="alpha > 0", saturates=True, derivative_absolute=1e-7,
    ),
    Activation(
        "selu", "SELU", "f(x) = scale (x if x > 0 else alpha (exp(x) - 1)), scale = 1.0507009873554805, alpha = 1.6732632423543772",
        "f'(x) = scale (1 if x > 0 else alpha exp(x))", "Klambauer et al., arXiv:1706.02515",
        kinks=((0.0, 1.0507009873554805 * 1.6732632423543772),), from_output="always", invertible="always", saturates=True,
        derivative_absolute=1e-7,
    ),
    Activation(
        "srelu", "SReLU", "f(x) = t_r + a_r (x - t_r) if x >= t_r, t_l + a_l (x - t_l) if x <= t_l, else x",
        "f'(x) = a_r if x >= t_r, a_l if x < t_l, else 1; df/dt = 1 - a and df/da = x - t beyond the threshold on that side",
        "Jin et al., arXiv:1512.07030",
        learnables=(Learnable("t_l", 0.0), Learnable("a_l", 0.01), Learnable("t_r", 1.0), Learnable("a_r", 1.0)), kinks=((0.0, 1.0),),
        kinks_at=("t_l", "t_r"),
    ),
    Activation(
        "isrlu", "ISRLU", "f(x) = x if x >= 0 else x / sqrt(1 + alpha x^2)", "f'(x) = 1 if x >= 0 else (1 + alpha x^2)^(-3/2)",
        "Carlile et al., arXiv:1710.09967", constants=(Constant("alpha", 1.0, 0.0, refused=(0.0,)),),
        invertible="alpha > 0", saturates=True,
    ),
    Activation(
        "apl", "APL", "f(x) = max(0, x) + sum over s of a_s max(0, b_s - x)",
        "f'(x) = (1 if x >= 0 else 0) - sum of a_s where x < b_s; df/da_s = max(0, b_s - x); df/db_s = a_s where x < b_s",
        "Agostinelli et al., arXiv:1412.6830", learnables=(Learnable("a", 0.0), Learnable("b", -1.0, 1.0)),
        repeats=Repeats("num_hinges", 1, 8), kinks=((0.0, 1.0),), kinks_at=("b",),
    ),
    Activation(
        "softplus", "Softplus", "f(x) = log(1 + exp(beta x)) / beta, and x where beta x > threshold",
        "f'(x) = s(beta x), s the logistic sigmoid, and 1 where beta x > threshold", "Dugas et al., NIPS 2000",
        constants=(Constant("beta", 1.0), Constant("threshold", 20.0)), invertible="beta > 0 and threshold > 15", saturates=True,
        autocast="float32 on cuda",
    ),
    Activation(
        "bent_identity", "BentIdentity", "f(x) = (sqrt(x^2 + 1) - 1) / 2 + x", "f'(x) = x / (2 sqrt(x^2 + 1)) + 1",
        "no paper known; it stands in the classic table", invertible="always",
    ),
    Activation(
        "silu", "SiLU", "f(x) = x s(x), s the logistic sigmoid", "f'(x) = s(x) (1 + x (1 - s(x)))",
        "Elfwing, Uchibe & Doya, arXiv:1702.03118", derivative_absolute=1e-7,
    ),
    Activation(
        "soft_exponential", "SoftExponential",
        "f(x) = -log(1 - alpha (x + alpha)) / alpha if alpha < 0, x if alpha = 0, (exp(alpha x) - 1) / alpha + alpha if alpha > 0; "
        "NaN where the logarithm's argument is negative",
        "f'(x) = 1 / (1 - alpha (x + alpha)) if alpha < 0 else exp(alpha x); df/dalpha, whose limit at 0 is x^2 / 2 + 1, is "
        "(log(u) + alpha (x + 2 alpha) / u) / alpha^2 with u = 1 - alpha (x + alpha) if alpha < 0, "
        "1 + ((alpha x - 1) exp(alpha x) + 1) / alpha^2 if alpha > 0",
        "Godfrey & Gashler, arXiv:1602.01321", learnables=(Learnable("alpha", 0.0),), everywhere=False,
    ),
    Activation(
        "sinusoid", "Sinusoid", "f(x) = sin(x)", "f'(x) = cos(x)", "Gashler & Ashmore, arXiv:1405.2262",
    ),
    Activation(
        "sinc", "Sinc", "f(x) = sin(x) / x, f(0) = 1", "f'(x) = cos(x) / x - sin(x) / x^2, f'(0) = 0",
        "no paper known; it stands in the classic table", derivative_absolute=1e-7,
    ),

    # Beyond it

    Activation(
        "gelu", "GELU", "f(x) = x erfc(-x / sqrt(2)) / 2", "f'(x) = erfc(-x / sqrt(2)) / 2 + x exp(-x^2 / 2) / sqrt(2 pi)",
        "Hendrycks & Gimpel, arXiv:1606.08415", keyword=("approximate", "none"), derivative_absolute=1e-7,
    ),
    Activation(
        "gelu_tanh", "GELU", "f(x) = x s(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), s the logistic sigmoid (= x (1 + tanh u) / 2)",
        "f'(x) = s(2u) + 2 x s(2u) (1 - s(2u)) u'(x)", "Hendrycks & Gimpel, arXiv:1606.08415", keyword=("approximate", "tanh"),
        derivative_absolute=1e-7,
    ),
    Activation(
        "mish", "Mish", "f(x) = x tanh(log(1 + exp(x)))", "f'(x) = t + x (1 - t^2) s(x), t = tanh(log(1 + exp(x))), s the logistic sigmoid",
        "Misra, arXiv:1908.08681", derivative_absolute=1e-7,
    ),
    Activation(
        "swish", "Swish", "f(x) = x s(beta x), s the logistic sigmoid",
        "f'(x) = s(beta x) (1 + beta x (1 - s(beta x))); df/dbeta = x^2 s(beta x) (1 - s(beta x))",
        "Ramachandran, Zoph & Le, arXiv:1710.05941", learnables=(Learnable("beta", 1.0),), derivative_absolute=1e-7,
    ),
    Activation(
        "hardswish", "Hardswish", "f(x) = x min(max(x + 3, 0), 6) / 6", "f'(x) = 0 if x <= -3, 1 if x >= 3, else x / 3 + 1/2",
        "Howard et al., arXiv:1905.02244", kinks=((-3.0, 0.0), (3.0, 1.0)), masks=True,
    ),
    Activation(
        "hardsigmoid", "Hardsigmoid", "f(x) = min(max(x + 3, 0), 6) / 6", "f'(x) = 1/6 if -3 < x < 3 else 0",
        "Courbariaux, Bengio & David, arXiv:1511.00363", kinks=((-3.0, 0.0), (3.0, 0.0)), derivative_ulp=1, masks=True,
    ),
    Activation(
        "hardtanh", "Hardtanh", "f(x) = min(max(x, min_val), max_val)", "f'(x) = 1 if min_val < x < max_val else 0",
        "Collobert, thesis, Universite Paris VI, 2004", constants=(Constant("min_val", -1.0), Constant("max_val", 1.0)),
        ordered=True, kinks=((-1.0, 0.0), (1.0, 0.0)), from_output="always", saturates=True, ulp=0, derivative_ulp=0, masks=True,
    ),
    Activation(
        "relu6", "ReLU6", "f(x) = min(max(x, 0), 6)", "f'(x) = 1 if 0 < x < 6 else 0", "Howard et al., arXiv:1704.04861",
        kinks=((0.0, 0.0), (6.0, 0.0)), from_output="always", ulp=0, derivative_ulp=0, masks=True,
    ),
    Activation(
        "celu", "CELU", "f(x) = x if x > 0 else alpha (exp(x / alpha) - 1)", "f'(x) = 1 if x > 0 else exp(x / alpha)",
        "Barron, arXiv:1704.07483", constants=(Constant("alpha", 1.0, refused=(0.0,)),), from_output="alpha >= 0",
        invertible="alpha > 0", saturates=True, derivative_absolute=1e-7,
    ),
    Activation(
        "log_sigmoid", "LogSigmoid", "f(x) = -log(1 + exp(-x))", "f'(x) = s(-x), s the logistic sigmoid", "-", from_output="always",
        derivative_absolute=1e-7,
    ),
    Activation(
        "tanhshrink", "Tanhshrink", "f(x) = x - tanh(x)", "f'(x) = tanh(x)^2", "-",
    ),
    Activation(
        "softshrink", "Softshrink", "f(x) = x - lambd if x > lambd, x + lambd if x < -lambd, else 0", "f'(x) = 1 if |x| > lambd else 0",
        "Donoho, IEEE Trans. Inf. Theory 41 (1995)", constants=(Constant("lambd", 0.5, 0.0),), kinks=((-0.5, 0.0), (0.5, 0.0)),
        from_output="always", ulp=1, derivative_ulp=0, masks=True,
    ),
    Activation(
        "hardshrink", "Hardshrink", "f(x) = x if |x| > lambd else 0", "f'(x) = 1 if |x| > lambd else 0",
        "Donoho & Johnstone, Biometrika 81 (1994)", constants=(Constant("lambd", 0.5),), kinks=((-0.5, 0.0), (0.5, 0.0)),
        from_output="lambd >= 0", ulp=0, derivative_ulp=0, masks=True,
    ),
    Activation(
        "threshold", "Threshold", "f(x) = x if x > threshold else value", "f'(x) = 1 if x > threshold else 0", "-",
        constants=(Constant("threshold", 0.5, required=True), Constant("value", -2.0, required=True)), kinks=((0.5, 0.0),), ulp=0,
        derivative_ulp=0, masks=True,
    ),
    Activation(
        "squared_relu", "SquaredReLU", "f(x) = max(0, x)^2", "f'(x) = 2 max(0, x)", "So et al., arXiv:2109.08668", ulp=1, derivative_ulp=0,
    ),
    Activation(
        "quick_gelu", "QuickGELU", "f(x) = x s(1.702 x), s the logistic sigmoid",
        "f'(x) = s(1.702 x) (1 + 1.702 x (1 - s(1.702 x)))", "Hendrycks & Gimpel, arXiv:1606.08415", derivative_absolute=1e-7,
    ),
    Activation(
        "snake", "Snake", "f(x) = x + sin(alpha x)^2 / alpha, and x where alpha = 0",
        "f'(x) = 1 + sin(2 alpha x); df/dalpha = (x sin(2 alpha x) - sin(alpha x)^2 / alpha) / alpha, and x^2 where alpha = 0",
        "Liu, Hartwig & Ueda, arXiv:2006.08195", learnables=(Learnable("alpha", 1.0),), derivative_absolute=1e-7,
    ),
)

_BETAS = (Hyperparameter("beta1", high=1.0, beta=0), Hyperparameter("beta2", high=1.0, beta=1))
_EPS, _MOMENTUM = Hyperparameter("eps"), Hyperparameter("momentum")
_ADAM_STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_UPDATE_RULES = (
    UpdateRule(
        "sgd", "SGD",
        "g += weight_decay p; b = g at the first step, else momentum b + (1 - dampening) g; "
        "p -= lr (g + momentum b if nesterov else b)",
        "Sutskever et al., ICML 2013", states=("momentum_buffer",), own_numbers=(_MOMENTUM, Hyperparameter("dampening", low=-math.inf)),
        flags=("nesterov", "first"), first_matters_with="dampening", optional_states=(("momentum_buffer", "momentum"),), scalars=(),
    ),
    UpdateRule(
        "adagrad", "Adagrad",
        "g += weight_decay p; s += g^2; p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)",
        "Duchi, Hazan & Singer, JMLR 12, 2011", states=("sum",), own_numbers=(Hyperparameter("lr_decay"), _EPS),
        starts=(("sum", "initial_accumulator_value"),),
    ),
    UpdateRule(
        "rmsprop", "RMSprop",
        "g += weight_decay p; v = alpha v + (1 - alpha) g^2; if centered: a = alpha a + (1 - alpha) g, w = max(v - a^2, 0), else w = v; "
        "u = g / (sqrt(w) + eps); with momentum: b = momentum b + u, u = b; p -= lr u",
        "Hinton, Coursera lecture 6e, 2012; Graves, arXiv:1308.0850 (centered)", states=("square_avg", "momentum_buffer", "grad_avg"),
        own_numbers=(Hyperparameter("alpha"), _EPS, _MOMENTUM), flags=("centered",),
        optional_states=(("momentum_buffer", "momentum"), ("grad_avg", "centered")),
    ),
    UpdateRule(
        "adam", "Adam",
        "g += weight_decay p; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; "
        "p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps); with amsgrad max over time of v stands for v",
        "Kingma & Ba, arXiv:1412.6980; Reddi et al., ICLR 2018 (amsgrad)", states=_ADAM_STATES,
        own_numbers=(*_BETAS, _EPS), flags=("amsgrad",), optional_states=(("max_exp_avg_sq", "amsgrad"),),
    ),
    UpdateRule(
        "adamw", "AdamW",
        "p -= lr weight_decay p; then Adam without its weight decay", "Loshchilov & Hutter, arXiv:1711.05101",
        states=_ADAM_STATES, own_numbers=(*_BETAS, _EPS), flags=("amsgrad",),
        optional_states=(("max_exp_avg_sq", "amsgrad"),),
    ),
    UpdateRule(
        "nadam", "NAdam",
        "weight decay as Adam, or as AdamW if decoupled; m, v as Adam; mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2), M = M mu(t); "
        "p -= lr ((1 - mu(t)) / (1 - M) g + mu(t+1) / (1 - M mu(t+1)) m) / (sqrt(v / (1 - beta2^t)) + eps)",
        "Dozat, ICLR workshop 2016", states=_ADAM_STATES[:2], own_numbers=(*_BETAS, _EPS, Hyperparameter("momentum_decay")),
        flags=("decoupled_weight_decay",), scalars=("step", "mu_product"), starts=(("mu_product", 1.0),),
    ),
    UpdateRule(
        "radam", "RAdam",
        "weight decay as Adam, or as AdamW if decoupled; m, v as Adam; R = 2 / (1 - beta2) - 1, r = R - 2 t beta2^t / (1 - beta2^t); "
        "p -= lr / (1 - beta1^t) m u, u = sqrt((r - 4) (r - 2) R / ((R - 4) (R - 2) r)) sqrt(1 - beta2^t) / (sqrt(v) + eps) "
        "if r > 5, else 1",
        "Liu et al., arXiv:1908.03265", states=_ADAM_STATES[:2], own_numbers=(*_BETAS, _EPS),
        flags=("decoupled_weight_decay",),
    ),
    UpdateRule(
        "adamax", "Adamax",
        "g += weight_decay p; m = beta1 m + (1 - beta1) g; u = max(beta2 u, |g| + eps); p -= lr / (1 - beta1^t) m / u",
        "Kingma & Ba, arXiv:1412.6980, section 7", states=("exp_avg", "exp_inf"), own_numbers=(*_BETAS, _EPS),
    ),
    UpdateRule(
        "lion", "Lion",
        "p -= lr weight_decay p; p -= lr sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g",
        "Chen et al., arXiv:2302.06675", states=("exp_avg",), own_numbers=_BETAS, scalars=(),
    ),
)


def _by_name(rows: tuple) -> dict:
    table = {row.name: row for row in rows}
    if len(table) != len(rows):
        raise ValueError(f"a name stands twice in {[row.name for row in rows]}")
    return table


ACTIVATIONS: dict[str, Activation] = _by_name(_ACTIVATIONS)
TORCH_NAMES = {"log_sigmoid": "logsigmoid"}
"""Where torch.nn.functional spells a row's name otherwise."""
UPDATE_RULES: dict[str, UpdateRule] = _by_name(_UPDATE_RULES)
