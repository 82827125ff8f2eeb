"""Preflight: what must be in place before a run. One small module a check, each with one function ``rows(asked)``.

A check imports nothing heavy at its top, answers within seconds and never raises for what it finds: that is a row.
"""
