"""What a bundle says of itself: every part, every tensor, every hash, and where it stands in the run."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from premortem.stages.train.checkpoint.files import FileRecord
from premortem.stages.train.checkpoint.tensors import Bytes, dtype_name

FORMAT = 1
MANIFEST = "manifest.json"
PART_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_FOLDER_NAME = re.compile(r"step-(\d{8,})(?:\.t([1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor: bytes ``start .. start + size`` of the part's file; ``sha256`` is :func:`tensor_hash`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    sha256: str
    nonfinite: int


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One part: file of ``size`` bytes, of which the first ``header`` are the header; the tensors cover the rest."""

    name: str
    file: str
    size: int
    header: int
    header_sha256: str
    fingerprint: str
    tensors: tuple[TensorRecord, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole bundle. ``written_at`` in Unix seconds; ``bundle`` is a random id that every hash includes.

    ``files`` are those that others wrote: shards of weights and optimiser, one or more a process.
    """

    format: int
    bundle: str
    step: int
    timeline: int
    finite: bool
    written_at: float
    versions: dict[str, str]
    parts: tuple[PartRecord, ...]
    files: tuple[FileRecord, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, headers included, and of all files."""
        return sum(part.size for part in self.parts) + sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, order=True)
class Bundle:
    """A bundle's place, known from its name alone. Sorted oldest to newest.

    ``timeline`` counts how often the run went back: a step saved again after a restore is newer than every
    step of the abandoned timeline, however high that had climbed.
    """

    timeline: int
    step: int
    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name


def bundle_name(step: int, timeline: int) -> str:
    """``step-00001234``, or ``step-00001234.t1`` in the first timeline after a restore."""
    return f"step-{step:08d}" + (f".t{timeline}" if timeline else "")


def bundle_at(path: Path) -> Bundle | None:
    """The bundle that this path names, or ``None`` when the name is no bundle's."""
    match = _FOLDER_NAME.fullmatch(path.name)
    if match is None:
        return None
    bundle = Bundle(int(match[2] or 0), int(match[1]), path)
    return bundle if bundle_name(bundle.step, bundle.timeline) == path.name else None


def bundles_in(folder: Path) -> list[Bundle]:
    """Every bundle in the folder, oldest first, unverified; none when the folder is missing. Raises ``OSError``."""
    if not folder.exists():
        return []
    found = (bundle_at(path) for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(bundle for bundle in found if bundle is not None)


def next_timeline(existing: list[Bundle], step: int) -> int:
    """The timeline in which ``step`` is saved: a new one when the newest bundle already reached it."""
    if not existing:
        return 0
    newest = existing[-1]
    return newest.timeline if step > newest.step else newest.timeline + 1


def _context(bundle: str, step: int, part: str, what: str) -> bytes:
    return f"premortem bundle {FORMAT}\0{bundle}\0{step}\0{part}\0{what}\0".encode()


def header_hash(bundle: str, step: int, part: str, header: bytes) -> str:
    """SHA-256 over the bundle's id, the step, the part's name and the header."""
    return hashlib.sha256(_context(bundle, step, part, "header") + header).hexdigest()


def tensor_context(bundle: str, step: int, part: str, record: tuple[str, str, tuple[int, ...]]) -> bytes:
    """What is hashed before a tensor's bytes, so that no tensor can stand in for another, nor for an older self."""
    name, dtype, shape = record
    return _context(bundle, step, part, f"tensor\0{name}\0{dtype}\0{','.join(map(str, shape))}")


def tensor_hash(context: bytes, data: Bytes) -> str:
    """SHA-256 (FIPS 180-4) over :func:`tensor_context` and the tensor's bytes."""
    digest = hashlib.sha256(context)
    digest.update(data.data)
    return digest.hexdigest()


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes and shapes: two states with one fingerprint fit each other."""
    lines = sorted(f"{name}\0{dtype_name(t.dtype)}\0{tuple(t.shape)}" for name, t in tensors.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
