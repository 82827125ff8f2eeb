"""A set by its name through `datasets.load_dataset`, in a process of its own.

The libraries read their endpoint and time limits once, when they are imported, and have no bound on the whole: a
child process takes both from its environment, and is ended when its time is up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from premortem.stages.data.hub import endpoint_of
from premortem.stages.data.refusal import Refused
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.transport import Patience

_NOT_THERE = ("DatasetNotFoundError", "RepositoryNotFoundError", "EntryNotFoundError", "HfUriError", "ValueError",
              "DataFilesNotFoundError", "RuntimeError")  # fmt: skip
_DAMAGED = ("DatasetGenerationError", "ChecksumVerificationError", "NonMatchingSplitsSizesError", "ArrowInvalid")

_TWO_AT_ONCE = threading.BoundedSemaphore(2)
"""Each process holds the library, some 300 MB of it."""

_CHILD = """
import json, os, sys, threading, time
asked, parent = json.loads(sys.argv[1]), os.getppid()
def end_with_parent():
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(3)
threading.Thread(target=end_with_parent, daemon=True).start()
import datasets
datasets.disable_progress_bars()
try:
    found = datasets.load_dataset(
        asked["name"], asked["config"] or None, split=asked["split"], revision=asked["revision"],
        cache_dir=asked["cache"], verification_mode="all_checks",
    )
    found.to_parquet(asked["to"])
except Exception as error:
    lines = str(error).split("\\n")
    print(json.dumps({"kind": type(error).__name__, "why": lines[0][:300]}))
    sys.exit(1)
"""


def load_by_name(source: Source, mirror: Mirror, to: Path, patience: Patience) -> None:
    """Load the split and write it to the parquet file `to`; raises Refused.

    What the libraries keep on the way is thrown away each time: they would take a damaged file for a good one.
    """
    with _TWO_AT_ONCE, tempfile.TemporaryDirectory(dir=to.parent, ignore_cleanup_errors=True) as home:
        _load(source, mirror, to, Path(home), patience)


def _load(source: Source, mirror: Mirror, to: Path, home: Path, patience: Patience) -> None:
    asked = {
        "name": mirror.place, "config": mirror.config or source.config, "split": source.split,
        "revision": mirror.revision, "cache": str(home / "datasets"), "to": str(to),
    }  # fmt: skip
    environment = {
        **os.environ, "HF_ENDPOINT": endpoint_of(mirror), "HF_HUB_DOWNLOAD_TIMEOUT": str(max(1, int(patience.read_s))),
        "HF_HUB_ETAG_TIMEOUT": str(max(1, int(patience.read_s))), "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, json.dumps(asked)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = child.communicate(timeout=patience.total_s)
    except subprocess.TimeoutExpired:
        raise Refused("unreachable", f"{mirror}: not whole within {patience.total_s:g} s") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode != 0:
        _raise(mirror, said, child.returncode)


def _raise(mirror: Mirror, said: str, code: int) -> None:
    try:
        row = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        raise Refused("unreachable", f"{mirror}: its process ended with exit code {code}") from None
    kind, why = row["kind"], f"{mirror}: {row['kind']}: {row['why']}"
    if kind in _DAMAGED:
        raise Refused("damaged", why)
    raise Refused("not there" if kind in _NOT_THERE else "unreachable", why)
