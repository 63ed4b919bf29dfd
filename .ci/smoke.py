"""What an installed wheel must do away from the repository, whose path is the argument: be found, be whole, train."""
import importlib.util
import sys
from pathlib import Path

import torch

import fastlayers as fl

for name in ("fastlayers", "fastlayers.kernels", "fastlayers.benchmarks", "fastlayers.demo", "fastlayers.reference"):
    found = importlib.util.find_spec(name)  # without importing: kernels needs Triton, which not every machine has
    if found is None or Path(found.origin).is_relative_to(sys.argv[1]):
        sys.exit(f"{name} must come from the wheel, got {found and found.origin}")
if not fl.backends()["cpp"].startswith("available"):
    sys.exit(f"the wheel has no C++ kernels: {fl.backends()['cpp']}")
if not Path(fl.__file__).with_name("py.typed").is_file():
    sys.exit("the wheel has no py.typed")

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), fl.nn.BatchNorm1d(64, activation="relu", dropout=0.1), torch.nn.Linear(64, 1))
optimizer = fl.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8)
losses = []
for _ in range(50):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(x), x[:, :1] * x[:, 1:2])
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
if not losses[-1] < 0.5 * losses[0]:
    sys.exit(f"training does not help: loss {losses[0]:.3f} before, {losses[-1]:.3f} after")
print(f"wheel works: {Path(fl.__file__).parent}, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
