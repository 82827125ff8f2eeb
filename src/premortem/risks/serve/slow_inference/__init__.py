"""Inference gets slower in production."""
