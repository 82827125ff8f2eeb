"""Jobs are killed because memory runs out."""
