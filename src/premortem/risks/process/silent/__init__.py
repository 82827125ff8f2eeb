"""A command is there and does nothing."""
