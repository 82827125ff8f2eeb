"""Ten thousand corruptions of checkpoint bundles: each caught, the last good one always loadable.

    python benchmarks/checkpoint_soak.py [--count 10000] [--seed 0] [--peers 60] [--no-share]

A shelf holds three bundles of a real AdamW run (steps 100 and 200 marked good, 300 newest). Each trial damages a
copy and then asks: was the damage caught, and does the last good bundle still load, equal to the bit to what was
saved? Half of the semantic faults are *lies*: the manifest is re-written with a valid hash of its own.

Beside it torch.save and torch.distributed.checkpoint at their defaults under the same faults, and the share of a
real training loop that saving takes. What the trials cannot show: a forger who recomputes every hash (nothing is
signed), and a device that acknowledges a flush it never did.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from premortem.core.errors import StageError
from premortem.stages.train.checkpoint import Bundle, Shelf, load_bundle, save_bundle
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


# --- trials: True when caught and the last good bundle loads to the bit -------------------------------------


def _good_loads(folder: Path, truth: dict[int, dict[str, object]], step: int = 200) -> bool:
    good = Shelf(folder, own=False).last_good()
    return good is not None and good.step == step and same(load_bundle(good.path), truth[step])


def damaged_bundle(folder: Path, fault: Fault, rng: random.Random, truth: dict[int, dict[str, object]]) -> bool:
    """Damage the newest bundle; it must be refused by name, and the walk back must end at step 200."""
    newest = folder / "step-00000300"
    fault(newest, rng)
    try:
        load_bundle(newest)
    except StageError:
        found = Shelf(folder, own=False).find_loadable()
        walked = [rejected.bundle.path for rejected in found.rejected] == [newest]
        return walked and found.bundle is not None and found.bundle.step == 200 and _good_loads(folder, truth)
    return False


def damaged_good(folder: Path, fault: Fault, rng: random.Random, truth: dict[int, dict[str, object]]) -> bool:
    """Damage the last good bundle itself; the good one before it must be found."""
    path = folder / "step-00000200"
    if fault in (stale_optimizer, swap_bundles):
        rng = random.Random(_older_first(rng))
    fault(path, rng)
    try:
        load_bundle(path)
    except StageError:
        return _good_loads(folder, truth, 100)
    return False


def _older_first(rng: random.Random) -> int:
    """A seed whose first choice among the older steps is 100: a bundle is no older self of its own."""
    while True:
        seed = rng.getrandbits(32)
        if random.Random(seed).choice(STEPS[:2]) == 100:
            return seed


def nan_weights(folder: Path, rng: random.Random, truth: dict[int, dict[str, object]]) -> bool:
    """A run gone NaN: the save is refused; forced, the bundle is never chosen."""
    state = state_at(400)
    weights = state["model"]
    assert isinstance(weights, dict)
    tensor = weights[rng.choice(sorted(weights))]
    tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice((float("nan"), float("inf"), -float("inf")))
    before = sorted(folder.iterdir())
    try:
        save_bundle(folder, 400, state)
        return False
    except StageError:
        clean = sorted(folder.iterdir()) == before
    forced = save_bundle(folder, 400, state, allow_nonfinite=True)
    found = Shelf(folder, own=False).find_loadable()
    walked = [rejected.bundle for rejected in found.rejected] == [forced]
    return clean and walked and found.bundle is not None and found.bundle.step == 300 and _good_loads(folder, truth)


def _save_under_limit(folder: Path, limit: int, pipe: multiprocessing.connection.Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save_bundle(folder, 400, state_at(400))
        pipe.send("saved")
    except StageError as error:
        pipe.send(str(error))


def disk_full(folder: Path, rng: random.Random, truth: dict[int, dict[str, object]]) -> bool:
    """A writer that hits its file size limit at any byte of any file of the bundle."""
    before = sorted(folder.iterdir())
    largest = max(file.stat().st_size for file in (folder / "step-00000300").iterdir())
    ours, theirs = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=_save_under_limit, args=(folder, rng.randrange(largest), theirs))
    child.start()
    said = ours.recv()
    child.join()
    return "EFBIG" in said and sorted(folder.iterdir()) == before and _good_loads(folder, truth)


def _save_for_ever(folder: Path, pipe: multiprocessing.connection.Connection) -> None:
    states = {step: state_at(step) for step in (400, 500)}
    shelf = Shelf(folder)
    pipe.send("saving")
    for step in range(400, 10**6, 100):
        shelf.save(step, states[400 + step % 200])
        shelf.prune()


def killed_writer(folder: Path, rng: random.Random, truth: dict[int, dict[str, object]]) -> bool:
    """A run that saves and prunes without pause, killed at any moment: every bundle left loads to the bit."""
    ours, theirs = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=_save_for_ever, args=(folder, theirs))
    child.start()
    ours.recv()
    time.sleep(rng.uniform(0.0, 0.08))
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    with Shelf(folder) as shelf:
        whole = all(same(load_bundle(b.path), _expected(b, truth)) for b in shelf.bundles())
        swept = not [path for path in folder.iterdir() if path.name.startswith((".tmp", ".trash"))]
        return whole and swept and shelf.find_loadable().bundle == shelf.latest() and _good_loads(folder, truth)


def _expected(bundle: Bundle, truth: dict[int, dict[str, object]]) -> dict[str, object]:
    return truth[bundle.step if bundle.step <= 300 else 400 + bundle.step % 200]


Trial = Callable[[Path, random.Random, dict[int, dict[str, object]]], bool]
PROCESS_TRIALS: dict[str, Trial] = {"NaN weights": nan_weights, "disk full": disk_full, "killed writer": killed_writer}
CHILDREN = multiprocessing.get_context("forkserver")


def soak(work: Path, count: int, seed: int) -> dict[str, tuple[int, int]]:
    """Run ``count`` trials over all kinds in turn; returns caught and missed by kind."""
    CHILDREN.set_forkserver_preload(["torch", __name__])
    truth = {step: state_at(step) for step in (*STEPS, 400, 500)}
    template = work / "template"
    build_shelf(template)
    rng, tally = random.Random(seed), Counter[tuple[str, bool]]()
    kinds = [*FAULTS, *PROCESS_TRIALS]
    for index in range(count):
        kind, folder = kinds[index % len(kinds)], work / "trial"
        shutil.copytree(template, folder)
        if kind in FAULTS:
            trial = damaged_bundle if rng.random() < 0.8 else damaged_good
            caught = trial(folder, FAULTS[kind], rng, truth)
        else:
            caught = PROCESS_TRIALS[kind](folder, rng, truth)
        tally[kind, caught] += 1
        if not caught:
            shutil.copytree(folder, work / f"missed-{index}")
        shutil.rmtree(folder)
    return {kind: (tally[kind, True], tally[kind, False]) for kind in kinds}


def main() -> int:
    """Print the tables; exit code 1 when anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", type=int, default=60, help="trials a kind for torch.save and DCP")
    parser.add_argument("--no-share", action="store_true", help="leave out the share of training time")
    options = parser.parse_args()
    import checkpoint_peers  # beside this file; only the program needs it

    with tempfile.TemporaryDirectory() as work:
        began = time.perf_counter()
        table = soak(Path(work), options.count, options.seed)
        print(f"{'kind':18}{'trials':>8}{'caught':>8}{'missed':>8}")
        for kind, (caught, missed) in table.items():
            print(f"{kind:18}{caught + missed:8}{caught:8}{missed:8}")
        caught, missed = (sum(column) for column in zip(*table.values(), strict=True))
        print(f"{'all':18}{caught + missed:8}{caught:8}{missed:8}   {time.perf_counter() - began:.0f} s\n")
        if options.peers:
            checkpoint_peers.compare(Path(work), options.peers, options.seed)
        if not options.no_share:
            checkpoint_peers.share(Path(work))
    return 1 if missed else 0


if __name__ == "__main__":
    # Children find the trials by the module's name, so the program runs as that module.
    sys.path.insert(0, str(Path(__file__).parent))
    import checkpoint_soak

    sys.exit(checkpoint_soak.main())
