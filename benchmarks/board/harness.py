"""What runs in each peer's own environment: one row, one peer, one JSON line. Needs torch and the peer's package.

A peer's script hands over an adapter; the fault, the measuring and the judging of what is left are the same for all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from memory_job import MemoryJob
from workload import ONSET, Job, digest

FLIPS = 20


class Stopped(Exception):  # noqa: N818 - what happened, not an error of ours
    """The peer's guard ended the run, on purpose."""


class Adapter(Protocol):
    """What a peer's script offers; all by the peer's public API."""

    version: str

    def train(self, job: Job) -> None:
        """To the end, with checkpoints in ``job.folder``; from its newest one where ``job.resume``."""

    def seen(self) -> int | None:
        """The first step, counted from 0, at which the peer's own guard said that something is wrong."""

    def note(self) -> str:
        """What else it has to tell of the run."""

    def newest(self, folder: Path) -> Path:
        """File or folder of the newest checkpoint. Raises where there is none."""

    def load(self, job: Job, folder: Path) -> Any:
        """Load the newest checkpoint into ``job.model`` as one would to go on; what the optimiser got, if anything."""

    def fit_memory(self, job: MemoryJob) -> None:
        """Train ``job`` from a batch that does not fit."""


def main(make: Callable[[], Adapter]) -> None:
    """Run the rows that the command line names, each in a process of its own, and print each outcome as a line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", required=True, help="JSON: [[row, folder], ...]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=240.0, help="seconds a row")
    given = parser.parse_args()
    for row, folder in json.loads(given.rows):
        outcome = _apart(make, _Cell(row, Path(folder), given.seed), given.limit)
        if row in ("killed", "disk full") and outcome["ended"] != "finished":
            again = _apart(make, _Cell(row, Path(folder), given.seed, resume=True), given.limit)
            outcome = again | {"first": outcome}
        print("\n" + json.dumps({"row": row} | outcome), flush=True)


@dataclass(frozen=True)
class _Cell:
    row: str
    folder: Path
    seed: int
    resume: bool = False


def _apart(make: Callable[[], Adapter], cell: _Cell, limit_s: float) -> dict[str, Any]:
    """In a forked child: packages are imported once a peer, and whatever ends a row ends no other."""
    sys.stdout.flush()
    told, tell = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _live(make, cell, tell)
    os.close(tell)
    with os.fdopen(told, "rb", buffering=0) as stream:
        heard, is_late = b"", False
        while not is_late:
            ready, _, _ = select.select([stream], [], [], max(0.0, began + limit_s - time.monotonic()))
            is_late = not ready
            part = stream.read(1 << 16) if ready else b""
            heard += part
            if not part:
                break
    if is_late:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds = {"seconds": round(time.monotonic() - began, 1)}
    with contextlib.suppress(ValueError):  # what was cut off in the middle of its line has said nothing
        return json.loads(heard) | seconds
    why = f"took more than {limit_s:.0f} s" if is_late else f"exit {code}"
    return {"ended": "died", "why": why} | seconds


def _live(make: Callable[[], Adapter], cell: _Cell, tell: int) -> None:
    code = 1
    try:
        warnings.simplefilter("ignore")
        adapter = make()
        outcome = {"memory": _memory, "bit flip": _flips}.get(cell.row, _training)(adapter, cell)
        with os.fdopen(tell, "wb") as stream:
            stream.write(json.dumps(outcome | {"version": adapter.version}).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _training(adapter: Adapter, given: _Cell) -> dict[str, Any]:
    job = Job(given.row, given.folder, given.seed, given.resume)
    filler = Filler(given.folder)
    if given.row == "disk full" and not given.resume:
        job.model.on_step.append(lambda now: filler.fill() if now == ONSET + 50 else None)
    outcome = _guarded(lambda: adapter.train(job))
    filler.free()
    job.model.row = "healthy"
    outcome |= {
        "seen": adapter.seen(), "note": adapter.note(), "passes": job.model.now + 1, "loss": _plain(job.validate()),
        "curve": {k: _plain(v) for k, v in job.model.curve.items()}, "digest": digest(job.model.state_dict()),
    }  # fmt: skip
    return outcome | _kept(adapter, given)


def _kept(adapter: Adapter, given: _Cell) -> dict[str, Any]:
    """The newest checkpoint that can be loaded; ``by_hand`` are those that a person must take away first."""
    by_hand: list[str] = []
    with tempfile.TemporaryDirectory(prefix="premortem-board-") as home:
        folder = Path(shutil.copytree(given.folder, Path(home) / "copy"))
        while True:
            job = Job("healthy", folder, given.seed)
            try:
                adapter.load(job, folder)
            except BaseException as error:  # DCP's own is none of Exception
                by_hand.append(_line(error))
            else:
                return {"kept": _plain(job.validate()), "by_hand": by_hand}
            try:
                _remove(adapter.newest(folder))
            except (ValueError, OSError):
                return {"kept": None, "by_hand": by_hand}


def _guarded(run: Any) -> dict[str, Any]:
    try:
        run()
    except Stopped as stopped:
        return {"ended": "stopped", "why": str(stopped)}
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        return {"ended": "died", "why": _line(error)}
    return {"ended": "finished", "why": ""}


def _line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return re.sub(r"/\S*/", "", text)[:100]


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Filler:
    """Takes what is free in a file system, as another program would; 32 KiB stay."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast.of.another"

    def fill(self) -> None:
        """Until a write is really refused."""
        with self._ballast.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(1 << 20))
            except OSError:
                size = stream.tell()
            stream.truncate(max(0, size - (1 << 15)))

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)


def _memory(adapter: Adapter, given: _Cell) -> dict[str, Any]:
    clean = MemoryJob(given.seed)
    clean.train_whole()
    job = MemoryJob(given.seed)
    with job.limited():
        outcome = _guarded(lambda: adapter.fit_memory(job))
    drift = max(
        float((a - b).abs().max()) for a, b in zip(clean.model.parameters(), job.model.parameters(), strict=True)
    )
    return outcome | {
        "seen": adapter.seen(), "note": adapter.note(), "calls": job.calls, "steps": job.steps, "batch": job.batch,
        "loss": _plain(job.validate()), "clean": clean.validate(), "drift": drift,
    }  # fmt: skip


def _flips(adapter: Adapter, given: _Cell) -> dict[str, Any]:
    """One flipped bit in the newest checkpoint, many times over; each time a fresh job loads it."""
    home = given.folder / "clean"
    home.mkdir()
    adapter.train(Job("healthy", home, given.seed, epochs=2))
    truths = {_loaded(adapter, home)}
    tally = {"silent": 0, "older": 0, "refused": 0, "harmless": 0}
    without = given.folder / "without"
    shutil.copytree(home, without)
    _remove(adapter.newest(without))
    try:
        older = _loaded(adapter, without)
    except BaseException:
        older = ""
    chance = random.Random(given.seed)
    for number in range(FLIPS):
        trial = given.folder / f"trial-{number}"
        shutil.copytree(home, trial)
        _flip(adapter.newest(trial), chance)
        try:
            found = _loaded(adapter, trial)
        except BaseException:
            tally["refused"] += 1
        else:
            how = "harmless" if found in truths else "older" if found == older else "silent"
            tally[how] += 1
        shutil.rmtree(trial)
    return {"ended": "finished", "why": "", "seen": None, "note": adapter.note(), "flips": tally}


def _loaded(adapter: Adapter, folder: Path) -> str:
    job = Job("healthy", folder, 1)  # other weights than those saved
    return digest(adapter.load(job, folder), job.model.state_dict())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _flip(path: Path, chance: random.Random) -> None:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if file.stat().st_size]
    file = chance.choices(files, [file.stat().st_size for file in files])[0]
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
