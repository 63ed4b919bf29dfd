"""A model that is written with torch.nn, trained with fastlayers' layers and handed on without them.

    python examples/convert_a_model.py [steps]

Needs fastlayers[demo], which brings the digits.
"""
from __future__ import annotations

import sys

import torch

import fastlayers as fl
from fastlayers.demo import data


def network() -> torch.nn.Sequential:
    """Yours, in place of this one; it may come with weights."""
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    for features in (784, 256):
        layers += [torch.nn.Linear(features, 256), torch.nn.BatchNorm1d(256), torch.nn.SiLU(), torch.nn.Dropout(0.1)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(256, 10))


def main(steps: int) -> None:
    torch.manual_seed(0)
    digits = data.load(None)
    model = fl.convert(network(), fuse=True)  # in place: parameters and the state_dict are what they were
    print(model)
    optimizer = fl.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        chosen = torch.randint(len(digits.train_labels), (64,))
        loss = torch.nn.functional.cross_entropy(model(digits.train_images[chosen]), digits.train_labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    folded = fl.fold_batch_norm(model)  # a copy for inference, batch norms merged into the linear layers before them
    plain = fl.revert(model)            # torch.nn's layers again, for someone without fastlayers
    with torch.no_grad():
        scores = plain(digits.test_images)
        print(f"test accuracy: {100 * (scores.argmax(1) == digits.test_labels).float().mean():.1f} %")
        print(f"largest difference of a folded score: {(folded(digits.test_images) - scores).abs().max():.1e}")
    print("layers of fastlayers left:", sum(type(layer).__module__.startswith("fastlayers") for layer in plain.modules()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
