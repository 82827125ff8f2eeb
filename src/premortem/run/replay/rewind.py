"""What the detectors knew at earlier steps, so that a restart in a log takes them back as a checkpoint would."""

from __future__ import annotations

from premortem.core.observer import Observer

_MOST = 64


class Rewind:
    """States of the detectors at some steps, in bounded memory: the longer the log, the further apart.

    Call :meth:`take` when :attr:`due` observations are done, and :meth:`back` at a jump back.
    """

    def __init__(self) -> None:
        self.due = 1
        self._every = 1
        self._kept: list[tuple[float, dict[str, object]]] = []

    def take(self, step: float, observer: Observer) -> None:
        """Remember the detectors as they stand after this step."""
        self._kept.append((step, observer.state()))
        if len(self._kept) > _MOST:
            self._kept = self._kept[::2]
            self._every *= 2
        self.due += self._every

    def back(self, step: float, observer: Observer) -> None:
        """Set them back to the last state before a step; what came after that belongs to an abandoned future."""
        self._kept = [kept for kept in self._kept if kept[0] < step]
        if self._kept:
            observer.load(self._kept[-1][1])
