"""The memory of a training run as an instrument: what is used, what the coming batch needs, how it was taken."""

from __future__ import annotations

from premortem.core.signal import Signal
from premortem.stages.train.guarded.fitting import Fitting
from premortem.stages.train.guarded.forward import Forward
from premortem.stages.train.guarded.pieces import Taken
from premortem.stages.train.guarded.recompute import Recompute
from premortem.stages.train.guarded.relief import Caches, IdleModels

GIB = 1024.0**3

SIGNALS: tuple[Signal, ...] = (
    Signal("memory_used", "GiB", help="in use between two steps, by the limit that leaves least"),
    Signal(
        "memory_held",
        "",
        help="the same as a share of that limit; of the machine's own memory, what this process holds",
    ),
    Signal("memory_share", "", help="peak of a pass, as a share of what the tightest limit left"),
    Signal(
        "memory_need", "", help="what the batch will take at its peak, as a share of what the tightest limit leaves"
    ),
    Signal("ooms", "", help="exceptions for want of memory in this step, and steps given up for it"),
    Signal("pieces", "", help="pieces that a batch was taken in; 1 for the whole"),
    Signal("piece_cap", "samples", help="samples a piece at most, as the last step obeyed it"),
    Signal("recomputing", "", help="1 where activations were computed again in this step's backward pass"),
    Signal("precision", "bits", higher_is_worse=False, help="that the last forward pass computed with"),
    Signal("caches_every", "steps", help="between two emptyings of caches, as the last step obeyed it"),
    Signal("idle_kept", "models", help="idle models whose weights lie where they compute"),
)


class Room:
    """The instrument. Unknown is ``None``: in the first form the guard sees no forward pass."""

    signals = SIGNALS

    def __init__(
        self, fitting: Fitting, forward: Forward, recompute: Recompute, caches: Caches, idle: IdleModels
    ) -> None:
        self._fitting = fitting
        self._forward = forward
        self._recompute = recompute
        self._caches = caches
        self._idle = idle
        self._seen = 0
        self._peak: float | None = None

    def values(self) -> list[float | None]:
        """In the order of :data:`SIGNALS`; the present step's figures begin anew."""
        fitting = self._fitting
        taken, fitting.taken = fitting.taken, Taken()
        look = taken.held or fitting.look
        again, self._seen = self._recompute.num_recomputed - self._seen, self._recompute.num_recomputed
        # read every few steps far from the limit: the last known peak stands until then
        self._peak = taken.peak_share if taken.peak_share is not None else self._peak
        return [
            None if look is None else look.used / GIB,
            None if look is None else look.held_share,
            self._peak,
            taken.need_share,
            float(taken.ooms),
            None if taken.pieces is None else float(taken.pieces),
            taken.cap,
            1.0 if again else 0.0,
            self._forward.precision.used,
            self._caches.used,
            self._idle.num_kept,
        ]

    def witnesses(self) -> dict[str, str]:
        """By control."""
        return {
            "micro_batch": "piece_cap", "recompute": "recomputing", "precision": "precision",
            "caches": "caches_every", "idle_models": "idle_kept",
        }  # fmt: skip
