"""Puzzles that think together, segment by segment: who has halted leaves at once, and others take the place.

A segment is where a Hierarchical Reasoning Model may stop by itself. A batch that waited for its slowest puzzle would
make the easy ones as late as the hardest (8 segments to 1), so nobody waits for anybody here.
Legend as in ``hrm.model``: A puzzles at work, C cells, S = C + 1 tokens, D channels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from premortem.stages.serve.reasoner import Reasoner
from premortem.stages.serve.service.frames import Puzzle, Thought


@dataclass(slots=True)
class _Row:
    """A puzzle at work."""

    puzzle: Puzzle
    steps: int = 0


class Lane:
    """One model's puzzles.

    Args:
        reasoner: the model.
        slots: puzzles that share a segment at most.
    """

    def __init__(self, reasoner: Reasoner, slots: int) -> None:
        self._reasoner, self._slots = reasoner, slots
        self._waiting: deque[Puzzle] = deque()
        self._rows: list[_Row] = []
        self._states: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether anything waits or thinks."""
        return bool(self._rows or self._waiting)

    def put(self, puzzle: Puzzle) -> None:
        """It takes its place at the next segment, or when one becomes free."""
        self._waiting.append(puzzle)

    def drop(self) -> list[int]:
        """Give up all that thinks or waits; returns their numbers."""
        numbers = [row.puzzle.number for row in self._rows] + [puzzle.number for puzzle in self._waiting]
        self._waiting.clear()
        self._rows, self._states = [], None
        return numbers

    @torch.inference_mode()
    def step(self) -> list[Thought]:
        """One segment for everybody at work; returns those who are done."""
        self._seat()
        if self._states is None:
            return []
        high_ASD, low_ASD, puzzles_AC = self._states
        model, count = self._reasoner.model, len(self._rows)
        segment = model.segment(high_ASD, low_ASD, puzzles_AC)
        for row in self._rows:
            row.steps += 1
        halted: list[bool] = model.wants_halt(segment).tolist()
        done = [halt or row.steps >= row.puzzle.segments for halt, row in zip(halted, self._rows, strict=True)]
        self._states = (segment.z_high, segment.z_low, puzzles_AC)
        if not any(done):
            return []
        tokens = segment.logits.argmax(-1).tolist()
        told = [
            Thought(row.puzzle.number, bytes(tokens[at]), row.steps, halted[at], count)
            for at, row in enumerate(self._rows)
            if done[at]
        ]
        self._keep([at for at in range(count) if not done[at]])
        return told

    def _seat(self) -> None:
        """Let those who wait take the free places, with the states that thinking begins from."""
        room = self._slots - len(self._rows)
        new = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        if not new:
            return
        model, config = self._reasoner.model, self._reasoner.config
        shape = (len(new), config.seq_len + 1, config.hidden_size)
        puzzles_AC = torch.tensor([list(puzzle.tokens) for puzzle in new], device=self._reasoner.device)
        fresh = (model.high_start.expand(shape), model.low_start.expand(shape), puzzles_AC)
        if self._states is None:
            self._states = fresh
        else:
            held = self._states
            self._states = (
                torch.cat((held[0], fresh[0])), torch.cat((held[1], fresh[1])), torch.cat((held[2], fresh[2]))
            )  # fmt: skip
        self._rows += [_Row(puzzle) for puzzle in new]

    def _keep(self, places: list[int]) -> None:
        self._rows = [self._rows[at] for at in places]
        if not places:
            self._states = None
            return
        assert self._states is not None
        index = torch.tensor(places, device=self._reasoner.device)
        high_ASD, low_ASD, puzzles_AC = self._states
        self._states = (high_ASD[index], low_ASD[index], puzzles_AC[index])
