"""The guard itself is the fault."""
