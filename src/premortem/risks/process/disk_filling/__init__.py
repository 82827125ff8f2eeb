"""The file system that a command writes to fills up."""
