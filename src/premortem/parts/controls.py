"""Two controls that fit most workloads: a setting that is held, and a request that is carried out once.

A workload gives the functions that act on it and read it; the kernel's rule of owned overrides is here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from premortem.core.action import Override, OverrideStack, Owner, Setting

NOTHING = "nothing"


class HeldSetting:
    """A number or a name, in force until its owner takes it back.

    Args:
        base: what it is while nobody turned it.
        apply: puts a value in force; what it raises becomes a failed outcome.
        read: the value in force, read where it acts; left out, it is what was applied last. Give one wherever the
            world can differ from what was asked of it, as a file or another process can.

    ``apply`` and ``read`` are called in the guard's threads.
    """

    def __init__(
        self, base: Setting, apply: Callable[[Setting], None] | None = None, read: Callable[[], Setting] | None = None
    ) -> None:
        self._stack = OverrideStack(base)
        self._apply, self._read = apply, read
        self.value = base

    def turn(self, owner: Owner, override: Override) -> None:
        """Put the override in force."""
        self._set(self._stack.put(owner, override))

    def undo(self, owner: Owner) -> None:
        """Remove the owner's override; what others put there stays."""
        self._set(self._stack.remove(owner))

    def read(self) -> Setting:
        """The value in force."""
        return self.value if self._read is None else self._read()

    def _set(self, value: Setting) -> None:
        if self._apply is not None:
            self._apply(value)
        self.value = value


class OneShotRequest:
    """Something that is done once and cannot be taken back: a restore, a restart, a question to a person.

    Args:
        carry_out: does it; given what the rung asks for, such as ``last good``.
        shows: whether its evidence is there now; asked at each read-back.
        kept: a file that remembers what was asked, where the answer may come to another process: a person's does.

    Its rung is IRREVERSIBLE with a name as its override. The kernel gives each try a number, so that no old evidence
    passes for a new try: ``carry_out`` is not given the number, ``read`` shows it.
    """

    def __init__(self, carry_out: Callable[[str], None], shows: Callable[[], bool], kept: Path | None = None) -> None:
        self._carry_out, self._shows, self._kept = carry_out, shows, kept
        self._asked = kept.read_text("utf-8") if kept is not None and kept.exists() else NOTHING

    def turn(self, owner: Owner, override: Override) -> None:
        """Carry it out; raises what it raises."""
        self._remember(NOTHING)
        request = str(override.by)
        self._carry_out(request.partition(" #")[0])
        self._remember(request)

    def undo(self, owner: Owner) -> None:
        """Nothing can be taken back; what was asked is forgotten."""
        self._remember(NOTHING)

    def read(self) -> Setting:
        """The request while its evidence shows, else ``nothing``."""
        return self._asked if self._asked != NOTHING and self._shows() else NOTHING

    def _remember(self, request: str) -> None:
        self._asked = request
        if self._kept is not None:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            self._kept.write_text(request, "utf-8")
