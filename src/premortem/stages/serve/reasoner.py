"""The model of a checkpoint bundle, ready to think: loaded verified, dropped whole, asked in batches."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from premortem.core.errors import StageError
from premortem.machine.relief import trim
from premortem.stages.serve.cache import Thought
from premortem.stages.train.checkpoint import load_bundle, verify_bundle
from premortem.stages.train.guarded.requests import digest
from premortem.stages.train.hrm import HRM, HRMConfig

_CANARIES = 4
_CLOSE = 1e-3
"""Logits of one puzzle differ in their last bits with the size of its batch."""


class Reasoner:
    """A Hierarchical Reasoning Model that answers.

    Args:
        bundle: a checkpoint bundle with a part ``model``.
        config: of the model that the bundle was saved from.
        device: where it computes.

    Raises:
        StageError: for a bundle that does not verify or fit.
    """

    def __init__(self, bundle: Path, config: HRMConfig, device: str = "cpu") -> None:
        self.bundle, self.config, self.device = bundle, config, torch.device(device)
        self.loads = 0
        self._model: HRM | None = None
        self._weights = 0
        self._canary: Tensor | None = None
        self.load()

    @property
    def model(self) -> HRM:
        """The model in memory; raises StageError where there is none."""
        if self._model is None:
            raise StageError(f"no model is loaded: {self.bundle} could not be loaded; repair it, then reload")
        return self._model

    @property
    def is_loaded(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    @property
    def name(self) -> str:
        """Which load of which bundle."""
        return f"{self.bundle.name} (load {self.loads})"

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits of the weights that were loaded."""
        return f"{self._weights & 0xFFFFFFFF:08x}"

    def load(self) -> None:
        """Take the weights from the bundle into a new model; the old one goes first, and all that hung on it.

        The bundle is verified before anything is dropped. Raises StageError where it does not verify or fit.
        """
        verify_bundle(self.bundle)
        self._model = None
        gc.collect()  # what hung on it may refer to itself in a circle
        hand_back(self.device)
        with torch.random.fork_rng(devices=[]):  # the draws of a fresh model are thrown away; nobody's stream moves
            model = HRM(self.config)
        weights = load_bundle(self.bundle, fits={"model": model.state_dict()})["model"]
        assert isinstance(weights, dict)
        model.load_state_dict(weights)
        self._weights = digest(weights)
        del weights
        self._model = model.to(self.device).eval().requires_grad_(requires_grad=False)
        self.loads += 1
        if self._canary is None:
            self._canary = self.sing()

    def is_as_loaded(self) -> bool:
        """Whether the weights in memory are the bundle's, and the canary puzzles come out as at the first load."""
        if self._model is None or digest(self._model.state_dict()) != self._weights:
            return False
        assert self._canary is not None
        return bool(torch.allclose(self.sing(), self._canary, atol=_CLOSE, rtol=_CLOSE))

    @torch.no_grad()
    def think(self, puzzles_BC: Tensor, wanted: Sequence[int], held: Sequence[Thought | None]) -> list[Thought]:
        """Think about B puzzles until each has halted by itself or has run the segments that are wanted of it.

        Args:
            puzzles_BC: (B, C) int64 tokens.
            wanted: segments at most, by puzzle.
            held: where to go on from, by puzzle; ``None`` begins anew.
        """
        model = self.model
        puzzles_BC = puzzles_BC.to(self.device)
        shape = (len(puzzles_BC), self.config.seq_len + 1, self.config.hidden_size)
        z_high, z_low = model.high_start.expand(shape).clone(), model.low_start.expand(shape).clone()
        logits = torch.zeros(len(puzzles_BC), self.config.seq_len, self.config.vocab_size, device=self.device)
        for row, thought in enumerate(held):
            if thought is not None:
                z_high[row], z_low[row], logits[row] = thought.z_high, thought.z_low, thought.logits
        steps = torch.tensor([0 if t is None else t.segments for t in held], device=self.device)
        limit = torch.tensor(list(wanted), device=self.device)
        halted = torch.zeros(len(held), dtype=torch.bool, device=self.device)
        while bool((running := ~halted & (steps < limit)).any()):
            segment = model.segment(z_high, z_low, puzzles_BC)
            rows = running[:, None, None]
            z_high = torch.where(rows, segment.z_high, z_high)
            z_low = torch.where(rows, segment.z_low, z_low)
            logits = torch.where(rows, segment.logits, logits)
            steps = steps + running
            halted = halted | (running & model.wants_halt(segment))
        return self._thoughts((logits, z_high, z_low), steps.tolist(), halted.tolist())

    def _thoughts(self, outputs: tuple[Tensor, Tensor, Tensor], steps: list[int], halted: list[bool]) -> list[Thought]:
        """A copy of each row: a view would keep the whole batch alive for as long as one of its puzzles is cached."""
        name = self.name
        rows = zip(*(output.unbind(0) for output in outputs), steps, halted, strict=True)
        return [Thought(a.clone(), b.clone(), c.clone(), step, halt, name) for a, b, c, step, halt in rows]

    def sing(self) -> Tensor:
        """(B, C, V) logits of fixed canary puzzles after one segment: what a model answers that is as it was."""
        generator = torch.Generator().manual_seed(0)
        shape = (_CANARIES, self.config.seq_len)
        puzzles = torch.randint(0, self.config.vocab_size, shape, generator=generator)
        return torch.stack([t.logits for t in self.think(puzzles, [1] * _CANARIES, [None] * _CANARIES)])


def hand_back(device: torch.device | str = "cpu") -> None:
    """Give freed memory back to the system: the allocators would rather keep it for themselves."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    trim()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
