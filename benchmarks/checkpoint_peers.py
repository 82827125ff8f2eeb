"""torch.save and torch.distributed.checkpoint at their defaults, on the soak's faults, and what saving costs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import resource
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from checkpoint_faults import extra_block, flip_bit, lose_file, same, state_at, truncate, zero_block
from premortem.core.errors import StageError
from premortem.stages.train.checkpoint import Shelf, load_bundle, save_bundle

State = dict[str, object]


class Bundles:
    """premortem."""

    name = "premortem"

    def save(self, folder: Path, state: State) -> None:
        save_bundle(folder, 300, state)

    def load(self, folder: Path) -> State:
        return load_bundle(folder / "step-00000300")


class TorchSave:
    """One file a part, as most training scripts write them."""

    name = "torch.save"

    def save(self, folder: Path, state: State) -> None:
        folder.mkdir(exist_ok=True)
        for part, tree in state.items():
            torch.save(tree, folder / f"{part}.pt")

    def load(self, folder: Path) -> State:
        return {part: torch.load(folder / f"{part}.pt") for part in ("model", "optimizer", "rng")}


class Dcp:
    """torch.distributed.checkpoint in one process, a folder a part."""

    name = "DCP"

    def save(self, folder: Path, state: State) -> None:
        for part, tree in state.items():
            save({"tree": tree}, checkpoint_id=folder / part)

    def load(self, folder: Path) -> State:
        state = state_at(1)
        for part in state:
            into = {"tree": state[part]}
            load(into, checkpoint_id=folder / part)
            state[part] = into["tree"]
        return state


def _swap_in_file(folder: Path, rng: random.Random) -> None:
    """Two equally long runs of tensor bytes in one file change places."""
    file = max((file for file in folder.rglob("*") if file.is_file() and "optimizer" in str(file)), key=_size)
    state = state_at(300)["optimizer"]["state"]  # type: ignore[index]
    data = bytearray(file.read_bytes())
    left, right = (state[0][key].numpy().tobytes() for key in ("exp_avg", "exp_avg_sq"))
    a, b = data.index(left), data.index(right)
    data[a : a + len(left)], data[b : b + len(right)] = right, left
    file.write_bytes(data)


def _size(file: Path) -> int:
    return file.stat().st_size


def _stale_optimizer(folder: Path, rng: random.Random) -> None:
    """The optimiser's files of step 200 in place of those of step 300."""
    older = folder.with_name("older")
    for source in sorted(older.rglob("*optimizer*")):
        if "step-" not in str(source.relative_to(older)) or source.is_file():
            target = folder / str(source.relative_to(older)).replace("00000200", "00000300")
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "bit flip": flip_bit,
    "truncation": truncate,
    "missing file": lose_file,
    "zeroed block": zero_block,
    "extra block": extra_block,
    "stale optimiser": _stale_optimizer,
    "swapped tensors": _swap_in_file,
}


class Older(Bundles):
    """The same store, one step earlier."""

    def save(self, folder: Path, state: State) -> None:
        save_bundle(folder, 200, state)


def _outcome(store: Bundles | TorchSave | Dcp, folder: Path, truth: State) -> str:
    try:
        loaded = store.load(folder)
    except (Exception, CheckpointException):  # DCP's own is a BaseException; any error is a "no"
        return "caught"
    return "harmless" if same(loaded, truth) else "silent"


def compare(work: Path, trials: int, seed: int) -> None:
    """Print, by kind and store, how many trials were caught, harmless, and loaded wrong in silence."""
    stores = (Bundles(), TorchSave(), Dcp())
    print(f"{'kind':18}" + "".join(f"{store.name + ' c/h/SILENT':>26}" for store in stores))
    truth, tally = state_at(300), Counter[tuple[str, str, str]]()
    for store in stores:
        home = work / f"peer-{store.name}"
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            home.mkdir()
            store.save(home / "clean", truth)
            (Older() if isinstance(store, Bundles) else store).save(home / "older", state_at(200))
            assert same(store.load(home / "clean"), truth)
            for kind, fault in KINDS.items():
                rng = random.Random(f"{seed}{kind}")
                for _ in range(trials):
                    shutil.copytree(home / "clean", home / "trial")
                    fault(home / "trial", rng)
                    tally[kind, store.name, _outcome(store, home / "trial", truth)] += 1
                    shutil.rmtree(home / "trial")
    for kind in KINDS:
        cells = [
            "/".join(str(tally[kind, store.name, how]) for how in ("caught", "harmless", "silent")) for store in stores
        ]
        print(f"{kind:18}" + "".join(f"{cell:>26}" for cell in cells))
    _semantic_faults(work, stores)


def _semantic_faults(work: Path, stores: tuple[Bundles | TorchSave | Dcp, ...]) -> None:
    """NaN weights saved and loaded; a file limit while saving over the previous save."""
    cells = {"NaN weights": [], "disk full over old": []}  # type: dict[str, list[str]]
    for store in stores:
        bad = state_at(300)
        next(iter(bad["model"].values())).view(-1)[0] = float("nan")  # type: ignore[attr-defined]
        cells["NaN weights"].append(_try(store, work / f"nan-{store.name}", bad))
        full = work / f"full-{store.name}"
        store.save(full, state_at(300))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        try:
            _try(store, full, state_at(300))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        kept = _outcome(store, full, state_at(300)) == "harmless"
        cells["disk full over old"].append("old one kept" if kept else "OLD ONE LOST")
    for kind, row in cells.items():
        print(f"{kind:18}" + "".join(f"{cell:>26}" for cell in row))
    print()


def _try(store: Bundles | TorchSave | Dcp, folder: Path, state: State) -> str:
    try:
        store.save(folder, state)
        store.load(folder)
    except (StageError, OSError, RuntimeError, pickle.PickleError, CheckpointException):
        return "refused"
    return "saved, loaded"


def share(work: Path, width: int = 512, every: int = 200) -> None:
    """Train a 6-layer model for real and print what saving takes of the time, beside the peers."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters())
    source = torch.randn(4, 64, width)

    def step() -> None:
        optimizer.zero_grad()
        (model(source) - source).square().mean().backward()
        optimizer.step()

    step()
    # The fastest step against the median save: a busy machine must not make saving look cheap.
    per_step = min(_seconds(step) for _ in range(6))
    state: State = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    values = sum(parameter.numel() for parameter in model.parameters())
    print(f"step {per_step * 1e3:.0f} ms, save every {every} steps, {values} parameters")
    with Shelf(work / "share") as shelf:
        writers: dict[str, Callable[[int], object]] = {
            "premortem": lambda n: (shelf.save(n, state), shelf.prune()),
            "premortem, re-read from disk": lambda n: (shelf.save(100 + n, state, from_disk=True), shelf.prune()),
            "torch.save": lambda n: TorchSave().save(work / "share-torch", state),
            "torch.save + fsync": lambda n: _synced(TorchSave(), work / "share-sync", state),
            "DCP": lambda n: Dcp().save(work / f"share-dcp-{n}", state),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, writer in writers.items():
                _report(name, writer, per_step, every)
        size = sum(file.stat().st_size for file in shelf.bundles()[-1].path.iterdir())
    print(f"one save is {size / 1e6:.0f} MB; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _synced(store: TorchSave, folder: Path, state: State) -> None:
    store.save(folder, state)
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _report(name: str, writer: Callable[[int], object], per_step: float, every: int) -> None:
    middle = sorted(_seconds(partial(writer, number)) for number in range(1, 6))[2]
    part = 100 * middle / (per_step * every + middle)
    densest = 19 * middle / per_step
    print(f"{name:30} median {middle:5.2f} s a save, {part:5.2f} % of the run; 5 % at every {densest:.0f} steps")
