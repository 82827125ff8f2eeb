"""A name for the running process that no later process can bear, to find what a killed drill left behind."""

from __future__ import annotations

import os
import re

import psutil

PREFIX = "premortem"
_OWNED = re.compile(rf"\.?{PREFIX}-[a-z]+-(\d+)-(\d+)(?:-.*)?")


def _started_ms(pid: int) -> int:
    return round(psutil.Process(pid).create_time() * 1000)


def owned_name(kind: str) -> str:
    """`premortem-<kind>-<pid>-<start in ms>`; the start time tells a reused pid apart. `kind`: a-z only."""
    return f"{PREFIX}-{kind}-{os.getpid()}-{_started_ms(os.getpid())}"


def is_orphan(name: str, kind: str) -> bool:
    """Whether `name` was made by `owned_name(kind)` in a process that no longer runs."""
    found = _OWNED.fullmatch(name)
    if found is None or not name.lstrip(".").startswith(f"{PREFIX}-{kind}-"):
        return False
    pid, started = int(found[1]), int(found[2])
    try:
        # create_time() is boot time + ticks: a clock step of some ms must not disown a living process.
        return abs(_started_ms(pid) - started) > 2_000
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
