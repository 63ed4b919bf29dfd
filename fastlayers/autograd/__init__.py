"""The autograd functions: what to save, what to recompute, which gradients to ask for.

All call the kernel interface directly in eager mode and through the custom ops of ops.py under torch.compile. A backward pass that
is itself differentiated (create_graph=True), and everything under a torch.func transform, goes through the reference formulas, which
autograd can follow.
"""
from . import composed
from .activations import activation
from .batch_norm import Arguments as BatchNormArguments
from .batch_norm import batch_norm, needed
from .common import kernels_for
from .epilogue import Arguments, epilogue
from .gated import gated

__all__ = ["Arguments", "BatchNormArguments", "activation", "batch_norm", "composed", "epilogue", "gated", "kernels_for", "needed"]
