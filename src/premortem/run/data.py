"""Data sets under guard: all of them whole and right, or a stop that names each one that is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from premortem.core.engine import Engine
from premortem.core.errors import ConfigError, StageError
from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.run.bind import bind
from premortem.run.calls import Calls
from premortem.run.driver import Driver
from premortem.run.suggest import closest
from premortem.run.telling import LOGGER, tell
from premortem.stages.data.cache import Cache
from premortem.stages.data.catalogue import by_name
from premortem.stages.data.hub import is_offline
from premortem.stages.data.obtain import from_cache
from premortem.stages.data.source import Source, read_sources
from premortem.stages.data.workload import KIND, DataWorkload

if TYPE_CHECKING:
    from premortem.run.guard import Guard
    from premortem.stages.data.obtain import ReadySet
    from premortem.stages.data.transport import Patience

CACHE_VARIABLE = "PREMORTEM_DATA"
_MOST_TICKS = 200
"""A ladder of a dozen tries takes three assessments each; what goes on longer is not getting anywhere."""


def cache_folder(given: str | Path | None) -> Path:
    """The folder given, else ``$PREMORTEM_DATA``, else ``premortem/data`` in the user's cache folder."""
    if given is not None:
        return Path(given).expanduser()
    if said := os.environ.get(CACHE_VARIABLE):
        return Path(said).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "premortem" / "data"


def sources_of(wanted: Sequence[str | Path | Source]) -> tuple[Source, ...]:
    """Sources from names, files of sets (``*.yaml``) and sources.

    A name is one of the catalogue's, or ``owner/name`` at the hub.

    Raises:
        ConfigError: for a name that is neither, with the closest match; for a file that is no list of sets.
    """
    found: dict[str, Source] = {}
    known = by_name()
    for item in wanted:
        if isinstance(item, Source):
            sources: tuple[Source, ...] = (item,)
        elif str(item).endswith((".yaml", ".yml")):
            sources = read_sources(item)
        elif str(item) in known:
            sources = (known[str(item)],)
        elif _is_hub_name(str(item)):
            sources = (Source(name=str(item)),)
        else:
            raise ConfigError(
                f"data: found the unknown set {str(item)!r}, expected one of {', '.join(known)}, 'owner/name' at the "
                f"hub, or a file of sets ending in .yaml{closest(str(item), known)}"
            )
        for source in sources:
            if found.setdefault(source.name, source) != source:
                raise ConfigError(f"data: the set {source.name!r} is named twice and differs; give it two names")
    if not found:
        raise ConfigError("data: no set was named; name at least one, such as 'gsm8k'")
    return tuple(found.values())


def _is_hub_name(name: str) -> bool:
    owner, _, rest = name.partition("/")
    return bool(owner and rest) and not any(c in name for c in " \\:*?\"'<>|") and "/" not in rest and ".." not in name


class GuardedData:
    """One preflight of a run's data sets under a guard's register.

    Raises:
        ConfigError: where no active entry of the register watches data.
    """

    def __init__(self, guard: Guard, workload: DataWorkload) -> None:
        self.workload = workload
        plan = bind(guard.active, workload, guard.file.register, probation=1)
        if not plan.watches:
            raise ConfigError(
                f"register {guard.file.register!r}: no active entry watches {KIND!r}; take "
                "premortem.Guard('agent-forge'), or add an entry with the risk train/data-missing"
            )
        self._owns_ledger = not isinstance(guard.ledger, Ledger)
        self.ledger = _ledger(guard.ledger, workload.cache)
        self.engine = Engine(plan)
        # each preflight is a run of its own: a latch of yesterday's must not keep today's from trying
        self.driver = Driver(self.engine, workload, self.ledger, run=KIND)
        self.driver.listen(Calls(guard.file, self.driver.note).hear)
        self.driver.listen(tell)

    def make_ready(self) -> dict[str, ReadySet]:
        """Assess, and let the ladder be climbed, until every set is ready and stays so, or nothing is left to try.

        Raises:
            StageError: with one line for each set that is missing; nothing is handed out then.
        """
        try:
            self._note(what="began", sets=[str(need.source) for need in self.workload.needs])
            for tick in range(1, _MOST_TICKS):
                self.driver.tick(self.workload.assess(), tick)
                is_quiet = self.engine.climbing is None and not self.engine.queue
                if self.workload.stopped or is_quiet:
                    break
            self._note(what="ended", why=self.workload.stopped, ready=sorted(self.workload.ready))
        finally:
            if self._owns_ledger:
                self.ledger.close()
        if self.workload.missing:
            raise StageError(missing_sets(self.workload))
        return self.workload.ready

    def _note(self, **data: object) -> None:
        self.driver.note(Record("run", "", None, self.engine.desk.tick, self.driver.seconds, data))  # type: ignore[arg-type]


def _ledger(given: Ledger | str | Path | None, cache: Cache) -> Ledger:
    """The guard's own, else one beside the data."""
    if isinstance(given, Ledger):
        return given
    if given is None:
        cache.prepare()
        given = cache.folder / "ledger.db"
    return Ledger.open(given, run=KIND)


def missing_sets(workload: DataWorkload) -> str:
    """One line for each set that is missing: what came of each place that was asked."""
    lines = [f"  {need.source}: " + ("; ".join(need.came_of.values()) or "not asked for") for need in workload.missing]
    count = f"{len(lines)} of {len(workload.needs)} data sets cannot be had, so nothing is trained:"
    advice = "  put the files into a folder and name it as the set's last mirror (docs/data.md)"
    return "\n".join([count, *lines, advice])


def make_ready(
    guard: Guard, wanted: Sequence[str | Path | Source], cache: str | Path | None, patience: Patience | None
) -> dict[str, ReadySet]:  # fmt: skip
    """See :meth:`premortem.Guard.data`."""
    # who works offline on purpose has the cached copies first, and no incident
    first = from_cache if is_offline() else None
    place = Cache(cache_folder(cache))
    workload = DataWorkload(sources_of(wanted), place, patience=patience, told=LOGGER.info, first=first)
    return GuardedData(guard, workload).make_ready()
