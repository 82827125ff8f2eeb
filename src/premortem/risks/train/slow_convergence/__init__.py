"""Training converges slowly."""
