"""Accelerators, as the driver sees them: asked by its own tool, in a process that can be given up.

A broken driver hangs whoever calls into it, so nothing of it is loaded here: `nvidia-smi` is run with a limit on its
time. Covered: NVIDIA. Not covered: other makers (a tool of theirs is one more function like `_nvidia`); memory of
devices of a container that hides its processes.
Source: `nvidia-smi --help-query-gpu` and `--help-query-compute-apps`.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field

MIB = 1 << 20
_FIELDS = (
    "index", "uuid", "name", "memory.total", "memory.free", "memory.used",
    "ecc.errors.uncorrected.volatile.total", "remapped_rows.pending", "remapped_rows.failure",
)  # fmt: skip
_MEMORY_AT = 3


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator; bytes, None where the driver does not say. `used_by`: bytes by pid."""

    index: int
    name: str
    total: int | None
    free: int | None
    used: int | None
    used_by: dict[int, int | None] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Devices:
    """All there are. `trouble` says why they could not be asked; empty with no devices: there are none."""

    found: tuple[Device, ...] = ()
    trouble: str = ""


def devices(timeout_s: float = 10.0) -> Devices:
    """Ask the driver. Raises nothing: a driver that fails or hangs is said in `trouble`."""
    tool = shutil.which("nvidia-smi")
    return Devices() if tool is None else _nvidia(tool, timeout_s)


def _nvidia(tool: str, timeout_s: float) -> Devices:
    rows, trouble = _query(tool, f"--query-gpu={','.join(_FIELDS)}", timeout_s)
    if trouble:
        return Devices((), trouble)
    users, hidden = _query(tool, "--query-compute-apps=gpu_uuid,pid,used_memory", timeout_s)
    by: dict[str, dict[int, int | None]] = {}
    for row in users:
        if len(row) == 3 and row[1].isdecimal():
            by.setdefault(row[0], {})[int(row[1])] = _mib(row[2])
    found = [_device(row, by) for row in rows if len(row) == len(_FIELDS) and row[0].isdecimal()]
    if rows and not found:
        return Devices((), f"nvidia-smi answered in a form that is not known: {', '.join(rows[0])[:200]}")
    return Devices(tuple(found), f"who uses the devices is unknown: {hidden}" if hidden else "")


def _query(tool: str, what: str, timeout_s: float) -> tuple[list[list[str]], str]:
    """Rows of fields, and what went wrong."""
    try:
        done = subprocess.run(
            [tool, what, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [], f"nvidia-smi did not answer in {timeout_s:g} s: the driver hangs"
    except OSError as error:
        return [], f"nvidia-smi could not be run: {error.strerror}"
    said = " ".join((done.stdout + " " + done.stderr).split())
    if done.returncode != 0:
        none = "no devices were found" in said.lower()
        return [], "" if none else f"nvidia-smi ended with exit code {done.returncode}: {said[:200]}"
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()], ""


def _device(row: list[str], by: dict[str, dict[int, int | None]]) -> Device:
    index, uuid, name = row[:_MEMORY_AT]
    total, free, used = (_mib(text) for text in row[_MEMORY_AT : _MEMORY_AT + 3])
    ecc, pending, failure = row[_MEMORY_AT + 3 :]
    errors = []
    if ecc.isdecimal() and int(ecc):
        errors.append(f"{ecc} uncorrected ECC errors since the driver was loaded")
    if pending.lower() in ("yes", "1"):
        errors.append("a row of memory is to be remapped at the next reset")
    if failure.lower() in ("yes", "1"):
        errors.append("a row of memory could not be remapped")
    errors += [
        f"{what} of this device cannot be read" for what, text in (("memory", row[_MEMORY_AT]),) if "ERR" in text
    ]
    return Device(int(index), name, total, free, used, by.get(uuid, {}), tuple(errors))


def _mib(text: str) -> int | None:
    try:
        return int(float(text) * MIB)
    except ValueError:
        return None
