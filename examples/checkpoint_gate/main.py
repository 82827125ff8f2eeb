"""A gate for safetensors checkpoints: each call assesses one file, remembers, and exits 0 (go) or 1 (no-go).

python examples/checkpoint_gate/main.py assess model.safetensors --home hand-off     # the gate itself
python examples/checkpoint_gate/main.py [--fault none] [--home FOLDER]               # a story of it
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from checkpoint import HandOff, Tensors, content_of, save

import premortem
from premortem.faults.files import BitFlip, Truncation

HERE = Path(__file__).parent


def assess(path: Path, home: Path) -> int:
    """The gate: 0 where the content that lay there is handed off now, else 1."""
    hand_off = HandOff(home / "hand-off")
    guard = premortem.Guard(HERE / "register.yaml", risks=HERE / "risks")
    with guard.watching(hand_off, home=home, say=say) as watch:
        taken = hand_off.take(path)
        content = content_of(taken)
        is_new = watch.assess(content, hand_off.measure(taken))
        if not is_new:
            print("  this content was assessed before: nothing recovers by reading it again")
        elif watch.standing.is_green:
            hand_off.hand_off(taken)
    go = hand_off.is_handed_off(content)
    print(f"  {'go' if go else 'NO-GO'}: {path.name}")
    return 0 if go else 1


def say(words: str) -> None:
    """Print what the guard says, without where its runs begin and end."""
    if ": run " not in words:
        print(f"  {words}")


def trained(step: int) -> Tensors:
    """What a small model's weights are after so many steps; each step's differ."""
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=(16, 16)).astype(np.float32) for name in ("embed", "mix", "head")}


def story(folder: Path) -> Iterator[tuple[str, Path]]:
    """Checkpoints as they come, each in words and by its path; what damages a file is a real fault."""
    path = folder / "model.safetensors"

    def saved(step: int, words: str = "a checkpoint", **damage: float) -> tuple[str, Path]:
        tensors = trained(step)
        for name, value in damage.items():
            tensors[name][...] = value
        save(path, tensors)
        return f"{words}, step {step}", path

    yield saved(1)
    yield saved(2, "weights went NaN", mix=np.nan)
    yield "the same file again", path
    yield saved(3, "a head that was never loaded", head=0.0)
    yield saved(4)
    yield saved(5)
    for step, fault in ((6, Truncation(path, 0.6)), (7, BitFlip(path, seed=3))):
        saved(step)
        with fault:
            yield f"{fault.name}, step {step}", path
    yield saved(8)
    yield saved(9)


def healthy(folder: Path) -> Iterator[tuple[str, Path]]:
    """Nothing is wrong with any of them."""
    for step in range(1, 5):
        save(folder / "model.safetensors", trained(step))
        yield f"a checkpoint, step {step}", folder / "model.safetensors"


def main() -> int:
    """Assess one file, or tell the story, each assessment by a process of its own as in a pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("story", "assess"), default="story")
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--fault", choices=("files", "none"), default="files")
    parser.add_argument("--home", type=Path, help="the folder of the ledger; a temporary one when left out")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        home = asked.home or folder / "home"
        if asked.what == "assess":
            if asked.file is None or not asked.file.is_file():
                parser.error(f"found no file at {asked.file}, expected a safetensors file to assess")
            return assess(asked.file, home)
        for words, path in healthy(folder) if asked.fault == "none" else story(folder):
            print(f"{words}:", flush=True)
            gate = subprocess.run([sys.executable, __file__, "assess", str(path), "--home", str(home)], check=False)
            print(f"  exit {gate.returncode}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
