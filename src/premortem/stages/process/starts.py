"""Every start of the command and how it ended: what may be started again, and what would only be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from premortem.core.evidence import Plain
from premortem.machine.ending import Cause, Ending
from premortem.stages.process.progress import Progress

_LONGEST_BACKOFF_S = 60.0
_DEVICE = frozenset({"gpu_lost", "no_gpu", "gpu_busy", "illegal_memory_access", "cuda_error", "xid", "gpu_memory_remap",
                     "gpu_memory_remap_failed"})  # fmt: skip
_MEMORY = frozenset({"host_oom", "shm_exhausted"})


@dataclass(frozen=True, slots=True)
class Ended:
    """One start that is over. ``kind``: ``well``, ``memory``, ``device-memory``, ``device``, ``network``, ``crash``,
    ``stopped`` by the supervisor, ``asked`` for by a signal that it passed on, or ``unheard``: badly, after the reader
    of its output had gone (``| head``), whom no further start would find either.
    """

    start: int
    pid: int
    code: int
    kind: str
    words: str
    signature: str
    lasted_s: float
    progress: bool
    step: int | None
    levels: dict[str, int]
    same: int
    """How many in a row ended so without progress, this one counted."""

    def to_json(self) -> dict[str, Plain]:
        """Plain data."""
        return dict(asdict(self))


def kind_of(ending: Ending) -> str:
    """Which kind of restart could help after this ending."""
    fault = "" if ending.trouble is None else ending.trouble.kind
    if ending.cause is Cause.FINISHED:
        return "well"
    if ending.cause is Cause.KILLED_FOR_MEMORY or fault in _MEMORY:
        return "memory"
    if fault == "oom":
        return "device-memory"
    if ending.cause is Cause.OUT_OF_MEMORY:
        return "memory"
    if fault in _DEVICE:
        return "device"
    return "network" if fault == "connection" else "crash"


class Starts:
    """Counts starts and endings over one run of the supervisor, and over its own restarts.

    Args:
        most: starts beyond the first.
        same: so many equal endings in a row without progress are a loop.
        backoff_s: seconds before the second restart in a row without progress; doubled each time.
        progress: follows the command.
    """

    def __init__(self, *, most: int, same: int, backoff_s: float, progress: Progress) -> None:
        self.most, self.same_at_most, self.progress = most, same, progress
        self._backoff_s = backoff_s
        self.num = 0
        self.endings: list[Ended] = []
        self._levels: dict[str, int] = {}

    @property
    def restarts(self) -> int:
        """Starts beyond the first."""
        return max(0, self.num - 1)

    @property
    def last(self) -> Ended | None:
        """The newest ending."""
        return self.endings[-1] if self.endings else None

    def why_not(self, signature: str = "") -> str:
        """Why no further start is allowed, empty where one is.

        Args:
            signature: of the stop that would come before it; empty where the command has ended already.
        """
        if self.restarts >= self.most:
            return f"{self.restarts} of {self.most} restarts are used"
        last = self.last
        same = 0 if last is None else last.same
        if signature:
            repeats = last is not None and last.signature == signature and not self.progress.so_far
            same = same + 1 if repeats else 1
        if same >= self.same_at_most:
            return f"it ended {same} times in the same way without progress"
        return ""

    @property
    def backoff_s(self) -> float:
        """Seconds to wait before the next start: none at first, and none after progress."""
        idle = 0
        for ended in reversed(self.endings):
            if ended.progress:
                break
            idle += 1
        return 0.0 if idle < 2 else float(min(_LONGEST_BACKOFF_S, self._backoff_s * 2 ** (idle - 2)))

    def begin(self, levels: Mapping[str, int]) -> int:
        """A start begins; returns its number, from 1."""
        self.num += 1
        self._levels = dict(levels)
        self.progress.begin()
        return self.num

    def end(self, pid: int, ending: Ending, kind: str, lasted_s: float) -> Ended:
        """The newest start is over."""
        made = self.progress.made(lasted_s)
        last = self.last
        repeats = (
            last is not None and not made and last.signature == ending.signature
            and last.levels == self._levels  # other settings are another try
        )  # fmt: skip
        same = last.same + 1 if repeats and last is not None else 1
        code = 255 if ending.code is None else ending.code
        ended = Ended(self.num, pid, code, kind, ending.words, ending.signature, round(lasted_s, 3), made,
                      self.progress.step, dict(self._levels), same)  # fmt: skip
        self.endings.append(ended)
        return ended

    def state(self) -> dict[str, Plain]:
        """Plain data to resume from (law 11)."""
        return {
            "num": self.num, "progress": dict(self.progress.state()),
            "endings": [ended.to_json() for ended in self.endings],
        }  # fmt: skip

    def load(self, state: Mapping[str, Plain]) -> None:
        """Resume; raises ``KeyError`` or ``TypeError`` for what was not written by :meth:`state`."""
        rows, progress, num = state["endings"], state["progress"], state["num"]
        if not (isinstance(rows, list) and isinstance(progress, dict) and isinstance(num, int)):
            raise TypeError("the memory of the starts has another form")
        self.endings = [Ended(**row) for row in rows if isinstance(row, dict)]  # type: ignore[arg-type]
        self.num = num
        step, longest = progress["step"], progress["longest_s"]
        self.progress.load(step if isinstance(step, int) else None, float(longest or 0.0))  # type: ignore[arg-type]
