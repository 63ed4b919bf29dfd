"""Optimizers with the names, arguments, defaults and state_dict of torch.optim, each step one fused kernel launch."""
from .adagrad import Adagrad, RMSprop
from .adam import Adam, Adamax, AdamW, NAdam, RAdam
from .build import build
from .sgd import SGD, Lion

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop", "build"]
