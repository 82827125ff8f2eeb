"""Halting extremes."""
