"""Kill a guarded training run with SIGKILL at random points, restart it, and look whether anything was lost.

Each round trains one small model to its end through several lives. A life is a process of its own (forked from
a warm one, so that torch is imported once), killed after a random time; one life of each round ends by SIGTERM.
Odd rounds poison gradients, so that kills fall into open incidents as well. After each kill the ledger's chain is
verified; at the end of a round every acknowledged record must be there, the last bundle must verify, healthy
rounds must end with the weights of the uninterrupted run, bit for bit, and one edited byte must be found.

    python benchmarks/kill_soak.py --kills 50 --json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from premortem import Guard
from premortem.ledger import SqliteLedger
from premortem.ledger.ledger import Receipt
from premortem.stages.train.checkpoint import Shelf, load_bundle, verify_bundle
from premortem.stages.train.guarded.requests import digest

STEPS = 150
POISONED = frozenset(range(45, 150, 30))
ACKNOWLEDGED = ("append", "intend", "settle", "save_state")


@dataclass
class Report:
    """What was done and what was found; ``problems`` is empty when nothing was lost."""

    kills: int = 0
    terminations: int = 0
    rounds: int = 0
    acknowledged: int = 0
    rows: int = 0
    bytes_edited: int = 0
    edits_found: int = 0
    kills_in_an_incident: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def train(folder: Path, *, poisoned: bool, seed: int, tell: Callable[[str], None] = lambda line: None) -> None:
    """One life: to the end, or until somebody ends it."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Dropout(0.0 if poisoned else 0.1), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    made = torch.Generator().manual_seed(1)
    x = torch.randn(320, 6, generator=made)
    loader = DataLoader(TensorDataset(x, torch.sin(x.sum(1, keepdim=True))), 16, shuffle=True)
    guarded = Guard(ledger=folder / "ledger.db").training(
        model, optimizer, checkpoints=folder, save_every=10, probation=20, max_norm=1.0
    )
    ledger: Any = guarded.ledger
    for name in ACKNOWLEDGED:
        setattr(ledger, name, acknowledging(getattr(ledger, name), tell))
    with guarded as run:
        tell("open\n")
        first = next(model.parameters())
        first.register_hook(lambda g: g * math.nan if poisoned and run.ticks + 1 in POISONED else g)
        while run.step_number < STEPS and not run.stopped:
            for batch in run.batches(loader):
                run.step(loss, batch)
                tell(f"step {run.ticks} {int(run.engine.climbing is not None)}\n")
                if run.step_number >= STEPS or run.stopped:
                    break
        run.save()


def acknowledging(write: Callable[..., Receipt], tell: Callable[[str], None]) -> Callable[..., Receipt]:
    def written(*given: object, **named: object) -> Receipt:
        receipt = write(*given, **named)
        if receipt.committed:
            tell(f"ack {receipt.seq} {receipt.hash}\n")
        return receipt

    return written


class Life:
    """A forked child that trains and tells of it in a file, so that nothing told is lost with it."""

    def __init__(self, folder: Path, *, poisoned: bool, seed: int) -> None:
        self.diary = folder / "diary.txt"
        self.diary.touch()
        self._read_from = self.diary.stat().st_size
        self.pid = os.fork()
        if self.pid == 0:
            self._live(folder, poisoned=poisoned, seed=seed)

    def _live(self, folder: Path, *, poisoned: bool, seed: int) -> None:
        code = 1
        try:
            descriptor = os.open(self.diary, os.O_WRONLY | os.O_APPEND)
            train(folder, poisoned=poisoned, seed=seed, tell=lambda line: _all(descriptor, line))
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @property
    def told(self) -> list[str]:
        """Whole lines of this life."""
        with self.diary.open() as file:
            file.seek(self._read_from)
            return [line.rstrip("\n") for line in file if line.endswith("\n")]

    def wait_for_opening(self) -> None:
        while "open" not in self.told and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)

    def end(self, number: signal.Signals, after: float) -> int | None:
        """Send the signal after so many seconds; the exit code, negative for a signal."""
        until = time.monotonic() + after
        while time.monotonic() < until:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(0.001)
        else:
            os.kill(self.pid, number)
        return self.join()

    def join(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _all(descriptor: int, line: str) -> None:
    os.write(descriptor, line.encode())


class Soak:
    """Rounds until so many kills were made."""

    def __init__(self, kills: int, seed: int, home: Path) -> None:
        self.report = Report()
        self._kills, self._home = kills, home
        self._chance = random.Random(seed)
        self._seeds = 0
        # torch and the risks are imported on first use: once here, not in every life
        train(self._folder(), poisoned=False, seed=7)
        began = time.monotonic()
        whole = self._run_to_end(self._folder(), poisoned=False)
        self._whole_s = time.monotonic() - began
        self._whole_digest = final_digest(whole)

    def run(self) -> Report:
        began = time.monotonic()
        while self.report.kills < self._kills:
            self._round(poisoned=self.report.rounds % 2 == 1)
            self.report.rounds += 1
        self.report.seconds = time.monotonic() - began
        return self.report

    def _round(self, *, poisoned: bool) -> None:
        folder = self._folder()
        lives = min(self._chance.randrange(4, 9), self._kills - self.report.kills)
        by_term = self._chance.randrange(lives)
        for number in range(lives):
            if number == by_term:
                self._terminate(folder, poisoned=poisoned)
            self._kill(folder, poisoned=poisoned)
        self._run_to_end(folder, poisoned=poisoned)
        self._judge(folder, poisoned=poisoned)

    def _kill(self, folder: Path, *, poisoned: bool) -> None:
        # a life that ends by itself was no kill: the next is younger
        for share in (0.6, 0.4, 0.2, 0.1, 0.05):
            life = self._life(folder, poisoned=poisoned)
            code = life.end(signal.SIGKILL, self._chance.uniform(0.0, share * self._whole_s))
            self._verify(folder, f"after kill {self.report.kills + 1}")
            if code == -signal.SIGKILL:
                self.report.kills += 1
                last = next((line for line in reversed(life.told) if line.startswith("step")), "step 0 0")
                self.report.kills_in_an_incident += last.endswith("1")
                return
            if code != 0:
                self._problem(f"{folder.name}: a life ended with exit code {code}, expected SIGKILL or 0")
                return

    def _terminate(self, folder: Path, *, poisoned: bool) -> None:
        life = self._life(folder, poisoned=poisoned)
        life.wait_for_opening()
        code = life.end(signal.SIGTERM, self._chance.uniform(0.0, 0.05 * self._whole_s))
        if code == 0:
            return
        self.report.terminations += 1
        if code != 128 + signal.SIGTERM:
            self._problem(f"{folder.name}: SIGTERM gave exit code {code}, expected 143")
        self._verify(folder, "after SIGTERM")

    def _run_to_end(self, folder: Path, *, poisoned: bool) -> Path:
        code = self._life(folder, poisoned=poisoned).join()
        if code != 0:
            self._problem(f"{folder.name}: the last life ended with exit code {code}, expected 0")
        return folder

    def _judge(self, folder: Path, *, poisoned: bool) -> None:
        newest = Shelf(folder, own=False).find_loadable().bundle
        if newest is None or (not poisoned and newest.step != STEPS):
            self._problem(f"{folder.name}: the newest bundle is {newest}, expected one of step {STEPS}")
            return
        verify_bundle(newest.path)
        weights = load_bundle(newest.path)["model"]
        if not all(torch.isfinite(w).all() for w in weights.values()):
            self._problem(f"{folder.name}: weights are not finite at the end")
        if not poisoned and final_digest(folder) != self._whole_digest:
            self._problem(f"{folder.name}: the weights differ from those of the uninterrupted run")
        self._look_for_lost(folder)
        self._edit_a_byte(folder)

    def _look_for_lost(self, folder: Path) -> None:
        acks = [line.split()[1:] for line in (folder / "diary.txt").read_text().splitlines() if line.startswith("ack ")]
        with closing(sqlite3.connect(folder / "ledger.db")) as db:  # the chain itself: states have rows there, too
            stored = dict(db.execute("SELECT seq, hash FROM chain"))
        self.report.acknowledged += len(acks)
        self.report.rows += len(stored)
        lost = [seq for seq, found in acks if stored.get(int(seq)) != found]
        if lost:
            self._problem(f"{folder.name}: {len(lost)} acknowledged records are lost, the first is {lost[0]}")

    def _edit_a_byte(self, folder: Path) -> None:
        with SqliteLedger(folder / "ledger.db") as ledger:
            token = self._chance.choice([row.token for row in ledger.records()]).encode()
        path = folder / "ledger.db"
        data = bytearray(path.read_bytes())
        at = data.find(token)
        if at < 0:
            self._problem(f"{folder.name}: the token {token!r} is not in the file")
            return
        data[at] ^= 1
        path.write_bytes(data)
        self.report.bytes_edited += 1
        with SqliteLedger(path) as ledger:
            self.report.edits_found += not ledger.verify().ok

    def _verify(self, folder: Path, when: str) -> None:
        if not (folder / "ledger.db").exists():
            return
        with SqliteLedger(folder / "ledger.db") as ledger:
            found = ledger.verify()
        if not found.ok:
            self._problem(f"{folder.name} {when}: {found.problems[0].text}")

    def _life(self, folder: Path, *, poisoned: bool) -> Life:
        # a healthy run resumes bit for bit from any seed once a bundle is there; before, the seed must be the same
        return Life(folder, poisoned=poisoned, seed=7)

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._home))

    def _problem(self, text: str) -> None:
        self.report.problems.append(text)


def final_digest(folder: Path) -> int:
    newest = Shelf(folder, own=False).find_loadable().bundle
    return -1 if newest is None else digest(load_bundle(newest.path)["model"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="where the runs lie; in memory it is faster, and kills are as real")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="premortem-kills-", dir=given.home) as home:
        report = Soak(given.kills, given.seed, Path(home)).run()
    passed = not report.problems and report.edits_found == report.bytes_edited
    if given.json:
        print(json.dumps({"passed": passed, **asdict(report)}, indent=1))
    else:
        print(
            f"{report.kills} kills ({report.kills_in_an_incident} in an open incident) and {report.terminations} "
            f"SIGTERMs in {report.rounds} runs, {report.seconds:.0f} s: {report.acknowledged} acknowledged records, "
            f"{report.edits_found} of {report.bytes_edited} edited bytes found, {len(report.problems)} problems"
        )
        print("\n".join(report.problems))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
