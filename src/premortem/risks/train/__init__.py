"""Risks of training."""
