"""An activation of your own from a formula, with a parameter that learns, fused into batch norm.

    python examples/own_activation.py

Needs fastlayers[symbolic]: SymPy derives the derivatives.
"""
from __future__ import annotations

import torch

import fastlayers as fl
from fastlayers import nn


def main() -> None:
    torch.manual_seed(0)
    # A gate that opens as fast as it learns to; the gradients of x and of slope are SymPy's.
    kind = fl.register_activation("soft_gate", "x * (1 + tanh(slope * x)) / 2", parameters={"slope": 1.0})
    block = nn.BatchNorm1d(8, activation=kind(num_parameters=8), dropout=0.1)  # one slope per channel; one kernel each way
    print(block)
    x = torch.randn(64, 8, requires_grad=True)
    block(x).square().sum().backward()
    print("gradient of the slopes:", block.activation.slope.grad)
    print("what computes it here:", fl.backends("soft_gate"))

    layer = kind(slope=0.8).double()  # second derivatives, too
    x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    print("derivatives agree with differences:", torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x))


if __name__ == "__main__":
    main()
