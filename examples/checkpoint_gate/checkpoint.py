"""A checkpoint that is handed off: what can be measured on it, and the place that the next one in line reads.

`HandOff` knows nothing of risks. A tick is the assessment of a content: the file and its manifest, by hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from premortem.core.errors import StageError
from premortem.core.signal import Signal
from premortem.parts.controls import OneShotRequest

Tensors = dict[str, np.ndarray]


def save(path: Path, tensors: Tensors) -> None:
    """What a trainer does: the file, and beside it a manifest with the hash of each tensor as it was in memory."""
    save_file(tensors, path)
    manifest_of(path).write_text(json.dumps({name: _hash(tensor.tobytes()) for name, tensor in tensors.items()}))


def manifest_of(path: Path) -> Path:
    """Where a checkpoint's manifest lies."""
    return path.with_suffix(".json")


def content_of(path: Path) -> str:
    """One hash for a file and its manifest."""
    manifest = manifest_of(path)
    return _hash(path.read_bytes() + (manifest.read_bytes() if manifest.exists() else b""))


class HandOff:
    """The folder that a server loads from: `current` is a link to one of the files that were good."""

    kind = "checkpoint"
    signals = (
        Signal("unreadable", "flag", help="the file is no safetensors file of its full length"),
        Signal("changed", "tensors", help="other bytes than the trainer had in memory, missing or added"),
        Signal("not_finite", "values", help="NaN or infinite"),
        Signal("all_zero", "tensors", help="matrices without a single value"),
    )

    def __init__(self, folder: Path) -> None:
        self._good, self._current = folder / "good", folder / "current.safetensors"
        self._taken = folder / "taken.safetensors"
        self._good.mkdir(parents=True, exist_ok=True)
        self.controls = {"handed_off": OneShotRequest(self._fall_back, self._is_whole, folder / "asked")}
        self.witnesses: dict[str, str] = {}
        self.conditions = {"what is handed off is whole": self._is_whole}

    def take(self, path: Path) -> Path:
        """A copy of the file and its manifest, to assess that: a trainer may write the next one at any moment.

        A copy that is half of one and half of the next does not fit its manifest, and is seen as any damage is.
        """
        shutil.copy(path, self._taken)
        manifest_of(self._taken).unlink(missing_ok=True)
        if manifest_of(path).exists():
            shutil.copy(manifest_of(path), manifest_of(self._taken))
        return self._taken

    def measure(self, path: Path) -> dict[str, float | None]:
        """One row. Of a file that cannot be read only that is known; the rest is missing, not zero."""
        try:
            with safe_open(path, framework="numpy") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            said = json.loads(manifest_of(path).read_bytes())
        except (SafetensorError, OSError, ValueError):
            return {"unreadable": 1.0}
        right = {name: _hash(tensor.tobytes()) for name, tensor in tensors.items()}
        return {
            "unreadable": 0.0,
            "changed": float(sum(said.get(name) != right.get(name) for name in said.keys() | right.keys())),
            "not_finite": float(sum(tensor.size - np.isfinite(tensor).sum() for tensor in tensors.values())),
            "all_zero": float(sum(tensor.ndim > 1 and not tensor.any() for tensor in tensors.values())),
        }

    def hand_off(self, taken: Path) -> None:
        """Keep the copy that was assessed as the last good one, and let `current` point to it."""
        kept = self._good / f"{content_of(taken)}.safetensors"
        os.replace(manifest_of(taken), manifest_of(kept))
        os.replace(taken, kept)
        self._point_to(kept)

    def is_handed_off(self, content: str) -> bool:
        """Whether this very content is what `current` gives."""
        return self._current.exists() and self._current.resolve().stem == content and self._is_whole()

    def _fall_back(self, request: str) -> None:
        goods = sorted(self._good.glob("*.safetensors"), key=lambda kept: kept.stat().st_mtime_ns)
        whole = [kept for kept in goods if kept.stem == content_of(kept)]
        if not whole:
            raise StageError("there is no good checkpoint to fall back to")
        self._point_to(whole[-1])

    def _point_to(self, kept: Path) -> None:
        new = self._current.with_name("new")
        new.unlink(missing_ok=True)
        new.symlink_to(kept.resolve())
        os.replace(new, self._current)

    def _is_whole(self) -> bool:
        """By its bytes, read now."""
        place = self._current.resolve()
        return place.exists() and place.stem == content_of(place)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
