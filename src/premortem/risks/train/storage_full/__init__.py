"""The storage for checkpoints fills up."""
