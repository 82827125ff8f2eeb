"""The board: real faults against the guards that others ship, with their defaults, beside premortem."""
