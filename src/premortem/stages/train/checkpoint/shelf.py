"""The bundles of one run: which is newest, which are good, which can be loaded, which may go."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint.disk import disk_errors, remove_tree, sync_folder
from premortem.stages.train.checkpoint.files import Beside
from premortem.stages.train.checkpoint.load import read_manifest, verify_bundle
from premortem.stages.train.checkpoint.lock import FolderLock, leftovers, temporary_name
from premortem.stages.train.checkpoint.manifest import Bundle, bundles_in
from premortem.stages.train.checkpoint.marks import Mark, mark_path, marks_of, read_mark, write_mark
from premortem.stages.train.checkpoint.save import LEGAL_NONFINITE, save_bundle
from premortem.stages.train.checkpoint.search import Search, fault, is_protected, not_good, search, turned_from

GOOD_KEPT = 2


class Shelf:
    """The bundles in one folder, held by one run at a time and by one thread of it.

    Args:
        folder: where the bundles lie; made when missing.
        keep: how many of the newest bundles :meth:`prune` leaves, ≥ 1.
        own: hold the folder (sweeping what killed writers left); ``False`` only reads, beside a running owner.

    Raises:
        ConfigError: when another living run holds the folder, or ``keep`` is below 1.
        StageError: when the folder cannot be used.
    """

    def __init__(self, folder: Path, keep: int = 3, *, own: bool = True) -> None:
        if keep < 1:
            raise ConfigError(f"keep is {keep}, expected at least 1; a shelf without a newest bundle cannot restore")
        self.folder, self.keep = folder, keep
        self.swept: tuple[str, ...] = ()
        self._verified: set[str] = set()
        self._lock = FolderLock(folder) if own else None
        if self._lock is not None:
            self._finalizer = weakref.finalize(self, self._lock.release)
            self.swept = self._sweep()

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; the shelf then only reads."""
        if self._lock is not None:
            self._finalizer()
            self._lock = None

    def save(
        self,
        step: int,
        parts: Mapping[str, object],
        *,
        allow_nonfinite: bool = False,
        nonfinite_ok: Collection[str] = LEGAL_NONFINITE,
        from_disk: bool = False,
        beside: Beside | None = None,
    ) -> Bundle:
        """:func:`save_bundle` into this folder; same errors. Prunes nothing."""
        self._require_own()
        bundle = save_bundle(
            self.folder,
            step,
            parts,
            allow_nonfinite=allow_nonfinite,
            nonfinite_ok=nonfinite_ok,
            from_disk=from_disk,
            beside=beside,
        )
        if not allow_nonfinite:
            self._verified.add(bundle.name)
        return bundle

    def bundles(self) -> list[Bundle]:
        """Every bundle by name, oldest first, unverified."""
        with disk_errors("listing", self.folder):
            return bundles_in(self.folder)

    def latest(self) -> Bundle | None:
        """The newest bundle that was not abandoned, unverified."""
        return next((bundle for bundle in reversed(self.bundles()) if turned_from(bundle) is None), None)

    def find_loadable(self) -> Search:
        """The newest bundle that verifies now, walking back; abandoned ones are passed over."""
        return search(self.bundles(), turned_from)

    def find_good(self) -> Search:
        """The newest bundle marked good that verifies now, walking back over those marked."""
        marked = [bundle for bundle in self.bundles() if mark_path(bundle, "good").exists()]
        return search(marked, not_good)

    def last_good(self) -> Bundle | None:
        """The bundle of :meth:`find_good`."""
        return self.find_good().bundle

    def baseline(self, bundle: Bundle) -> dict[str, float]:
        """The healthy levels that the bundle was marked good with.

        Raises:
            StageError: when it has no readable good mark.
        """
        mark = read_mark(bundle, "good")
        if mark is None:
            raise StageError(f"{bundle.path}: is not marked good, expected a good bundle; use last_good()")
        return mark.baseline

    def mark_good(self, step: int, baseline: Mapping[str, float]) -> Bundle:
        """Mark the newest bundle of ``step`` good, after verifying it; again, to replace its baseline.

        Raises:
            StageError: when there is no such bundle, it does not verify, or the mark cannot be written.
        """
        bundle = self._at(step)
        manifest = verify_bundle(bundle.path)
        levels = {name: float(value) for name, value in baseline.items()}
        self._mark(bundle, "good", manifest.bundle, baseline=levels)
        return bundle

    def protect(self, step: int, by: str) -> Bundle:
        """Keep the newest bundle of ``step`` from deletion until ``by`` lets go; several may hold one bundle.

        Raises:
            StageError: when there is no such bundle or the mark cannot be written.
        """
        bundle = self._at(step)
        self._mark(bundle, "protected", read_manifest(bundle.path).bundle, by=by)
        return bundle

    def unprotect(self, step: int | None, by: str) -> None:
        """Let go of what ``by`` protects at ``step``, ``None``: anywhere, in every timeline; others' stays."""
        self._require_own()
        with disk_errors("unprotecting", self.folder):
            for bundle in self.bundles():
                if step is None or bundle.step == step:
                    mark_path(bundle, "protected", by).unlink(missing_ok=True)
            sync_folder(self.folder)

    def abandon(self, after: int, why: str) -> list[Bundle]:
        """Turn away from every bundle beyond step ``after`` that was not left before: the run went back there.

        They are neither latest nor loadable any more, so that a crash right after a restore does not resume into
        what was left. Good and protected ones stay on the disk.

        Raises:
            StageError: when a mark cannot be written.
        """
        self._require_own()
        left = [bundle for bundle in self.bundles() if bundle.step > after and turned_from(bundle) is None]
        for bundle in left:
            self._mark(bundle, "abandoned", "", by=why)
        return left

    def reclaim(self, left: Iterable[Bundle], after: int, why: str) -> None:
        """Undo an :meth:`abandon` of step ``after``: the run takes up again what it left, and leaves what came since.

        Raises:
            StageError: when a mark cannot be written or taken away.
        """
        self.abandon(after, why)
        with disk_errors("taking up again", self.folder):
            for bundle in left:
                mark_path(bundle, "abandoned").unlink(missing_ok=True)
            sync_folder(self.folder)

    def prune(self) -> list[Bundle]:
        """Delete what is neither good, protected, needed nor among the newest; returns what was deleted.

        Kept: the newest ``keep`` that were not abandoned; the two newest marked good, and the two newest good that
        verify now; all protected; all whose marks cannot be read; and the newest loadable bundle, wherever it is.

        Raises:
            StageError: when the disk fails; what is half deleted no longer has a bundle's name.
        """
        self._require_own()
        bundles = self.bundles()
        kept = set([b for b in bundles if turned_from(b) is None][-self.keep :])
        kept.update(bundle for bundle in bundles if is_protected(bundle))
        kept.update(self._goods_kept(bundles))
        if len(kept) < len(bundles):
            kept.update(self._loadable(bundles, kept))
        victims = [bundle for bundle in bundles if bundle not in kept]
        with disk_errors("pruning", self.folder):
            for bundle in victims:
                self._delete(bundle)
        return victims

    def _goods_kept(self, bundles: list[Bundle]) -> Iterable[Bundle]:
        goods = [bundle for bundle in bundles if mark_path(bundle, "good").exists()]
        kept, sound = set(goods[-GOOD_KEPT:]), 0
        if len(goods) <= GOOD_KEPT:
            return kept
        # An older good one may go only for two newer that are sound today, not merely marked.
        for bundle in reversed(goods):
            if sound < GOOD_KEPT:
                kept.add(bundle)
                sound += not_good(bundle) is None and fault(bundle) is None
        return kept

    def _loadable(self, bundles: list[Bundle], kept: set[Bundle]) -> Iterable[Bundle]:
        """The newest loadable bundle; one saved by this run into the kept was verified then and serves."""
        standing = [bundle for bundle in bundles if turned_from(bundle) is None]
        if standing and standing[-1].name in self._verified and standing[-1] in kept:
            return ()
        found = search(standing, lambda _: None).bundle
        return () if found is None else (found,)

    def _delete(self, bundle: Bundle) -> None:
        trash = self.folder / temporary_name(bundle.name, "trash")
        os.rename(bundle.path, trash)
        sync_folder(self.folder)
        for mark in marks_of(bundle):
            mark.unlink()
        remove_tree(trash)

    def _at(self, step: int) -> Bundle:
        self._require_own()
        found = [bundle for bundle in self.bundles() if bundle.step == step]
        if not found:
            steps = [bundle.step for bundle in self.bundles()]
            raise StageError(f"{self.folder}: no bundle of step {step}, expected one of {steps}; save it first")
        return found[-1]

    def _mark(
        self, bundle: Bundle, kind: str, identity: str, *, by: str = "", baseline: dict[str, float] | None = None
    ) -> None:
        mark = Mark(kind, identity, bundle.step, bundle.timeline, by, baseline or {}, time.time())
        with disk_errors(f"marking step {bundle.step} {kind}", self.folder):
            write_mark(bundle, mark)

    def _require_own(self) -> None:
        if self._lock is None:
            raise ConfigError(f"{self.folder}: this shelf only reads, expected one that owns it; open Shelf(folder)")

    def _sweep(self) -> tuple[str, ...]:
        with disk_errors("sweeping", self.folder):
            found = leftovers(self.folder)
            for path in found:
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)
                else:
                    path.unlink()
            return tuple(path.name for path in found)
