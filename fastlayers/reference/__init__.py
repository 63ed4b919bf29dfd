"""The kernel interface in plain PyTorch: the oracle of every test and the backend that always works."""
from .batch_norm import batch_norm_backward, batch_norm_backward_input, batch_norm_forward, batch_norm_statistics
from .dropout import dropout_mask
from .epilogue import epilogue_backward, epilogue_forward, epilogue_inverse
from .gated import gated_backward, gated_forward
from .optimizers import gradient_norm, optimizer_step
from .vector_math import resolve_vector_functions

__all__ = [
    "batch_norm_backward", "batch_norm_backward_input", "batch_norm_forward", "batch_norm_statistics", "dropout_mask",
    "epilogue_backward", "epilogue_forward", "epilogue_inverse", "gated_backward", "gated_forward", "gradient_norm", "optimizer_step",
]

resolve_vector_functions()
