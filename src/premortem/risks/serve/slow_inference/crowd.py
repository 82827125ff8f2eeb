"""Clients that do not wait for each other, and what each of them got.

Requests come by a seeded Poisson schedule whatever the service does, and a client's wait counts from the moment at
which it wanted to ask: a service that holds everybody up cannot look fast.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from premortem.stages.serve.reasoner import Reasoner
from premortem.stages.serve.service import Refused, Reply, Service
from premortem.stages.train.maze import draw_layout, place_ends
from premortem.stages.train.ppo import PPOPolicy

SIZE = 5
_TIE = 1e-3
"""Two tokens whose logits are closer are one answer: their order changes with the company in a batch."""
_CHECKED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Got:
    """What one client got: an answer or none, at ``asked_at``, after ``waited_ms``."""

    number: int
    puzzle: bytes
    asked_at: float
    waited_ms: float
    reply: Reply | None


class Crowd:
    """Clients of one service.

    Args:
        service: whom they ask; on its loop.
        rate: requests a second.
        seed: of the schedule and the puzzles.
    """

    def __init__(self, service: Service, rate: float, seed: int) -> None:
        self._service, self._rate = service, rate
        self._puzzles = mazes(seed)
        self._random = Random(seed)
        self._going: set[asyncio.Task[None]] = set()
        self.got: list[Got] = []

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Ask until it is over, and wait for what was asked."""
        loop, number = asyncio.get_running_loop(), 0
        at = time.monotonic()
        while not is_over():
            at += self._random.expovariate(self._rate)
            if (left := at - time.monotonic()) > 0:
                await asyncio.sleep(left)
            task = loop.create_task(self._ask(number, at))
            self._going.add(task)
            task.add_done_callback(self._going.discard)
            number += 1
        while self._going:
            await asyncio.sleep(0.01)

    async def _ask(self, number: int, at: float) -> None:
        puzzle = self._puzzles[number % len(self._puzzles)]
        try:
            reply: Reply | None = await self._service.answer(puzzle)
        except Refused:
            reply = None
        self.got.append(Got(number, puzzle, at, (time.monotonic() - at) * 1e3, reply))


_MAZES: dict[int, list[bytes]] = {}


def mazes(seed: int, count: int = 4096) -> list[bytes]:
    """Mazes that have a way, most of them different."""
    if seed not in _MAZES:
        rng, found = Random(seed), list[bytes]()
        while len(found) < count:
            maze = place_ends(draw_layout(SIZE, "field" if len(found) % 2 else "corridors", rng), 2, rng)
            if maze is not None:
                found.append(maze)
        _MAZES[seed] = found
    return _MAZES[seed]


class Judge:
    """Says of each answer whether it is what its policy says when nothing disturbs it.

    How well a policy solves mazes is measured elsewhere: what is judged here is the service.
    """

    def __init__(self, reference: Reasoner, policy: PPOPolicy) -> None:
        self._reference, self._policy = reference, policy
        self._walks: dict[bytes, bytes] = {}
        self._thoughts: dict[tuple[int, bytes], Tensor] = {}

    def sound(self, got: list[Got]) -> dict[int, bytes]:
        """By request, the tokens of sound answers; as the reference gives them where two are equally likely."""
        found: dict[int, bytes] = {}
        by_depth: dict[int, list[tuple[Got, Reply]]] = {}
        for one in got:
            if one.reply is not None and one.reply.answer.policy == "hrm":
                by_depth.setdefault(one.reply.answer.segments, []).append((one, one.reply))
            elif one.reply is not None and one.reply.answer.tokens == self._walk(one.puzzle):
                found[one.number] = one.reply.answer.tokens
        for depth, pairs in by_depth.items():
            self._think(depth, {one.puzzle for one, _ in pairs})
            for one, reply in pairs:
                logits = self._thoughts[depth, one.puzzle]
                told = torch.tensor(list(reply.answer.tokens))
                if bool((logits.gather(-1, told[:, None])[:, 0] >= logits.amax(-1) - _TIE).all()):
                    found[one.number] = bytes(logits.argmax(-1).tolist())
        return found

    def _walk(self, puzzle: bytes) -> bytes:
        if puzzle not in self._walks:
            self._walks[puzzle] = self._policy.solve(puzzle).tokens
        return self._walks[puzzle]

    def _think(self, depth: int, puzzles: set[bytes]) -> None:
        """Logits (C, V) of those that are not known yet."""
        new = sorted(puzzle for puzzle in puzzles if (depth, puzzle) not in self._thoughts)
        for at in range(0, len(new), _CHECKED_AT_ONCE):
            asked = new[at : at + _CHECKED_AT_ONCE]
            tokens = torch.tensor([list(puzzle) for puzzle in asked])
            thoughts = self._reference.think(tokens, [depth] * len(asked), [None] * len(asked))
            self._thoughts |= {(depth, p): t.logits for p, t in zip(asked, thoughts, strict=True)}


def digest(sound: dict[int, bytes], count: int) -> str:
    """Of the first so many requests' answers, in the order of asking."""
    hashed = hashlib.sha256()
    for number in range(count):
        hashed.update(sound.get(number, b"none") + b"\n")
    return hashed.hexdigest()[:16]
