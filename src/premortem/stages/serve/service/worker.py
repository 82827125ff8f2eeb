"""The process that holds the models: ``python -m premortem.stages.serve.service.worker DESCRIPTOR SPEC``.

It warms up before it says that it is ready, answers over one socket, and ends with its parent. Exit codes: 0 told to
stop or nobody listens any more, 2 the user's mistake, 3 it could not load its models.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import time
from pathlib import Path

from premortem.machine.parent import end_with_parent

if __name__ == "__main__":  # before the slow imports: the parent may end meanwhile
    end_with_parent()

import msgspec
import torch

from premortem.core.errors import ConfigError, StageError
from premortem.stages.serve.reasoner import Reasoner, hand_back
from premortem.stages.serve.service.frames import (
    Ask,
    Failed,
    Forget,
    Frames,
    Message,
    Model,
    Puzzle,
    Ready,
    Spec,
    Stop,
    Told,
    Unfit,
    pack,
)
from premortem.stages.serve.service.lane import Lane
from premortem.stages.train.hrm.card import Card, read_card

STOPPED, MISTAKE, UNFIT = 0, 2, 3
_PIECE = 1 << 16
_LIFE_S = 0.05
"""A worker that computes says so about as often, however long its puzzles take."""


class Worker:
    """Loads the models of a spec and answers until told to stop.

    Raises:
        ConfigError, StageError: a bundle cannot be served.
    """

    def __init__(self, spec: Spec, line: socket.socket) -> None:
        self._spec, self._line = spec, line
        self._frames = Frames()
        self._lanes: dict[str, Lane] = {}
        self._models: list[Model] = []
        self._is_stopping = False
        self._said_at = 0.0
        for bundle, card in _one_of_each_task([Path(bundle) for bundle in spec.bundles]):
            self._take(bundle, card)

    def _take(self, bundle: Path, card: Card) -> None:
        reasoner = Reasoner(bundle, card.config)
        lane = Lane(reasoner, self._spec.slots)
        _warm(lane, card, self._spec.slots)
        version = f"{bundle.name}@{reasoner.fingerprint}"
        segments = card.config.halting.max_segments
        canary = reasoner.sing().numpy().tobytes()
        self._models.append(Model(card.task, card.size, version, segments, canary))
        self._lanes[card.task] = lane

    def run(self) -> None:
        """Answer; returns when told to stop and nothing waits, or when the other end is gone."""
        gc.collect()
        gc.freeze()  # what the imports left is never garbage: no full collection walks it in the middle of a batch
        self._say(Ready(os.getpid(), self._models))
        while True:
            is_busy = any(lane.is_busy for lane in self._lanes.values())
            if self._is_stopping and not is_busy:
                return
            if is_busy and time.monotonic() - self._said_at > _LIFE_S:
                self._say(Told([]))  # who thinks long is not dead
            if not self._listen(is_busy=is_busy):
                return
            for lane in self._lanes.values():
                self._advance(lane)

    def _advance(self, lane: Lane) -> None:
        try:
            thoughts = lane.step()
        except Exception as error:  # one batch is told so; the next may fit
            self._say(Failed(lane.drop(), f"{type(error).__name__}: {error}"))
            return
        if thoughts:
            self._say(Told(thoughts))

    def _listen(self, *, is_busy: bool) -> bool:
        """Take what was said, waiting for it when there is nothing to do; whether anybody is there still."""
        if not is_busy:
            if not self._hear():
                return False
            self._said_at = time.monotonic()  # nobody listened for it until now
            if self._spec.linger_s and select.select([self._line], [], [], self._spec.linger_s)[0]:
                return self._hear()
            return True
        while select.select([self._line], [], [], 0.0)[0]:
            if not self._hear():
                return False
        return True

    def _hear(self) -> bool:
        data = self._line.recv(_PIECE)
        for message in self._frames.take(data):
            self._heed(message)
        return bool(data)

    def _heed(self, message: Message) -> None:
        if isinstance(message, Ask):
            for puzzle in message.puzzles:
                self._lanes[puzzle.task].put(puzzle)
        elif isinstance(message, Forget):
            gc.collect()
            hand_back()
        elif isinstance(message, Stop):
            self._is_stopping = True

    def _say(self, message: Message) -> None:
        self._said_at = time.monotonic()
        self._line.sendall(pack(message))


def _one_of_each_task(bundles: list[Path]) -> list[tuple[Path, Card]]:
    """The bundles with their cards; raises ConfigError where two are of one task."""
    taken: dict[str, tuple[Path, Card]] = {}
    for bundle in bundles:
        card = read_card(bundle)
        if card.task in taken:
            raise ConfigError(
                f"{taken[card.task][0]} and {bundle}: found two bundles of the task {card.task}, expected one for each "
                "task; leave one out, or serve it by a service of its own"
            )
        taken[card.task] = bundle, card
    return list(taken.values())


def _warm(lane: Lane, card: Card, slots: int) -> None:
    """Think at every batch size in use: the first pass of a size allocates, and would keep a client waiting."""
    blank, size = bytes(card.config.seq_len), 1
    while size < 2 * slots:
        for number in range(min(size, slots)):
            lane.put(Puzzle(number, card.task, blank, 1))
        lane.step()
        size *= 2


def main(arguments: list[str]) -> int:
    """``DESCRIPTOR SPEC``: the number of an open socket, and the spec as JSON."""
    line = socket.socket(fileno=int(arguments[0]))
    spec = msgspec.json.decode(arguments[1], type=Spec)
    torch.set_num_threads(spec.threads)
    code = STOPPED
    with contextlib.suppress(ConnectionError):  # nobody is there to be told
        try:
            worker = Worker(spec, line)
        except ConfigError as error:
            code = MISTAKE
            line.sendall(pack(Unfit(str(error), is_mistake=True)))
        except Exception as error:  # whatever it is: who waits for the start is told in one line
            code = UNFIT
            told = str(error) if isinstance(error, StageError) else f"{type(error).__name__}: {error}"
            line.sendall(pack(Unfit(told, is_mistake=False)))
        else:
            worker.run()
    return code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # torch's threads and exit handlers must not hold up the end
