"""premortem: the risk register that runs."""

__version__ = "0.1.0"
