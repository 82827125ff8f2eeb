"""Registers: policy as data. Four ship in the box, and ``default.yaml`` for any training run."""
