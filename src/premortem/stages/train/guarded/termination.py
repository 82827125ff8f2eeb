"""SIGTERM as a wish to stop, heard between steps: the run saves a bundle and ends with exit code 143."""

from __future__ import annotations

import signal
import threading
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM
"""What a shell shows for a process that SIGTERM ended."""


class Termination:
    """Listens while a run is open, in the main thread only, and only where nobody else listens.

    The second SIGTERM finds the default behaviour again and ends the process at once.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._listens = False

    def listen(self) -> None:
        """Begin to listen."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._hear)
            self._listens = True

    def close(self) -> None:
        """Give the signal back."""
        if self._listens:
            self._listens = False
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        self.close()
