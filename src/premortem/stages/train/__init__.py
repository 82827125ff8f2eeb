"""Training: real models on real input, and any torch model as a workload."""
