"""Memory pressure builds up in an inference worker."""
