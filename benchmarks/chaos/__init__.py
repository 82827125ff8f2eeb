"""A run that meets one random fault of any kind every 100 steps: ``python -m benchmarks.chaos``."""
