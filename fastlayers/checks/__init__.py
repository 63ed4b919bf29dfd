"""Argument checks: the words of every error about an argument, always ``operation: argument must RULE, got VALUE``.

Those of optimizers alone are in optim/checks.py, those of formulas in formulas/checks.py; the command line has a usage.UsageError.

Kinds follow torch: ValueError for a value, TypeError for a Python type, RuntimeError for dtype, device and shape of a tensor.
Everything is checked before any state (running statistics, parameters, steps) is changed. A check returns nothing, or the argument as
kernels take it; where a caller has found out by itself, there is the exception to raise.
"""
from .activations import *  # noqa: F403 - callers write checks.name, whichever file it is in
from .layers import *  # noqa: F403
from .models import *  # noqa: F403
from .tensors import *  # noqa: F403
from .values import *  # noqa: F403
