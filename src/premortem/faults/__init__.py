"""Real disturbances as context managers: shown to be there, shown to be gone."""
