"""``python -m fastlayers demo``: two networks on real digits, each trained with stock PyTorch and with fastlayers."""
