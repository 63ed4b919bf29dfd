"""Optimizers with the names, arguments, defaults and state_dict of torch.optim, each step one fused kernel launch."""
from .adam import Adam, AdamW
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW"]
