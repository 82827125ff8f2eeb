"""Data sets that are there, whole and right, before anything is trained: sources, mirrors, a verified cache."""
