"""The experiment tracker is offline."""
