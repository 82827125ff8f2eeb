"""Loading a bundle: every byte is checked before any of it is believed.

What was hashed is what is returned: each tensor is read once into its own memory, hashed there, and never read
again, so nothing can change between the check and the use.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint.disk import forget_cache, open_regular
from premortem.stages.train.checkpoint.files import FILE_NAME, check_files
from premortem.stages.train.checkpoint.manifest import (
    FORMAT,
    MANIFEST,
    PART_NAME,
    Manifest,
    PartRecord,
    TensorRecord,
    bundle_at,
    fingerprint,
    header_hash,
    tensor_context,
)
from premortem.stages.train.checkpoint.sealed import read_sealed
from premortem.stages.train.checkpoint.tensors import DTYPES, Bytes, count_nonfinite, from_bytes
from premortem.stages.train.checkpoint.tree import Plain, pack, unpack

# A multiple of every dtype's width, and small enough to stay in the cache between read and hash.
_CHUNK = 1 << 20
_ELSE = "use another bundle"


def load_bundle(
    path: Path, *, fits: Mapping[str, object] | None = None, allow_nonfinite: bool = False
) -> dict[str, object]:
    """Load every part after checking its every hash; tensors lie on the CPU, each in memory of its own.

    Shards beside the parts are not read here (:func:`check_files`, then ``load_sharded``).

    Args:
        path: the bundle's folder.
        fits: live states by part, such as ``{"model": model.state_dict()}``, whose names, shapes and dtypes the
            bundle must match.
        allow_nonfinite: accept a bundle that was saved with NaN or infinite values.

    Raises:
        StageError: naming the file or tensor that is missing, changed, stale, foreign, not finite or a misfit.
    """
    manifest = read_manifest(path)
    _require_finite(path, manifest, allowed=allow_nonfinite)
    parts: dict[str, object] = {}
    for part in manifest.parts:
        with _Part(path, manifest, part) as reader:
            tree = reader.tree()
            tensors = {record.name: tensor for record, tensor in reader.tensors()}
        parts[part.name] = unpack(tree, tensors, str(path / part.file))
        if fits is not None and part.name in fits:
            _require_fit(path / part.file, tensors, fits[part.name])
    _require_parts(path, parts, fits or {})
    return parts


def verify_bundle(path: Path, *, allow_nonfinite: bool = False, from_disk: bool = False) -> Manifest:
    """Check every hash as :func:`load_bundle` does, keeping nothing but one tensor at a time.

    Args:
        path: the bundle's folder.
        allow_nonfinite: accept a bundle that was saved with NaN or infinite values.
        from_disk: ask the kernel to drop its cached copy first, so that the device is read.

    Raises:
        StageError: as :func:`load_bundle`.
    """
    manifest = read_manifest(path)
    _require_finite(path, manifest, allowed=allow_nonfinite)
    check_parts(path, manifest, from_disk=from_disk)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest, checked against its own hash, the folder's name, and the files that are there.

    Raises:
        StageError: when any of these disagree.
    """
    manifest = read_sealed(path / MANIFEST, Manifest)
    place = bundle_at(path)
    if place is None or (place.step, place.timeline) != (manifest.step, manifest.timeline):
        raise StageError(
            f"{path}: holds step {manifest.step} (timeline {manifest.timeline}), expected what its name says; "
            f"it was renamed or copied: {_ELSE}"
        )
    check_layout(path, manifest)
    return manifest


def check_layout(path: Path, manifest: Manifest) -> None:
    """The manifest's form and the folder's list of files. Raises ``StageError``."""
    if manifest.format != FORMAT:
        raise StageError(f"{path / MANIFEST}: format {manifest.format}, expected {FORMAT}; {_ELSE}")
    for part in manifest.parts:
        if PART_NAME.fullmatch(part.name) is None or part.file != f"{part.name}.safetensors":
            raise StageError(f"{path / MANIFEST}: part {part.name!r} in file {part.file!r} is no name of ours; {_ELSE}")
        _check_cover(path, part)
    for file in manifest.files:
        if FILE_NAME.fullmatch(file.name) is None:
            raise StageError(f"{path / MANIFEST}: file {file.name!r} is no name of ours; {_ELSE}")
    expected = {MANIFEST, *(part.file for part in manifest.parts), *(file.name for file in manifest.files)}
    found = _names(path)
    if found != expected:
        missing, extra = sorted(expected - found), sorted(found - expected)
        raise StageError(f"{path}: missing files {missing}, unknown files {extra}, expected exactly its own; {_ELSE}")


def check_parts(path: Path, manifest: Manifest, *, from_disk: bool = False) -> None:
    """Every byte of every part and file against the manifest. Raises ``StageError``."""
    check_files(path, manifest.files, from_disk=from_disk)
    for part in manifest.parts:
        with _Part(path, manifest, part, from_disk=from_disk) as reader:
            reader.tree()
            reader.scan()


def _names(path: Path) -> set[str]:
    try:
        return set(os.listdir(path))
    except OSError as error:
        raise StageError(f"{path}: cannot be listed ({error.strerror}), expected a bundle; {_ELSE}") from error


def _check_cover(path: Path, part: PartRecord) -> None:
    """Header and tensors must tile the file: a byte outside every hash could change unseen."""
    end = part.header
    for record in part.tensors:
        dtype = DTYPES.get(record.dtype)
        if dtype is None or (record.start, record.size) != (end, math.prod(record.shape) * dtype.itemsize):
            raise StageError(f"{path / part.file}: tensor {record.name!r} has a record that cannot be; {_ELSE}")
        end += record.size
    if end != part.size:
        raise StageError(f"{path / part.file}: records cover {end} of {part.size} bytes, expected all; {_ELSE}")


def _require_finite(path: Path, manifest: Manifest, *, allowed: bool) -> None:
    if not manifest.finite and not allowed:
        bad = next((f"{p.name}: {t.name}" for p in manifest.parts for t in p.tensors if t.nonfinite), "unknown")
        raise StageError(
            f"{path}: was saved with NaN or infinite values ({bad}), expected finite ones; "
            f"{_ELSE}, or pass allow_nonfinite=True to examine it"
        )


def _require_fit(file: Path, tensors: dict[str, torch.Tensor], live: object) -> None:
    wanted = pack(live, file.stem).tensors
    if fingerprint(wanted) == fingerprint(tensors):
        return
    for name in (*wanted, *tensors):
        stored, asked = _form(tensors.get(name)), _form(wanted.get(name))
        if stored != asked:
            raise StageError(
                f"{file}: tensor {name!r} is {stored}, expected {asked}; load it into the model it was saved from"
            )


def _form(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _require_parts(path: Path, parts: Mapping[str, object], fits: Mapping[str, object]) -> None:
    absent = sorted(set(fits) - set(parts))
    if absent:
        raise StageError(f"{path}: has parts {sorted(parts)}, expected {absent} too; load it into the run it is from")


class _Part:
    """One open part file, read front to back."""

    def __init__(self, path: Path, manifest: Manifest, part: PartRecord, *, from_disk: bool = False) -> None:
        self._file = path / part.file
        self._manifest = manifest
        self._part = part
        self._from_disk = from_disk

    def __enter__(self) -> _Part:
        try:
            self._descriptor = open_regular(self._file)
        except OSError as error:
            raise StageError(f"{self._file}: cannot be opened ({error.strerror}), expected a part; {_ELSE}") from error
        if self._from_disk:
            forget_cache(self._descriptor)
        size = os.fstat(self._descriptor).st_size
        if size != self._part.size:
            os.close(self._descriptor)
            raise StageError(f"{self._file}: {size} bytes, expected {self._part.size}; cut or grown: {_ELSE}")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def tree(self) -> Plain:
        """The verified plain tree out of the header."""
        data = np.empty(self._part.header, np.uint8)
        self._fill(data, "header")
        raw, owner = data.tobytes(), self._manifest
        if header_hash(owner.bundle, owner.step, self._part.name, raw) != self._part.header_sha256:
            raise StageError(f"{self._file}: {_header_fault(raw, owner)}; {_ELSE}")
        said = json.loads(raw[8:])["__metadata__"]
        names = [part.name for part in owner.parts]
        if said["parts"].split() != names:
            raise StageError(f"{self._file}: was saved beside {said['parts']!r}, expected {names}; {_ELSE}")
        tree: Plain = json.loads(said["tree"])
        return tree

    def tensors(self) -> Iterator[tuple[TensorRecord, torch.Tensor]]:
        """The verified tensors in the file's order."""
        for record in self._part.tensors:
            data = np.empty(record.size, np.uint8)
            self._fill(data, f"tensor {record.name!r}")
            digest = hashlib.sha256(self._context(record))
            digest.update(data.data)
            tensor = from_bytes(data, DTYPES[record.dtype], record.shape)
            self._judge(record, digest.hexdigest(), count_nonfinite(tensor))
            yield record, tensor

    def scan(self) -> None:
        """Check every tensor through one small buffer, keeping none."""
        buffer = np.empty(min(_CHUNK, max((record.size for record in self._part.tensors), default=0)), np.uint8)
        for record in self._part.tensors:
            digest, nonfinite = hashlib.sha256(self._context(record)), 0
            for start in range(0, record.size, _CHUNK):
                data = buffer[: min(_CHUNK, record.size - start)]
                self._fill(data, f"tensor {record.name!r}")
                digest.update(data.data)
                nonfinite += count_nonfinite(from_bytes(data, DTYPES[record.dtype], (-1,)))
            self._judge(record, digest.hexdigest(), nonfinite)

    def _context(self, record: TensorRecord) -> bytes:
        form = (record.name, record.dtype, record.shape)
        return tensor_context(self._manifest.bundle, self._manifest.step, self._part.name, form)

    def _judge(self, record: TensorRecord, sha256: str, nonfinite: int) -> None:
        if sha256 != record.sha256:
            raise StageError(
                f"{self._file}: tensor {record.name!r} does not match its hash for step {self._manifest.step}, "
                f"expected {record.sha256[:12]}…; its bytes were changed: {_ELSE}"
            )
        if nonfinite != record.nonfinite:
            raise StageError(f"{self._file}: tensor {record.name!r} denies its values are not finite; {_ELSE}")

    def _fill(self, data: Bytes, what: str) -> None:
        view, done = data.data, 0
        while done < data.nbytes:
            try:
                got = os.readv(self._descriptor, [view[done:]])
            except OSError as error:
                raise StageError(f"{self._file}: {what} cannot be read ({error.strerror}); {_ELSE}") from error
            if not got:
                raise StageError(f"{self._file}: ends within its {what}, expected {data.nbytes - done} more; {_ELSE}")
            done += got


def _header_fault(raw: bytes, owner: Manifest) -> str:
    """Why a header does not match: from another bundle, which is worth saying, or simply changed."""
    try:
        said = json.loads(raw[8:])["__metadata__"]
        bundle, step = str(said["bundle"]), str(said["step"])
    except (ValueError, KeyError, TypeError):
        return "its header does not match its hash; it was changed"
    if (bundle, step) != (owner.bundle, str(owner.step)):
        return f"stale part of step {step} (bundle {bundle[:8]}), expected step {owner.step} ({owner.bundle[:8]})"
    return "its header does not match its hash; it was changed"
