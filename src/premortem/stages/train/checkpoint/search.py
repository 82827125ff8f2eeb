"""Walking back from the newest bundle to one that serves, keeping every reason on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint.load import read_manifest, verify_bundle
from premortem.stages.train.checkpoint.manifest import Bundle
from premortem.stages.train.checkpoint.marks import marks_of, read_mark


@dataclass(frozen=True, slots=True)
class Rejected:
    """A bundle that was passed over, and why in one line."""

    bundle: Bundle
    why: str


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, ``None`` when nothing serves, and every newer bundle that was rejected on the way."""

    bundle: Bundle | None
    rejected: tuple[Rejected, ...]


def search(bundles: Sequence[Bundle], objection: Callable[[Bundle], str | None]) -> Search:
    """The last of ``bundles`` that meets no objection and verifies now."""
    rejected: list[Rejected] = []
    for bundle in reversed(bundles):
        why = objection(bundle) or fault(bundle)
        if why is None:
            return Search(bundle, tuple(rejected))
        rejected.append(Rejected(bundle, why))
    return Search(None, tuple(rejected))


def fault(bundle: Bundle) -> str | None:
    """Why the bundle does not verify now, or ``None`` when it does."""
    try:
        verify_bundle(bundle.path)
    except StageError as error:
        return str(error)
    return None


def turned_from(bundle: Bundle) -> str | None:
    """Why the run abandoned the bundle, or ``None``; a mark that cannot be read counts as abandoned."""
    try:
        mark = read_mark(bundle, "abandoned")
    except StageError as error:
        return str(error)
    return None if mark is None else f"{bundle.path}: abandoned: {mark.by}"


def not_good(bundle: Bundle) -> str | None:
    """Why the bundle is not good, or ``None`` when its mark can be read and speaks of this very bundle."""
    try:
        mark = read_mark(bundle, "good")
        if mark is None or mark.bundle != read_manifest(bundle.path).bundle:
            return f"{bundle.path}: has no good mark of its own, expected one; mark it again"
    except StageError as error:
        return str(error)
    return None


def is_protected(bundle: Bundle) -> bool:
    """Held by someone, or carrying a mark that nobody can read: it may have said so."""
    if marks_of(bundle, "protected"):
        return True
    try:
        read_mark(bundle, "good")
        read_mark(bundle, "abandoned")
    except StageError:
        return True
    return False
