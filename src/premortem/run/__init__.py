"""Drivers of the kernel: the guard loop, drills, gates, reports."""
