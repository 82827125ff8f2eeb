"""The healthy latency of a service, learned once and kept: it outlives the process, and no slow start can become it.

A JSON file with one entry for each task, model, depth and class of machine. A model is known by its bundle's name:
other weights put in place under the same name must keep its pace.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from premortem.core.errors import StageError

FORMAT = "premortem-latency-baseline-1"
WINDOWS = 5
"""Healthy windows from which it is learned; the median of them is kept."""
_APART = 1.3
"""Where one of the windows is so much slower than the median of them, they are not one healthy normal."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """Milliseconds of a healthy service at its usual depth; ``windows`` it was learned from.

    ``canary_ms``: median of lone canary requests, ``per_s``: requests accepted a second, both of the same windows;
    ``None`` where they were not measured.
    """

    p50_ms: float
    p95_ms: float
    windows: int
    canary_ms: float | None = None
    per_s: float | None = None


class LatencyBaseline:
    """One key's baseline in a file.

    Args:
        path: the JSON file; its folder is made when there is something to keep.
        key: of :func:`key_of`.
        windows: healthy windows to learn from.
    """

    def __init__(self, path: Path, key: str, windows: int = WINDOWS) -> None:
        self.path, self.key = path, key
        self.fault = ""
        """Why the file cannot be used, in one line; nothing is learned or written until a person has mended it."""
        self._windows: deque[Healthy] = deque(maxlen=windows)
        self.known: Healthy | None = None
        with self._reported():
            self.known = _read(path).get(key)

    def offer(self, p50_ms: float, p95_ms: float, canary_ms: float | None = None, per_s: float | None = None) -> None:
        """One conclusive window of a service that is healthy; changes nothing where a baseline is known."""
        if self.known is not None or self.fault:
            return
        self._windows.append(Healthy(p50_ms, p95_ms, 1, canary_ms, per_s))
        if len(self._windows) < (self._windows.maxlen or 1):
            return
        p50s, p95s = [w.p50_ms for w in self._windows], [w.p95_ms for w in self._windows]
        if max(p50s) <= _APART * median(p50s) and max(p95s) <= 2.0 * _APART * median(p95s):
            canary_ms = _median(w.canary_ms for w in self._windows)
            per_s = _median(w.per_s for w in self._windows)
            self._keep(Healthy(median(p50s), median(p95s), len(self._windows), canary_ms, per_s))

    def disturbed(self) -> None:
        """What was offered so far was not healthy after all: learning begins anew."""
        self._windows.clear()

    def forget(self) -> None:
        """A person accepts a new normal: it is learned again. A file that cannot be read is put aside first."""
        self.disturbed()
        if self.fault:
            with contextlib.suppress(FileNotFoundError):
                self.path.rename(self.path.with_suffix(".unreadable"))
            self.fault = ""
        self.known = None
        with self._reported():
            _write(self.path, self.key, None)

    def _keep(self, found: Healthy) -> None:
        with self._reported():
            _write(self.path, self.key, found)
            self.known = found

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except StageError as error:
            self.fault = str(error)


def key_of(task: str, model: str, depth: int) -> str:
    """Task, bundle's name, usual depth in segments, and class of this machine: processor, and how many may be used."""
    return f"{task} · {model} · depth {depth} · {machine_class()}"


def machine_class() -> str:
    """Such as ``x86_64 Intel(R) Xeon(R) Processor × 2``; latencies of another class are not compared."""
    name = platform.processor() or "processor"
    with (
        contextlib.suppress(OSError, StopIteration),
        open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines,
    ):
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{platform.machine()} {name} × {len(os.sched_getaffinity(0))}"


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _read(path: Path) -> dict[str, Healthy]:
    """All entries; none where there is no file. Raises StageError for a file that is not what was written."""
    try:
        tree: Any = json.loads(path.read_text("utf-8"))
        if tree["format"] != FORMAT:
            raise ValueError(f"format {tree['format']!r}")
        found = {str(key): Healthy(**entry) for key, entry in tree["entries"].items()}
        for entry in found.values():
            if not (math.isfinite(entry.p95_ms) and 0 < entry.p50_ms <= entry.p95_ms):
                raise ValueError(f"p50 {entry.p50_ms} and p95 {entry.p95_ms}")
            if not all(extra is None or 0 < extra < math.inf for extra in (entry.canary_ms, entry.per_s)):
                raise ValueError(f"canary {entry.canary_ms} and {entry.per_s} requests a second")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(
            f"{path}: found no latency baseline there ({type(error).__name__}: {error}), expected {FORMAT}; slowness "
            "is unknown until it is restored, or `premortem incidents rebaseline` accepts a new normal"
        ) from error
    return found


def _write(path: Path, key: str, found: Healthy | None) -> None:
    """Change one entry, whole or not at all; other services may share the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = {k: asdict(v) for k, v in _read(path).items() if k != key}
            if found is not None:
                entries[key] = asdict(found)
            text = json.dumps({"format": FORMAT, "entries": entries}, indent=1, ensure_ascii=False, sort_keys=True)
            new = path.with_suffix(".new")
            with open(new, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
    except OSError as error:
        raise StageError(
            f"{path}: the latency baseline could not be kept ({error.strerror}), expected a folder that can be written"
        ) from error
