"""Breaks every part of every rung on purpose and counts wrong verdicts: the kernel's own drill."""
