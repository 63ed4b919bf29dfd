"""The kernel interface in Triton: NVIDIA and AMD GPUs, and CPU tensors in an emulator or under TRITON_INTERPRET=1."""
from .batch_norm import batch_norm_backward, batch_norm_backward_input, batch_norm_forward, batch_norm_statistics
from .dropout import dropout_mask
from .epilogue import epilogue_backward, epilogue_forward
from .epilogue_inverse import epilogue_inverse
from .gated import gated_backward, gated_forward
from .gradient_norm import gradient_norm
from .optimizer_step import optimizer_step

__all__ = [
    "batch_norm_backward", "batch_norm_backward_input", "batch_norm_forward", "batch_norm_statistics", "dropout_mask",
    "epilogue_backward", "epilogue_forward", "epilogue_inverse", "gated_backward", "gated_forward", "gradient_norm", "optimizer_step",
]
