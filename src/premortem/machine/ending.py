"""How a process ended, and by whom: the kernel for memory, somebody, or itself.

Covered: return codes of subprocess (negative for a signal), of a shell (128 + signal, as a container reports it) and
wait statuses; the counter of kills of its control group before and after; the kernel's log where it may be read; the
last lines that it wrote. Not covered: who sent a signal, which the kernel does not keep.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from premortem.machine.lines import Trouble, classify

_RECENT = 40
_SHELL = 128


class Cause(Enum):
    """Why it ended. Only `FINISHED` is well."""

    FINISHED = "finished"
    EXIT = "ended by itself with an error"
    OUT_OF_MEMORY = "ended by itself, out of memory"
    KILLED_FOR_MEMORY = "killed by the kernel for memory"
    KILLED = "killed by somebody"
    KILLED_UNKNOWN = "killed, by the kernel for memory or by somebody"
    SIGNAL = "ended by a signal"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Ending:
    """`code` is what a shell would show; `signature` is equal for endings of the same cause."""

    cause: Cause
    code: int | None
    signal: str = ""
    trouble: Trouble | None = None
    last_line: str = ""
    signature: str = ""

    @property
    def for_memory(self) -> bool:
        """Whether memory is known to be the cause."""
        return self.cause in (Cause.KILLED_FOR_MEMORY, Cause.OUT_OF_MEMORY)

    @property
    def words(self) -> str:
        """One line for a person, such as `killed by the kernel for memory, exit 137`."""
        if self.code is None:
            return "how it ended is unknown"
        by = f" ({self.signal})" if self.cause is Cause.SIGNAL else ""
        said = f": {self.last_line}" if self.last_line and self.cause in (Cause.EXIT, Cause.OUT_OF_MEMORY) else ""
        return f"{self.cause.value}{by}, exit {self.code}{said}"


@dataclass(frozen=True, slots=True)
class Witnesses:
    """What is known beside the code. `kills_*`: the counter of the group; `pid` is looked for in the kernel's log."""

    kills_before: int | None = None
    kills_after: int | None = None
    pid: int | None = None
    tail: Sequence[str] = ()

    @property
    def kernel_killed(self) -> bool | None:
        """Whether the kernel killed for memory there meanwhile; None where nothing could tell."""
        if self.kills_before is not None and self.kills_after is not None:
            return self.kills_after > self.kills_before
        killed = kernel_kills() if self.pid is not None else None
        return None if killed is None else self.pid in killed


def ending(code: int | None, seen: Witnesses | None = None) -> Ending:
    """From a return code: negative or above 128 for a signal; None is unknown.

    >>> ending(137, Witnesses(0, 1)).words
    'killed by the kernel for memory, exit 137'
    >>> ending(-15).words
    'ended by a signal (SIGTERM), exit 143'
    """
    seen = seen or Witnesses()
    last = _last_error(seen.tail)
    trouble = classify(last) if last else None
    if code is None:
        return Ending(Cause.UNKNOWN, None, "", trouble, last, signature(None, last))
    number = -code if code < 0 else code - _SHELL if code > _SHELL else 0
    name = _name(number)
    shown = _SHELL + number if name else code
    cause = _cause(shown, name, trouble, seen)
    return Ending(cause, shown, name, trouble, last, signature(shown, last))


def from_wait_status(status: int, seen: Witnesses | None = None) -> Ending:
    """From what `os.wait` gives."""
    return ending(os.waitstatus_to_exitcode(status), seen)


def signature(code: int | None, last_line: str) -> str:
    """Equal for two endings with the same code and the same last line of error, but for what changes each time.

    >>> signature(1, "ValueError: 3 of 7 at 0x7fbe01") == signature(1, "ValueError: 5 of 9 at 0x1102ab")
    True
    """
    text = last_line
    for pattern, name in _VARIES:
        text = pattern.sub(name, text)
    return f"exit {'?' if code is None else code} | {' '.join(text.split())[:200]}"


def kernel_kills() -> frozenset[int] | None:
    """Processes that the kernel's log says it killed for memory; None where the log may not be read."""
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    found: set[int] = set()
    try:
        while True:
            try:
                record = os.read(descriptor, 8192)
            except BrokenPipeError:
                continue  # the log was overwritten meanwhile; reading goes on at its oldest record
            if not record:
                break
            found.update(int(pid) for pid in _KILLED.findall(record))
    except OSError:  # no more records
        pass
    finally:
        os.close(descriptor)
    return frozenset(found)


_KILLED = re.compile(rb"Killed process (\d+)")
_VARIES = (
    (re.compile(r"0x[0-9a-fA-F]+"), "#"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"(?:/tmp|/var/tmp|/dev/shm|/var/folders)/[^\s'\"),:]+"), "<tmp>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[a-f]*\d)[0-9a-f]{12,}\b"), "<id>"),
    (re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"), "#"),
)
_ERROR = re.compile(
    r"^\s*(?:[\w.]*(?:Error|Exception|Interrupt|Exit)\b|fatal|error\b|killed\b|segmentation|abort)", re.IGNORECASE
)


def _last_error(tail: Sequence[str]) -> str:
    """The last line that reads like an error; the last that is not empty where none does."""
    lines = [line.strip() for line in tail[-_RECENT:] if line.strip()]
    for line in reversed(lines):
        if _ERROR.match(line) or classify(line) is not None:
            return line
    return lines[-1] if lines else ""


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name if number > 0 else ""
    except ValueError:
        return ""


def _cause(code: int, name: str, trouble: Trouble | None, seen: Witnesses) -> Cause:
    if code == 0:
        return Cause.FINISHED
    if name == "SIGKILL":
        killed = seen.kernel_killed
        if killed is None:
            return Cause.KILLED_UNKNOWN
        return Cause.KILLED_FOR_MEMORY if killed else Cause.KILLED
    if name:
        return Cause.SIGNAL
    # a worker of it may have been killed, and the rest ended by themselves
    if (trouble is not None and trouble.kind in ("host_oom", "oom", "shm_exhausted")) or (
        seen.kills_before is not None and seen.kills_after is not None and seen.kills_after > seen.kills_before
    ):
        return Cause.OUT_OF_MEMORY
    return Cause.EXIT
