"""The loop that guards any command: the kernel of the live training, on a process that knows nothing of it."""
