"""Training diverges."""
