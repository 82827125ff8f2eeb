"""Sends later what a run could not send: the same workers, once more, for every spool that is left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from premortem.core.errors import ConfigError, StageError
from premortem.stages.tracking.folder import Folder, find
from premortem.stages.tracking.reader import last_number
from premortem.stages.tracking.sender import Sender
from premortem.stages.tracking.tracker import unsent


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of one spool.

    Attributes:
        records: whole records in it; ``None`` where it could not be asked.
        unsent: records that its slowest tracker does not have yet.
        damaged: lines that are no record; a crash tears at most one at each start of the run.
        rejected: records that a tracker will never take; they stay in ``rejected-*.jsonl``.
        fault: why it is not all there, in words.
    """

    spool: str
    run: str
    records: int | None
    unsent: int | None
    damaged: int
    rejected: int
    fault: str = ""
    refused: bool = False


def sync(root: Path, *, wait_s: float) -> list[Synced]:
    """Send what the spool in ``root``, or each spool below it, still owes; each gets ``wait_s``.

    Raises:
        ConfigError: no spool there; of a single one, that a run writes to it.
        StageError: of a single one, that it is damaged.
    """
    found = find(root)
    return [_sync(found[0], wait_s)] if len(found) == 1 else [_one_of_several(folder, wait_s) for folder in found]


def _one_of_several(folder: Folder, wait_s: float) -> Synced:
    """What is wrong with one, or that a run writes to it, keeps no other waiting."""
    try:
        return _sync(folder, wait_s)
    except (ConfigError, StageError) as error:
        fault = str(error).removeprefix(f"{folder.path}: ")
        return Synced(str(folder.path), folder.path.name, None, None, 0, 0, fault)


def _sync(folder: Folder, wait_s: float) -> Synced:
    run = folder.read_run()
    if folder.is_held("writer"):
        raise ConfigError(
            f"{folder.path}: a run writes to this spool, and its own sender sends it; wait until it ended"
        )
    try:
        last, damaged = last_number(folder.spool)
    except FileNotFoundError:
        last, damaged = 0, 0
    except OSError as error:
        raise ConfigError(
            f"{folder.spool}: cannot be read ({error.strerror}); give this user the right to it"
        ) from None
    sinks = folder.sinks("online")
    if any(not folder.status(sink).done for sink in sinks) or unsent(folder, last) > 0:
        try:
            folder.choose("online")
            if not Sender(folder, wait_s, with_leftovers=False).run() and folder.is_held("sender"):
                raise StageError(f"{folder.path}: another sender is at work on it; ask again when it is done")
        except OSError as error:
            raise StageError(
                f"{folder.path}: cannot be written ({error.strerror}); what is in it is untouched"
            ) from None
    states = [folder.status(sink) for sink in sinks]
    left = max(0, unsent(folder, last))
    fault = next((state.fault for state in states if state.fault), "")
    if left and not fault:
        fault = f"not all was sent in {wait_s:g} s, and the tracker gave no answer; see {folder.log}, or --wait longer"
    return Synced(
        spool=str(folder.path), run=f"{run.project}/{run.name}", records=last, unsent=left, damaged=damaged,
        rejected=sum(state.num_rejected for state in states), fault=fault, refused=any(s.refused for s in states),
    )  # fmt: skip
