"""Seeded clients that ask a worker for Sudoku solutions, a round at a time, and keep what they were told.

The model is seeded and untrained: right is what the undisturbed model of the same bundle answers, and that needs no
training. How well a trained one solves is measured in ``benchmarks/hrm_sudoku.py``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from premortem.stages.serve.answer import Refused
from premortem.stages.serve.reasoner import Reasoner
from premortem.stages.serve.solver import Solver
from premortem.stages.train.checkpoint import save_bundle
from premortem.stages.train.hrm import HRM, HRMConfig
from premortem.stages.train.sudoku import SudokuConfig, SudokuSplit, make_split

Bytes = NDArray[np.uint8]
_TIE = 1e-3
"""Two tokens whose logits are closer are one answer: their order changes with the size of the batch."""
_CHECKED_AT_ONCE = 256


@dataclass(slots=True, kw_only=True)
class Told:
    """What became of the requests of all rounds."""

    asked: int = 0
    accepted: int = 0
    refused: int = 0


class Clients:
    """Ask ``rate`` new puzzles a round and wait until all that were accepted are settled.

    Args:
        solver: whom they ask.
        seed: of the puzzles.
        rate: requests a round; ``growth`` says by how many it grows each round, and up to how many.
        repeated: share of a round's requests that ask a puzzle of the round before again.
    """

    def __init__(self, solver: Solver, seed: int, rate: int, repeated: float = 0.25) -> None:
        self.solver, self.rate = solver, rate
        self.growth = (0, 0)
        self.told = Told()
        self._seed, self._repeated = seed, repeated
        self._split = puzzles()
        self._last: Bytes = np.empty((0, solver.reasoner.config.seq_len), np.uint8)
        self._pairs: list[Bytes] = []

    def ask(self, round_number: int) -> None:
        """One round: ask, let the worker work, hear the answers."""
        more, most = self.growth
        self.rate = max(self.rate, min(self.rate + more, most))
        batch = self._draw(round_number)
        waiting = []
        for puzzle in batch:
            self.told.asked += 1
            try:
                waiting.append((puzzle, self.solver.submit(puzzle.tobytes())))
            except Refused:
                self.told.refused += 1
        self.told.accepted += len(waiting)
        while self.solver.work():
            pass
        heard = [(p, f.result().tokens) for p, f in waiting if f.done() and not f.exception()]
        if heard:
            tokens = np.frombuffer(b"".join(t for _, t in heard), np.uint8).reshape(len(heard), -1)
            self._pairs.append(np.stack([np.stack([p for p, _ in heard]), tokens]))
        self._last = batch

    def unserved(self) -> float:
        """Share of all requests asked that were not answered, or wrong by an undisturbed model of the same bundle."""
        right = self._count_right(Reasoner(self.solver.reasoner.bundle, self.solver.reasoner.config))
        return 1.0 - right / self.told.asked if self.told.asked else 0.0

    def digest(self) -> str:
        """Of every answer in its order: the same where nothing was disturbed."""
        crc = 0
        for pair in self._pairs:
            crc = zlib.crc32(pair.tobytes(), crc)
        return f"{crc:08x}"

    def _draw(self, round_number: int) -> Bytes:
        again = self._last[: int(self._repeated * self.rate)]
        fresh, _ = self._split.batches(self.rate - len(again), seed=self._seed).batch(round_number)
        return np.concatenate([again, fresh.astype(np.uint8)])

    def _count_right(self, reference: Reasoner) -> int:
        """Each pair of puzzle and answer is looked at once, however often it was given."""
        if not self._pairs:
            return 0
        depth = self.solver.settings.segments or self.solver.reasoner.config.halting.max_segments
        both = np.concatenate([np.concatenate([puzzle, answer], axis=1) for puzzle, answer in self._pairs])
        distinct, counts = np.unique(both, axis=0, return_counts=True)
        right = 0
        for at in range(0, len(distinct), _CHECKED_AT_ONCE):
            asked, told = torch.from_numpy(distinct[at : at + _CHECKED_AT_ONCE].astype(np.int64)).chunk(2, dim=1)
            thoughts = reference.think(asked, [depth] * len(asked), [None] * len(asked))
            logits = torch.stack([thought.logits for thought in thoughts])
            given = logits.gather(-1, told[..., None])[..., 0]
            is_right = (given >= logits.amax(-1) - _TIE).all(-1).numpy()
            right += int(counts[at : at + _CHECKED_AT_ONCE][is_right].sum())
        return right


def puzzles() -> SudokuSplit:
    """4×4 puzzles of few grids; their symmetries make more than any drill asks for."""
    return make_split(SudokuConfig(4, 16, 1, puzzles_per_grid=8, clues=(8, 10)))


def seeded_bundle(folder: Path, config: HRMConfig, seed: int) -> Path:
    """A bundle with the seeded, untrained weights of such a model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HRM(config)
    return save_bundle(folder, 0, {"model": model.state_dict()}).path
