"""Gets one set whole and right from one place, or says in one of three words why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from premortem.core.errors import StageError
from premortem.stages.data.by_name import load_by_name
from premortem.stages.data.cache import Cache, Entry, Kept, sha256_of
from premortem.stages.data.fetch import Remote, Told, fetch, retrying
from premortem.stages.data.hub import find_files, is_offline
from premortem.stages.data.refusal import Refused
from premortem.stages.data.rows import FORMATS, Row, check_rows, decode_all, first_rows, format_of
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.transport import Patience


@dataclass(frozen=True, slots=True)
class ReadySet:
    """A set that lies in the cache, hashed and decoded.

    Attributes:
        paths: its files, read-only, in the order of their names at the source.
        first: its first rows, decoded.
        entry: hashes, sizes, and the mirror they came from; `is_verified`: whether the source itself named the
            hashes, so that the first fetch was checked too.
    """

    source: Source
    entry: Entry
    paths: tuple[Path, ...]
    first: tuple[Row, ...]

    @property
    def mirror(self) -> str:
        """Where its files came from."""
        return self.entry.mirror

    def is_whole(self) -> bool:
        """Whether every file still is what was fetched, hashed anew; a damaged one is moved aside."""
        cache = Cache(self.paths[0].parents[2])
        return all(cache.holds(kept) for kept in self.entry.files)

    def dataset(self, **options: Any) -> Any:
        """The rows as a `datasets.Dataset`; every file is hashed once more before. `options` as `load_dataset`'s.

        Raises:
            StageError: where a file is no longer what was fetched.
        """
        import datasets

        cache = Cache(self.paths[0].parents[2])
        if not self.is_whole():
            raise StageError(f"{self.source}: a file in {cache.folder} is damaged since it was fetched; fetch it again")
        options = {"cache_dir": str(cache.folder / "datasets"), **options}
        files = [str(path) for path in self.paths]
        return datasets.load_dataset(format_of(self.paths[0]), data_files=files, split="train", **options)


def from_cache(source: Source, cache: Cache) -> ReadySet:
    """The set as an earlier run fetched it; raises Refused where it is absent or damaged."""
    entry = cache.read(source)
    if entry is None:
        raise Refused("not there", f"{source}: no whole copy in the cache {cache.folder}")
    return _ready(source, cache, entry)


def take_over(source: Source, file: Path, cache: Cache) -> ReadySet:
    """Keep a file that the user's own code fetched, checked like any other.

    Raises:
        Refused: where a mirror of the source names a sha256 and the file has another, or its rows are not right.
    """
    named = [mirror.sha256 for mirror in source.places if mirror.sha256]
    if named and sha256_of(file) not in named:
        raise Refused("damaged", f"{file}: its sha256 is none of those that {source} names")
    check_rows(first_rows([file]), source)
    if not named:
        decode_all([file])
    kept = cache.adopt_copy(file)
    return _ready(source, cache, cache.commit(source, (kept,), f"file {file}", is_verified=bool(named)))


def obtain(source: Source, mirror: Mirror, cache: Cache, patience: Patience, told: Told) -> ReadySet:
    """Fetch the set from one mirror, check its hashes and first rows, and keep it.

    Raises:
        Refused: what the mirror did.
        StageError: where the cache cannot be written, or another process holds the set for too long.
    """
    with cache.lock(source, patience.total_s):
        files, is_verified = _bring(source, mirror, cache, patience, told)
        paths = [cache.blob(kept) for kept in files]
        check_rows(first_rows(paths), source)
        if not is_verified:  # nothing but its form can tell a cut or garbled file from a whole one
            decode_all(paths)
        return _ready(source, cache, cache.commit(source, files, str(mirror), is_verified=is_verified))


def _ready(source: Source, cache: Cache, entry: Entry) -> ReadySet:
    paths = tuple(cache.blob(kept) for kept in entry.files)
    rows = first_rows(paths)
    check_rows(rows, source)
    return ReadySet(source, entry, paths, tuple(rows))


def _bring(
    source: Source, mirror: Mirror, cache: Cache, patience: Patience, told: Told
) -> tuple[tuple[Kept, ...], bool]:  # fmt: skip
    if mirror.kind in ("hub", "datasets") and is_offline():
        raise Refused("not there", f"{mirror}: not asked, because HF_HUB_OFFLINE is set")
    if mirror.kind == "folder":
        return tuple(cache.adopt_copy(file) for file in _local_files(source, mirror)), False
    if mirror.kind == "datasets":
        part = cache.part(f"{mirror}:{source}").with_suffix(".parquet")
        retrying(lambda: load_by_name(source, mirror, part, patience), patience, told, str(mirror))
        return (cache.adopt(part, f"{source.split}.parquet"),), False
    if mirror.kind == "url":
        name = mirror.place.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        remotes = [Remote(mirror.place, name, mirror.sha256)]
    else:
        remotes = find_files(source, mirror, patience, told)
    files = tuple(_one(remote, cache, patience, told) for remote in remotes)
    return files, all(remote.has_hash for remote in remotes)


def _one(remote: Remote, cache: Cache, patience: Patience, told: Told) -> Kept:
    """The file from the cache where its hash is known and it is there; else fetched."""
    if remote.sha256 and remote.size is not None:
        known = Kept(remote.name, remote.sha256, remote.size)
        if cache.holds(known):
            return known
    part = cache.part(remote.identity)
    fetch(remote, part, patience, told)
    return cache.adopt(part, remote.name)


def _local_files(source: Source, mirror: Mirror) -> list[Path]:
    """The split's files in a folder, or one file; raises Refused (not there)."""
    place = Path(mirror.place).expanduser()
    found = [place] if place.is_file() else sorted(file for file in place.rglob("*") if format_of(file))
    named = [file for file in found if source.split in file.stem or source.split in file.parts]
    chosen = (named or found)[: source.max_files or None]
    if not chosen:
        wanted = ", ".join(FORMATS)
        raise Refused("not there", f"{mirror}: no file with one of the suffixes {wanted}")
    return chosen
