"""The report: a page that stands alone, and the picture of a rescued run."""
