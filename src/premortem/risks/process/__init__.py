"""Ways in which any command fails, whatever it computes."""
