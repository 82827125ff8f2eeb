"""Plain ML and systems code, ignorant of risks; each stage offers a workload."""
