"""Risks of serving."""
