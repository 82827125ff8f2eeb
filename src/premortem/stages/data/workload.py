"""The data sets of a run as a workload: whether they are there, and by which way the next are fetched.

A tick is one assessment. A set that is ready stays ready while its files stay as they are; a set that is missing is
fetched once for every turn of the control `fetch`, so a tick that only looks costs next to nothing.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from premortem.core.action import Control, Override, Owner, Setting
from premortem.core.errors import ConfigError
from premortem.core.signal import Signal
from premortem.stages.data.cache import Cache
from premortem.stages.data.fetch import Told
from premortem.stages.data.obtain import ReadySet, from_cache, obtain
from premortem.stages.data.refusal import Refused
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.transport import Patience

KIND = "data"
SIGNALS = (
    Signal("sets_ready", "sets", higher_is_worse=False, help="required sets whose first 10 rows load"),
    Signal("sets_unreachable", "sets", help="refused, reset, hanging, rate-limited"),
    Signal("sets_not_there", "sets", help="renamed, withdrawn, gated, or without the configuration"),
    Signal("sets_damaged", "sets", help="cut, garbled, or without the columns"),
    Signal("retries", "tries", help="repeated tries so far"),
)
ONCE, RETRY, NEXT_MIRROR, FROM_CACHE = "one try", "retry", "next mirror", "cached copy"
_AT_ONCE = 8

Plain = Callable[[Source, Cache], ReadySet]
"""A first try of the user's own; raises Refused where it got nothing."""


@dataclass(slots=True)
class Need:
    """One required set, and how things stand with it. `came_of` says for each place asked what came of it last, `way`
    by which way it was had."""

    source: Source
    at: int = 0
    ready: ReadySet | None = None
    refused: Refused | None = None
    came_of: dict[str, str] = field(default_factory=dict)
    way: str = ""
    seen: tuple[object, ...] = ()

    @property
    def mirror(self) -> Mirror:
        """The place that is asked now."""
        return self.source.places[self.at]


class DataWorkload:
    """The sets that a run needs.

    Args:
        sources: which; each name once.
        cache: where they are kept.
        patience: for one mirror, once retrying began; the first try of a set is a single one.
        told: is told of each retry, in one line.
        first: the first try, where it is not a single try of the first mirror.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cache: Cache,
        *,
        patience: Patience | None = None,
        told: Told = lambda line: None,
        first: Plain | None = None,
    ) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"data: found the sets {names}, expected at least one and each name once")
        self.needs = [Need(source) for source in sources]
        self.cache, self.patience, self._told, self._first = cache, patience or Patience(), told, first
        self.num_retries = 0
        self.stopped = ""
        self._way, self._asked, self._due = ONCE, ONCE, True

    # --- what a workload offers ---------------------------------------------------------------

    kind = KIND
    signals = SIGNALS

    @property
    def controls(self) -> Mapping[str, Control]:
        """`fetch`: the way of the next fetch; `run`: whether the run may begin."""
        return {"fetch": _Fetch(self), "run": _Run(self)}

    @property
    def witnesses(self) -> Mapping[str, str]:
        """None: that a way was taken shows in the sets themselves."""
        return {}

    @property
    def conditions(self) -> Mapping[str, Callable[[], bool | None]]:
        """None: a set counts as ready only when it was hashed and decoded."""
        return {}

    # --- a tick -------------------------------------------------------------------------------

    def assess(self) -> list[float | None]:
        """Look after every set, fetch what is missing if a fetch is due; the signals, in order."""
        for need in self.needs:
            _look_again(need)
        missing = self.missing
        if missing and self._due and not self.stopped:
            _side_by_side(self._fetch, missing)
        self._due = False
        of = [need.refused.symptom if need.refused else "" for need in self.needs if need.ready is None]
        ready = len(self.needs) - len(of)
        counts = [ready, of.count("unreachable"), of.count("not there"), of.count("damaged"), self.num_retries]
        return [float(count) for count in counts]

    @property
    def missing(self) -> list[Need]:
        """The sets that are not ready."""
        return [need for need in self.needs if need.ready is None]

    @property
    def ready(self) -> dict[str, ReadySet]:
        """The sets that are ready, by name."""
        return {need.source.name: need.ready for need in self.needs if need.ready is not None}

    def go(self, way: str) -> None:
        """The next assessment fetches what is missing by this way; raises ConfigError for an unknown one."""
        name = way.split(" #")[0]
        if name not in (RETRY, NEXT_MIRROR, FROM_CACHE):
            raise ConfigError(f"fetch: found the way {way!r}, expected {RETRY}, {NEXT_MIRROR} or {FROM_CACHE}")
        if name == NEXT_MIRROR:
            for need in self.missing:
                need.at = (need.at + 1) % len(need.source.places)
        self._way, self._asked, self._due = name, way, True

    def _fetch(self, need: Need) -> None:
        try:
            need.ready, need.refused, need.way = self._by_way(need), None, self._way
            need.seen = _look(need.ready)
        except Refused as error:
            need.refused = error
            need.came_of["cache" if self._way == FROM_CACHE else str(need.mirror)] = str(error)

    def _by_way(self, need: Need) -> ReadySet:
        if self._way == FROM_CACHE:
            return from_cache(need.source, self.cache)
        if self._way == ONCE and self._first is not None:
            return self._first(need.source, self.cache)
        patience = self.patience if self._way != ONCE else replace(self.patience, attempts=1)
        return obtain(need.source, need.mirror, self.cache, patience, self._retried)

    def _retried(self, line: str) -> None:
        self.num_retries += 1
        self._told(line)


class _Fetch:
    """The way that the next fetch goes, or the last one went."""

    def __init__(self, workload: DataWorkload) -> None:
        self._workload = workload

    def turn(self, owner: Owner, override: Override) -> None:
        self._workload.go(str(override.by))

    def undo(self, owner: Owner) -> None:
        """What was fetched stays."""

    def read(self) -> Setting:
        return self._workload._asked


class _Run:
    """Whether the run may begin: once stopped, nothing is fetched any more."""

    def __init__(self, workload: DataWorkload) -> None:
        self._workload = workload

    def turn(self, owner: Owner, override: Override) -> None:
        self._workload.stopped = str(override.by)

    def undo(self, owner: Owner) -> None:
        """A run that did not begin cannot be taken back."""

    def read(self) -> Setting:
        return self._workload.stopped or "may begin"


def _side_by_side(fetch: Callable[[Need], None], needs: Sequence[Need]) -> None:
    """Fetch several at once; raises the first error. Threads end with the process, so Ctrl-C waits for no hub."""
    waiting, errors = queue.SimpleQueue[Need](), list[BaseException]()
    for need in needs:
        waiting.put(need)

    def work() -> None:
        while not errors:
            try:
                fetch(waiting.get_nowait())
            except queue.Empty:
                return
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, len(needs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _look(ready: ReadySet) -> tuple[object, ...]:
    """Tells a changed file from an unchanged one without reading it; NaN, unlike itself, where one is gone."""
    try:
        states = [path.stat() for path in ready.paths]
    except OSError:
        return (math.nan,)
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in states)


def _look_again(need: Need) -> None:
    """A ready set whose files changed since is hashed anew, and missing if it is not what was fetched."""
    if need.ready is None or _look(need.ready) == need.seen:
        return
    if need.ready.is_whole():
        need.seen = _look(need.ready)
    else:
        lost, need.ready = need.ready.source, None
        need.refused = Refused("damaged", f"{lost}: a file in the cache is no longer what was fetched")
