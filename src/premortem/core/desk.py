"""The desk numbers the kernel's commands and writes its records; it decides nothing."""

from __future__ import annotations

from premortem.core.clock import Now
from premortem.core.command import NO_TARGET, Command, Target, Verb
from premortem.core.evidence import Event, Plain, Record
from premortem.core.incident import Incident

RESUME = 0
"""Owner of the commands by which a restarted guard puts its settings back; incidents count from 1."""


class Desk:
    """Collects commands until the driver takes them."""

    def __init__(self) -> None:
        self.tick = 0
        self.seconds = 0.0
        self._next = 1
        self._out: list[Command] = []
        self.waiting: dict[int, tuple[int, Now]] = {}

    @property
    def now(self) -> Now:
        """The moment of the last observation."""
        return Now(self.tick, self.seconds)

    @property
    def has_some(self) -> bool:
        """Whether commands wait to be taken."""
        return bool(self._out)

    def take(self) -> list[Command]:
        """Hand over what has been asked since last time."""
        out, self._out = self._out, []
        return out

    def note(self, event: Event, entry: str, incident: Incident | None = None, **data: Plain) -> None:
        """Write a record; nothing is awaited."""
        self._issue("note", self.record(event, entry, incident, **data))

    def record(self, event: Event, entry: str, incident: Incident | None, **data: Plain) -> Record:
        """A record of this moment."""
        number = None if incident is None else incident.number
        return Record(event, entry, number, self.tick, self.seconds, data)

    def ask(self, verb: Verb, owner: int, record: Record, target: Target = NO_TARGET) -> None:
        """Issue a command whose outcome belongs to this incident, or to the resume (:data:`RESUME`)."""
        number = self._issue(verb, record, target)
        self.waiting[number] = (owner, self.now)

    def mark_good(self, tick: int) -> None:
        """Ask the driver to mark the checkpoint saved at this tick."""
        self._issue(
            "mark_good",
            Record("good", "", None, self.tick, self.seconds, {"saved_at": tick}),
            tick=tick,
        )

    def settle(self, number: int) -> int | None:
        """An outcome arrived; returns the incident it belongs to, once."""
        owner = self.waiting.pop(number, None)
        return None if owner is None else owner[0]

    def _issue(self, verb: Verb, record: Record, target: Target = NO_TARGET, tick: int = 0) -> int:
        number = self._next
        self._next += 1
        self._out.append(Command(number, verb, record, target, tick))
        return number
