"""The state that a checkpoint soak saves, and ten ways to damage a bundle for certain."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from premortem.stages.train.checkpoint import Shelf
from premortem.stages.train.checkpoint.manifest import MANIFEST, Manifest
from premortem.stages.train.checkpoint.sealed import read_sealed, seal
from premortem.stages.train.checkpoint.tensors import host_bytes

STEPS = (100, 200, 300)
Fault = Callable[[Path, random.Random], None]


def state_at(step: int) -> dict[str, object]:
    """Model, optimiser and generator state after three real AdamW steps from a seed of their own."""
    torch.manual_seed(step)
    model = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Tanh(), torch.nn.Linear(24, 24))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 12)).square().mean().backward()
        optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}


def same(left: object, right: object) -> bool:
    """Equal to the bit, through nested dicts and lists."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.dtype == right.dtype and host_bytes(left).tobytes() == host_bytes(right).tobytes()
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def build_shelf(folder: Path) -> None:
    """The shelf that every trial starts from."""
    with Shelf(folder) as shelf:
        for step in STEPS:
            shelf.save(step, state_at(step))
        for step in STEPS[:2]:
            shelf.mark_good(step, {"loss": 1.0})


# --- faults: each damages the bundle at ``path``, for certain -----------------------------------------------


def _pick(path: Path, rng: random.Random) -> Path:
    """A file, the large ones more often."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return rng.choices(files, [file.stat().st_size for file in files])[0]


def flip_bit(path: Path, rng: random.Random) -> None:
    """One bit of one file."""
    file = _pick(path, rng)
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    """A file cut anywhere, to nothing too."""
    file = _pick(path, rng)
    os.truncate(file, rng.randrange(file.stat().st_size))


def lose_file(path: Path, rng: random.Random) -> None:
    """A file gone."""
    rng.choice(sorted(file for file in path.rglob("*") if file.is_file())).unlink()


def zero_block(path: Path, rng: random.Random) -> None:
    """A block of zeros where data was, as after a power cut."""
    while True:
        file = _pick(path, rng)
        data = bytearray(file.read_bytes())
        start, size = rng.randrange(len(data)), rng.choice((16, 512, 4096))
        if any(data[start : start + size]):
            break
    data[start : start + size] = bytes(len(data[start : start + size]))
    file.write_bytes(data)


def extra_block(path: Path, rng: random.Random) -> None:
    """Bytes that do not belong: inside or after a file, or a file of their own."""
    if rng.random() < 0.2:
        (path / f"extra-{rng.randrange(9)}.safetensors").write_bytes(rng.randbytes(64))
        return
    file = _pick(path, rng)
    data, block = file.read_bytes(), rng.randbytes(rng.choice((1, 8, 512)))
    start = rng.choice((len(data), rng.randrange(len(data))))
    file.write_bytes(data[:start] + block + data[start:])


def poke_nan(path: Path, rng: random.Random) -> None:
    """NaN written over a weight in the file."""
    file = path / "model.safetensors"
    part = next(part for part in _manifest(path).parts if part.name == "model")
    data = bytearray(file.read_bytes())
    start = part.header + 4 * rng.randrange((part.size - part.header) // 4)
    data[start : start + 4] = b"\x00\x00\xc0\x7f"
    file.write_bytes(data)


def stale_optimizer(path: Path, rng: random.Random) -> None:
    """The optimiser of an older step in place of this one; a lie takes its manifest entry along."""
    older = path.with_name(f"step-{rng.choice(STEPS[:2]):08d}")
    shutil.copyfile(older / "optimizer.safetensors", path / "optimizer.safetensors")
    if rng.random() < 0.5:
        manifest, other = _plain(path), _plain(older)
        manifest["parts"][1] = other["parts"][1]
        _lie(path, manifest)


def swap_tensors(path: Path, rng: random.Random) -> None:
    """Two tensors of one shape change places; a lie swaps their hashes as well."""
    manifest = _plain(path)
    part = manifest["parts"][1]
    left, right = rng.sample([t for t in part["tensors"] if t["shape"] == [24, 24] or t["shape"] == [24, 12]], 2)
    while left["shape"] != right["shape"]:
        left, right = rng.sample([t for t in part["tensors"] if len(t["shape"]) == 2], 2)
    file = path / part["file"]
    data = bytearray(file.read_bytes())
    a, b = (slice(t["start"], t["start"] + t["size"]) for t in (left, right))
    data[a], data[b] = data[b], data[a]
    file.write_bytes(data)
    if rng.random() < 0.5:
        left["sha256"], right["sha256"] = right["sha256"], left["sha256"]
        _lie(path, manifest)


def edit_manifest(path: Path, rng: random.Random) -> None:
    """A field of the manifest changed, with or without a new hash over it."""
    manifest = _plain(path)
    part = rng.choice(manifest["parts"])
    tensor = rng.choice(part["tensors"])
    target, key, value = rng.choice(
        [
            (manifest, "step", rng.randrange(300)),
            (manifest, "timeline", 1),
            (manifest, "format", 2),
            (manifest, "bundle", f"{rng.getrandbits(128):032x}"),
            (manifest, "parts", [p for p in manifest["parts"] if p is not part]),
            (part, "name", "renamed"),
            (part, "header_sha256", f"{rng.getrandbits(256):064x}"),
            (tensor, "name", "renamed"),
            (tensor, "dtype", "int32" if tensor["dtype"] != "int32" else "float32"),
            (tensor, "shape", [1, *tensor["shape"]]),
            (tensor, "start", tensor["start"] + 4),
            (tensor, "sha256", f"{rng.getrandbits(256):064x}"),
            (tensor, "nonfinite", 1),
        ]
    )
    target[key] = value
    if key == "parts" and rng.random() < 0.5:
        (path / part["file"]).unlink()
    if rng.random() < 0.5:
        _lie(path, manifest)
    else:
        sealed = (path / MANIFEST).read_bytes()
        (path / MANIFEST).write_bytes(sealed[:86] + json.dumps(manifest).encode() + b"}\n")


def swap_bundles(path: Path, rng: random.Random) -> None:
    """An older bundle under this one's name."""
    older = path.with_name(f"step-{rng.choice(STEPS[:2]):08d}")
    shutil.rmtree(path)
    shutil.copytree(older, path)


def _manifest(path: Path) -> Manifest:
    return read_sealed(path / MANIFEST, Manifest)


def _plain(path: Path) -> dict:  # type: ignore[type-arg]
    return read_sealed(path / MANIFEST, dict)


def _lie(path: Path, manifest: object) -> None:
    (path / MANIFEST).write_bytes(seal(manifest))


FAULTS: dict[str, Fault] = {
    "bit flip": flip_bit,
    "truncation": truncate,
    "missing file": lose_file,
    "zeroed block": zero_block,
    "extra block": extra_block,
    "NaN in file": poke_nan,
    "stale optimiser": stale_optimizer,
    "swapped tensors": swap_tensors,
    "manifest edit": edit_manifest,
    "swapped bundle": swap_bundles,
}
