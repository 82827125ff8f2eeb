"""Saving a bundle: written under a temporary name, flushed, read back and verified, then renamed in one stroke."""

from __future__ import annotations

import json
import os
import platform
import struct
import time
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.checkpoint.disk import (
    check_room,
    disk_errors,
    remove_tree,
    sync_folder,
    write_all,
    write_file,
)
from premortem.stages.train.checkpoint.files import Beside
from premortem.stages.train.checkpoint.lane import Lane
from premortem.stages.train.checkpoint.load import check_layout, check_parts
from premortem.stages.train.checkpoint.lock import temporary_name
from premortem.stages.train.checkpoint.manifest import (
    FORMAT,
    MANIFEST,
    PART_NAME,
    Bundle,
    Manifest,
    PartRecord,
    TensorRecord,
    bundle_name,
    bundles_in,
    fingerprint,
    header_hash,
    next_timeline,
    tensor_context,
    tensor_hash,
)
from premortem.stages.train.checkpoint.sealed import read_sealed, seal
from premortem.stages.train.checkpoint.tensors import (
    SAFETENSORS,
    count_nonfinite,
    dtype_name,
    host_bytes,
)
from premortem.stages.train.checkpoint.tree import Packed, pack

# Below this a thread costs more than the hash it would run beside the write.
_WORTH_A_THREAD = 1 << 20
LEGAL_NONFINITE = ("detectors",)


@dataclass(frozen=True, slots=True)
class Captured:
    """A part together with the step at which it was taken, so that one taken earlier is refused."""

    step: int
    tree: object


def save_bundle(  # noqa: PLR0913 - all keyword-only but the three that every save has
    folder: Path,
    step: int,
    parts: Mapping[str, object],
    *,
    allow_nonfinite: bool = False,
    nonfinite_ok: Collection[str] = LEGAL_NONFINITE,
    from_disk: bool = False,
    beside: Beside | None = None,
) -> Bundle:
    """Save the parts of one step as a new bundle in ``folder``; no existing bundle is touched.

    Args:
        folder: where bundles lie; made when missing.
        step: the step that all parts belong to, ≥ 0.
        parts: nested states by name (lower-case letters, digits, ``_``, ``-``), tensors on any device; a
            :class:`Captured` is held to its step.
        allow_nonfinite: save NaN and infinite values all the same, recorded as ``finite=False``.
        nonfinite_ok: parts (``"detectors"``) or tensors (``"model.mask"``) in which they are legal.
        from_disk: verify by reading the device instead of the page cache.
        beside: who writes further files into the bundle, such as the shards of several processes.

    Raises:
        ConfigError: for a step, name or value that cannot be stored.
        StageError: for values that are not finite, a stale part, and every failure of the disk; nothing
            half-written is left under a bundle's name.
    """
    draft = _draft(step, parts)
    with disk_errors(f"saving step {step}", folder):
        folder.mkdir(parents=True, exist_ok=True)
        more = 0 if beside is None else beside.nbytes
        check_room(folder, sum(plan.nbytes for plan in draft) + more, len(draft) + 2)
        timeline = next_timeline(bundles_in(folder), step)
        temporary = folder / temporary_name(bundle_name(step, timeline))
        try:
            manifest = _write(temporary, (step, timeline), draft, nonfinite_ok, beside)
            if not manifest.finite and not allow_nonfinite:
                raise StageError(_nonfinite_message(manifest, nonfinite_ok))
            _verify(temporary, manifest, from_disk=from_disk)
            final = folder / bundle_name(step, timeline)
            os.rename(temporary, final)
            sync_folder(folder)
            return Bundle(timeline, step, final)
        finally:
            remove_tree(temporary)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A part before it is written: tensors widest first, as safetensors lays them out, so that each is aligned."""

    name: str
    packed: Packed
    order: tuple[str, ...]
    nbytes: int


def _draft(step: int, parts: Mapping[str, object]) -> list[_Plan]:
    if type(step) is not int or step < 0:
        raise ConfigError(f"step is {step!r}, expected a whole number ≥ 0; pass the number of steps done")
    if not parts:
        raise ConfigError("parts is empty, expected at least one state; pass {'model': model.state_dict(), …}")
    draft = []
    for name, given in parts.items():
        if PART_NAME.fullmatch(name) is None:
            raise ConfigError(f"part {name!r}: expected lower-case letters, digits, _ and -; rename it")
        if isinstance(given, Captured) and given.step != step:
            raise StageError(
                f"part {name!r} was captured at step {given.step}, expected step {step}; "
                "it is stale: capture all parts at one step"
            )
        packed = pack(given.tree if isinstance(given, Captured) else given, name)
        order = sorted(packed.tensors, key=lambda key: -packed.tensors[key].element_size())
        nbytes = sum(t.numel() * t.element_size() for t in packed.tensors.values())
        draft.append(_Plan(name, packed, tuple(order), nbytes + len(json.dumps(packed.plain))))
    return draft


def _write(
    temporary: Path, place: tuple[int, int], draft: list[_Plan], nonfinite_ok: Collection[str], others: Beside | None
) -> Manifest:  # fmt: skip
    temporary.mkdir()
    files = () if others is None else others.write(temporary)
    bundle, (step, timeline) = uuid.uuid4().hex, place
    beside = " ".join(plan.name for plan in draft)
    with Lane("bundle-flush") as flushing, Lane("bundle-hash") as hashing:
        # The flush of one file runs while the next is written.
        writers = [_PartWriter(bundle, step, beside, temporary, (flushing, hashing)) for _ in draft]
        parts = tuple(writer.write(plan) for writer, plan in zip(writers, draft, strict=True))
        for writer in writers:
            writer.flushed.result()
    finite = not _offenders(parts, nonfinite_ok)
    manifest = Manifest(FORMAT, bundle, step, timeline, finite, time.time(), _versions(), parts, files)
    write_file(temporary / MANIFEST, seal(manifest))
    sync_folder(temporary)
    return manifest


def _verify(temporary: Path, manifest: Manifest, *, from_disk: bool) -> None:
    if read_sealed(temporary / MANIFEST, Manifest) != manifest:
        raise StageError(f"{temporary / MANIFEST}: reads back differently from what was written; check the disk")
    check_layout(temporary, manifest)
    check_parts(temporary, manifest, from_disk=from_disk)


def _offenders(parts: tuple[PartRecord, ...], nonfinite_ok: Collection[str]) -> list[tuple[str, TensorRecord]]:
    return [
        (f"{part.name}.{record.name}", record)
        for part in parts
        for record in part.tensors
        if record.nonfinite and not {part.name, f"{part.name}.{record.name}"}.intersection(nonfinite_ok)
    ]


def _nonfinite_message(manifest: Manifest, nonfinite_ok: Collection[str]) -> str:
    offenders = _offenders(manifest.parts, nonfinite_ok)
    name, record = offenders[0]
    return (
        f"step {manifest.step}: {len(offenders)} tensors hold NaN or infinite values, first {name!r} "
        f"({record.nonfinite} values), expected finite ones; nothing was saved: restore the last good bundle, "
        f"or name what may be so in nonfinite_ok=({name!r},)"
    )


def _versions() -> dict[str, str]:
    return {
        "premortem": version("premortem"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
    }


class _PartWriter:
    """Writes one part: header, then tensors, each hashed while it is written."""

    def __init__(self, bundle: str, step: int, beside: str, folder: Path, lanes: tuple[Lane, Lane]) -> None:
        self._bundle, self._step, self._beside = bundle, step, beside
        self._folder = folder
        self._flushing, self._hashing = lanes
        self.flushed: Future[None]

    def write(self, plan: _Plan) -> PartRecord:
        file = f"{plan.name}.safetensors"
        header = self._header(plan)
        descriptor = os.open(self._folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            write_all(descriptor, header)
            records, start = [], len(header)
            for name in plan.order:
                record = self._tensor(descriptor, plan, name, start)
                records.append(record)
                start += record.size
        except BaseException:
            os.close(descriptor)
            raise
        self.flushed = self._flushing.submit(_flush, descriptor)
        hashed = header_hash(self._bundle, self._step, plan.name, header)
        form = fingerprint(plan.packed.tensors)
        return PartRecord(plan.name, file, start, len(header), hashed, form, tuple(records))

    def _header(self, plan: _Plan) -> bytes:
        """The safetensors header: eight bytes of length, then JSON padded to eight bytes."""
        said = {"bundle": self._bundle, "step": str(self._step), "part": plan.name, "parts": self._beside}
        entries: dict[str, object] = {"__metadata__": {**said, "tree": json.dumps(plan.packed.plain, allow_nan=False)}}
        start = 0
        for name in plan.order:
            tensor = plan.packed.tensors[name]
            size = tensor.numel() * tensor.element_size()
            form = SAFETENSORS.get(tensor.dtype)
            entries[name] = {
                "dtype": form or "U8",
                "shape": list(tensor.shape) if form else [size],
                "data_offsets": [start, start + size],
            }
            start += size
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    def _tensor(self, descriptor: int, plan: _Plan, name: str, start: int) -> TensorRecord:
        tensor = plan.packed.tensors[name]
        data = host_bytes(tensor)
        form = (name, dtype_name(tensor.dtype), tuple(tensor.shape))
        context = tensor_context(self._bundle, self._step, plan.name, form)
        if data.nbytes < _WORTH_A_THREAD:
            write_all(descriptor, data)
            digest = tensor_hash(context, data)
        else:
            hashing = self._hashing.submit(tensor_hash, context, data)
            write_all(descriptor, data)
            digest = hashing.result()
        return TensorRecord(*form, start, data.nbytes, digest, count_nonfinite(tensor.detach()))


def _flush(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
