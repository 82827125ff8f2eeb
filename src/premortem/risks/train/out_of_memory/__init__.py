"""Training runs out of memory."""
