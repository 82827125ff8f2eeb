"""Are the data sets there, whole and right? Each is really fetched into the cache and its first rows are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from premortem.core.errors import StageError
from premortem.registers.load import load_register
from premortem.run.data import cache_folder, sources_of
from premortem.run.preflight.row import Asked, Row
from premortem.stages.data.cache import Cache
from premortem.stages.data.catalogue import AGENT_FORGE
from premortem.stages.data.obtain import ReadySet
from premortem.stages.data.transport import Patience
from premortem.stages.data.workload import FROM_CACHE, NEXT_MIRROR, RETRY, DataWorkload, Need

PATIENCE = Patience(attempts=3, longest_wait_s=5.0, total_s=600.0)
_EXPECTED = "whole, by the hash of its source; the first 10 rows decoded, with their columns"


def rows(asked: Asked) -> list[Row]:
    """A row for each data set; those that the register's source names where none was asked for.

    Raises:
        ConfigError: for a set that is unknown, and a file of sets that cannot be read.
    """
    wanted = asked.datasets or _named_by(asked.register)
    if not wanted:
        return [Row("data sets", "not asked", "none was named", "", "name them: --dataset NAME or --dataset sets.yaml")]
    try:
        return check_data(wanted)
    except StageError as error:
        return [Row("data sets", "unknown", str(error), _EXPECTED, "set PREMORTEM_DATA to a folder that can be used")]


def check_data(
    wanted: Sequence[str | Path], cache: str | Path | None = None, patience: Patience = PATIENCE
) -> list[Row]:  # fmt: skip
    """Fetch every set by all ways there are, mirror after mirror, then the cached copy; a row for each."""
    workload = DataWorkload(sources_of(wanted), Cache(cache_folder(cache)), patience=patience)
    workload.assess()
    workload.go(RETRY)
    workload.assess()
    most = max(len(need.source.places) for need in workload.needs)
    for _ in range(most - 1):
        if workload.missing:
            workload.go(NEXT_MIRROR)
            workload.assess()
    if workload.missing:
        workload.go(FROM_CACHE)
        workload.assess()
    return [_missing(need) if need.ready is None else _there(need, need.ready) for need in workload.needs]


def _named_by(register: str) -> tuple[str, ...]:
    return AGENT_FORGE if load_register(register).register == "agent-forge" else ()


def _there(need: Need, ready: ReadySet) -> Row:
    size = sum(kept.size for kept in ready.entry.files)
    found = f"{len(ready.first)} rows from {ready.mirror}, {size / 1e6:.1f} MB in {len(ready.paths)} files"
    if not ready.entry.is_verified:
        found += "; the source names no hash, so form and length alone were checked"
    if need.way == FROM_CACHE:
        found += f"; the cached copy of {ready.entry.fetched}: {_reasons(need)}"
    return Row(str(need.source), "ok", found, _EXPECTED)


def _missing(need: Need) -> Row:
    do = "put its files into a folder and name that as a mirror in a file of sets (docs/data.md)"
    return Row(str(need.source), "not ok", _reasons(need), _EXPECTED, do)


def _reasons(need: Need) -> str:
    return "; ".join(need.came_of.values())
