"""Optimizer updates as PyTorch: ``optimizer_step`` and ``gradient_norm``, and one function per update rule."""
