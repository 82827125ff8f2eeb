"""Halting goes to an extreme."""
