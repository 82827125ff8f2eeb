"""A guarded run of several processes: one row, one set of outcomes, so one set of decisions."""
