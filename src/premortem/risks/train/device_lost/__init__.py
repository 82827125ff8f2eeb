"""Risk train/device-lost."""
