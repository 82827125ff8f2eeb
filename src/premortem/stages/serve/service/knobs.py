"""A service's controls as a rung turns them: owned overrides, and what is read back where it acts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from premortem.core.action import Override, OverrideStack, Owner, Setting
from premortem.stages.serve.service.link import MUTE_S
from premortem.stages.serve.service.service import Service

Turned = Callable[[], None]


def whole(segments: float) -> int:
    """A depth that can be: whole segments, and at least one."""
    return max(1, int(segments + 1e-9))


class Depth:
    """Segments of reasoning at most; half of three is one, and never less.

    ``read`` gives the setting itself while the service goes by it, rounded to whole segments.
    """

    def __init__(self, service: Service, turned: Turned) -> None:
        self._service, self._turned = service, turned
        self._stack = OverrideStack(float(service.depth))

    @property
    def wanted(self) -> float:
        """As it was asked for, before rounding."""
        value = self._stack.effective
        if isinstance(value, str):
            raise TypeError(f"found the depth {value!r}, expected a number of segments")
        return float(value)

    @property
    def base(self) -> int:
        """Segments while nobody turned it."""
        return whole(float(self._stack.base))

    def as_setting(self, segments: int) -> float:
        """What a number of segments that was seen in force stands for."""
        return self.wanted if segments == whole(self.wanted) else float(segments)

    def turn(self, owner: Owner, override: Override) -> None:
        """In force for every puzzle that no worker was asked yet."""
        self._stack.put(owner, override)
        self._apply()

    def undo(self, owner: Owner) -> None:
        """Remove the owner's override."""
        self._stack.remove(owner)
        self._apply()

    def read(self) -> Setting:
        """The depth that the service goes by."""
        return self.as_setting(self._service.depth)

    def _apply(self) -> None:
        self._service.set_depth(whole(self.wanted))
        self._turned()


class Restart:
    """Replaces the worker; its evidence comes when the new one is warm.

    One that is slow and answers goes on until then, so that nobody is refused for its sake; one that is silent, or
    falls silent meanwhile, is ended at once, and what it owed is asked of the new one.
    """

    def __init__(self, service: Service, turned: Turned) -> None:
        self._service, self._turned = service, turned
        self._done: Future[None] | None = None
        self._before = 0
        self._told = True
        self._is_gentle = False

    @property
    def _is_mute(self) -> bool:
        return self._service.silent_s > MUTE_S

    def begin(self, request: str) -> None:
        """Ask for it."""
        self._before, self._told = self._service.restarts, False
        self._is_gentle = not self._is_mute
        self._done = self._service.reload_worker() if self._is_gentle else self._service.restart_worker()
        self._turned()

    def is_done(self) -> bool:
        """Another worker is there, and its canary puzzles came out as the first one's did."""
        if self._is_gentle and self._is_mute and self._service.restarts == self._before:
            self._is_gentle, self._done = False, self._service.restart_worker()
        done = self._done is not None and self._done.done() and self._done.exception() is None
        if not (done and self._service.restarts > self._before and self._service.worker_pid):
            return False
        if not self._told:
            self._told = True
            self._turned()  # who waited for the start says nothing of how fast the new one is
        return True


class FallbackPolicy:
    """1 while the fallback answers, 0 while the model does."""

    def __init__(self, service: Service, turned: Turned) -> None:
        self._service, self._turned = service, turned
        self._stack = OverrideStack(self.read())

    def turn(self, owner: Owner, override: Override) -> None:
        """In force for requests that wait, too."""
        self._apply(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """Remove the owner's override."""
        self._apply(self._stack.remove(owner))

    def read(self) -> Setting:
        """Who answers now."""
        return 1.0 if self._service.policy == "ppo" else 0.0

    def _apply(self, value: Setting) -> None:
        for task in self._service.dispatch.standins:
            self._service.set_policy("ppo" if value == 1.0 else "hrm", task)
        self._turned()
