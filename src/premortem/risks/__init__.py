"""One folder is one risk: risk.py (the page), drill.py, test_<risk>.py, runbook.md."""
