"""What every fault offers: put on by `with`, seen by evidence, and proven gone.

Source: law 4 of the design (a drill earns credit only if its fault was observed and was gone at the end).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from premortem.core.errors import StageError


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a probe found. `holds` is None where it could not be established: inconclusive, never a pass."""

    holds: bool | None
    detail: str


class NotPermitted(StageError):  # noqa: N818 - the word that a drill's report uses
    """The machine or the user's rights do not allow this fault: its drill is inconclusive."""


class RemovalFailed(StageError):  # noqa: N818 - the word that a drill's report uses
    """A fault could not be taken away; `gone()` says what is left."""


class Fault(Protocol):
    """A real disturbance. Its state belongs to the process that entered it."""

    @property
    def name(self) -> str:
        """Short noun for reports, such as `full tmpfs`."""

    def __enter__(self) -> Self:
        """Put it on. Raises NotPermitted where rights lack, ConfigError where it cannot hit anything."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away, whatever the body raised. Raises RemovalFailed where that did not work."""

    def observed(self) -> Evidence:
        """Whether it was really there, from a measurement; may be asked while it is on and afterwards."""

    def gone(self) -> Evidence:
        """Whether it is really away, by probing again."""
