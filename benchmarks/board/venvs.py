"""One environment a peer, in a cache folder: made once, kept until its requirements change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class NotInstalled(Exception):  # noqa: N818 - what the table says
    """pip refused; the message is its own line."""


def default_home() -> Path:
    """``premortem/board`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "premortem" / "board"


def python_of(name: str, home: Path) -> Path:
    """The interpreter that has the peer's package; premortem's own is the running one.

    Raises:
        NotInstalled: with pip's own reason; it is remembered, so that pip is not asked again.
    """
    if name.startswith("premortem"):
        return Path(sys.executable)
    folder = home / "venvs"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:  # two boards may begin at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _made(name, folder)


def _made(name: str, folder: Path) -> Path:
    wanted = HERE / "requirements" / f"{name}.txt"
    mark = hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]
    venv, refused = folder / name, folder / f"{name}-{mark}.refused"
    if refused.exists():
        raise NotInstalled(refused.read_text())
    python, done = venv / "bin" / "python", venv / f"made-{mark}"
    if done.exists():
        return python
    print(f"board: makes {venv}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    for packages in (["torch==2.13.0"], ["-r", str(wanted)]):  # torch first and pinned, so that no CUDA build comes
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *packages]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            reason = _reason(found.stdout + found.stderr).replace(f"{wanted.parent}/", "")
            if "conflicting dependencies" in reason:  # will not change by asking again, as a network may
                refused.write_text(reason)
            raise NotInstalled(reason)
    done.touch()
    return python


def _reason(output: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    wants = [line.strip() for line in output.splitlines() if "depends on torch" in line]
    return "; ".join([*errors[:1], *wants[:1]]) or "pip failed without a reason"
