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

from checkpoint_faults import FAULTS, STEPS, Fault, build_shelf, same, stale_optimizer, state_at, swap_bundles
from premortem.core.errors import StageError
from premortem.stages.train.checkpoint import Bundle, Shelf, load_bundle, save_bundle

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
    CHILDREN.set_forkserver_preload(["premortem.stages.train.checkpoint", "torch._dynamo"])
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
