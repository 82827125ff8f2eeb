"""Controls hold owned overrides, never old values (kernel decision 3).

A control has a base and an ordered set of overrides keyed by their owner. Undo removes one's own and the
effective value is computed again, so two incidents can never restore each other's leftovers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

Setting = float | str
Kind = Literal["scale", "cap", "choose"]


@dataclass(frozen=True, slots=True)
class Override:
    """``scale`` multiplies, ``cap`` bounds from above, ``choose`` replaces."""

    kind: Kind
    by: Setting

    def over(self, value: Setting) -> Setting:
        """The value with this override on top."""
        if self.kind == "choose":
            return self.by
        if isinstance(value, str) or isinstance(self.by, str):
            raise TypeError(f"{self.kind} needs numbers, found {value!r} and {self.by!r}; use choose")
        return value * self.by if self.kind == "scale" else min(value, self.by)


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """Who holds an override: an incident's rung."""

    incident: int
    rung: str


class OverrideStack:
    """The pure rule that every control follows and the kernel computes again for its read-back."""

    __slots__ = ("_overrides", "base")

    def __init__(self, base: Setting) -> None:
        self.base = base
        self._overrides: dict[Owner, Override] = {}

    @property
    def effective(self) -> Setting:
        """The base with every override on top, in the order in which they came."""
        value = self.base
        for override in self._overrides.values():
            value = override.over(value)
        return value

    def put(self, owner: Owner, override: Override) -> Setting:
        """Add one's own override on top, or replace it there."""
        self._overrides.pop(owner, None)
        self._overrides[owner] = override
        return self.effective

    def remove(self, owner: Owner) -> Setting:
        """Remove one's own override; removing twice is the same as once."""
        self._overrides.pop(owner, None)
        return self.effective

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Who stands on this control, oldest first."""
        return tuple(self._overrides)

    def override(self, owner: Owner) -> Override | None:
        """What this owner put there, if anything."""
        return self._overrides.get(owner)

    def state(self) -> dict[str, object]:
        """Plain data to resume from."""
        return {
            "base": self.base,
            "overrides": [[o.incident, o.rung, v.kind, v.by] for o, v in self._overrides.items()],
        }

    def load(self, state: dict[str, object]) -> None:
        """Resume from :meth:`state`."""
        rows = state["overrides"]
        assert isinstance(rows, list)
        self._overrides = {Owner(i, r): Override(k, b) for i, r, k, b in rows}


def same_setting(one: Setting | None, other: Setting | None) -> bool:
    """Whether a read-back is the expected value: exact for names, to 1e-9 relative for numbers."""
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one is not None and one == other


class Control(Protocol):
    """What a workload lets a rung turn. Three verbs; what each returns is never believed without ``read``."""

    def turn(self, owner: Owner, override: Override) -> None:
        """Put the override in force (or carry out a one-shot request such as a restore)."""
        ...

    def undo(self, owner: Owner) -> None:
        """Remove the owner's override; a second call changes nothing."""
        ...

    def read(self) -> Setting:
        """The effective value, read where it acts, not where it was asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command: ``ok`` is ``None`` when unknown (timed out, process lost)."""

    ok: bool | None
    value: Setting | None = None
    detail: str = ""
