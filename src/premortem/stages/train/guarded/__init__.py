"""Any torch training loop as a workload: exact skips, owned settings, restores that are checked."""
