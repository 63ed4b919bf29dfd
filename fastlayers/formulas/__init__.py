"""Activations of the user's own, from a formula: parsed, differentiated with SymPy, and generated for PyTorch and Triton.

SymPy is imported at the first registration, not with the package.
"""
from .register import register_activation, unregister_activation

__all__ = ["register_activation", "unregister_activation"]
