"""Several jobs on one machine: a pool that runs them, starts killed ones again, and can be told to take less."""
