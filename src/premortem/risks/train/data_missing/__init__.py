"""Data sets cannot be had, or not whole and right."""
