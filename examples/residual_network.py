"""A residual network of fused blocks, trained on MNIST digits in bfloat16 where it pays.

    python examples/residual_network.py [steps]

A block is dropout(relu(batch_norm(x) + shortcut)), one kernel each way. Needs fastlayers[demo], which brings the digits.
"""
from __future__ import annotations

import sys

import torch
from torch import Tensor

import fastlayers as fl
from fastlayers import nn
from fastlayers.demo import data


class ResidualBlock(torch.nn.Module):
    """Two 3 x 3 convolutions with a way around them."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels, activation="relu")
        self.second = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels, activation="relu", dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.second_norm(self.second(self.first_norm(self.first(x))), residual=x)


def network(channels: int = 16, blocks: int = 2) -> torch.nn.Sequential:
    """A stem, some blocks, an average over the image, a linear layer."""
    stem = [torch.nn.Conv2d(1, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels, activation="relu")]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, 10)]
    return torch.nn.Sequential(*stem, *(ResidualBlock(channels, dropout=0.1) for _ in range(blocks)), *head)


@torch.no_grad()
def accuracy(model: torch.nn.Module, digits: data.Digits) -> float:
    """The share of test images that are recognised."""
    return (model.eval()(digits.test_images).argmax(1) == digits.test_labels).float().mean().item()


def main(steps: int) -> None:
    torch.manual_seed(0)
    digits = data.load(None)
    model = network()
    # Weights alone decay; the norm of all gradients is clipped, and an average of the weights kept, in the sweep that updates them.
    optimizer = fl.optim.build("adamw", model, lr=3e-3, weight_decay=0.05, max_grad_norm=1.0, ema_decay=0.99)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        chosen = torch.randint(len(digits.train_labels), (128,))
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(digits.train_images[chosen]), digits.train_labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}")
    print(f"test accuracy {100 * accuracy(model, digits):.1f} %")
    with optimizer.swap_ema():  # other weights have other statistics
        torch.optim.swa_utils.update_bn(digits.train_images.split(500), model)
        print(f"test accuracy with averaged weights {100 * accuracy(model, digits):.1f} %")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
