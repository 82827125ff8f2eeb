"""Why a set could not be had from one place, in three words that decide what can mend it."""

from __future__ import annotations

from typing import Literal

from premortem.core.errors import StageError

Symptom = Literal["unreachable", "not there", "damaged"]


class Refused(StageError):  # noqa: N818 - what happened, not an error of ours
    """A place did not give the set.

    Attributes:
        symptom: `unreachable` (refused, reset, hanging, trickling, 429, 5xx: later may be better), `not there`
            (404, no such configuration, no right: later is no better), `damaged` (wrong hash, cut, cannot be
            decoded, columns missing).
        retry_after_s: what the server asked for, in seconds.
    """

    def __init__(self, symptom: Symptom, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.symptom, self.retry_after_s = symptom, retry_after_s
