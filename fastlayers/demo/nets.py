"""The two networks of the demo, as stock PyTorch or with fastlayers' blocks."""
from __future__ import annotations

from torch import nn

from ..contenders import activation, batch_norm

DROPOUT = {"mlp": 0.2, "cnn": 0.5}
"""The default dropout probability of each network."""


def build(net: str, library: str, activation_name: str, dropout: float) -> nn.Sequential:
    """The network ``net``, from "torch" or "fastlayers"; what is not activation, batch norm or dropout is torch.nn in both."""
    return _BUILDERS[net](library, activation_name, dropout)


def _mlp(library: str, activation_name: str, dropout: float) -> nn.Sequential:
    """784 - 512 x 5 - 10: batch norm, activation and dropout in every hidden layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    for features in (784, 512, 512, 512, 512):
        layers += [nn.Linear(features, 512, bias=False), batch_norm(library, 1, 512, activation_name, dropout)]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def _cnn(library: str, activation_name: str, dropout: float) -> nn.Sequential:
    """Two blocks of 5 x 5 convolution, batch norm, activation and pooling, then two linear layers with dropout between them."""
    layers: list[nn.Module] = []
    for channels, features in ((1, 32), (32, 64)):
        convolution = nn.Conv2d(channels, features, 5, padding=2, bias=False)
        layers += [convolution, batch_norm(library, 2, features, activation_name), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(64 * 7 * 7, 512), activation(library, activation_name, dropout), nn.Linear(512, 10)]
    return nn.Sequential(*layers)


_BUILDERS = {"mlp": _mlp, "cnn": _cnn}
NETS = tuple(_BUILDERS)
