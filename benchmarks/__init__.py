"""Benchmarks: installed as ``fastlayers.benchmarks``, run by ``python -m fastlayers bench``."""
