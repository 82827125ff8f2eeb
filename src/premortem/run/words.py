"""Records in words: one line for people, or nothing where only machines need the record."""

from __future__ import annotations

from collections.abc import Callable

from premortem.core.evidence import Plain, Record


def in_words(record: Record) -> str:
    """A record as one line for people; empty for one that only machines need.

    >>> in_words(Record("relapse", "DEF-1", 1, 9, 0.0, {"why": "seen again"}))
    'relapse: seen again'
    """
    data = record.data
    if record.event in ("intent", "outcome"):
        return _of_command(record.event, data)
    form = _FORMS.get(record.event)
    return record.event.replace("_", " ") if form is None else form(data)


def _of_command(event: str, data: dict[str, Plain]) -> str:
    verb, rung = data.get("verb"), data.get("rung")
    if event == "intent" and verb == "turn":
        again = f", try {data['attempt']}" if data.get("attempt", 1) != 1 else ""
        why = f" ({data['why']})" if data.get("why") else ""
        return f"rung: {rung}{again}{why}"
    if event == "intent" and verb == "undo":
        return f"take back: {rung}"
    if event == "outcome" and verb == "wait":
        return f"stays in force: {rung}, until {data.get('until')!r} is GREEN"
    if event == "outcome" and verb == "read" and "as_expected" in data:
        told = "as expected" if data["as_expected"] else f"NOT as expected, which is {_short(data.get('expected'))}"
        return f"read back: {_short(data.get('value'))}, {told}"
    if event == "outcome" and rung is not None and data.get("ok") is not True:
        return f"{verb} of {rung!r} did not succeed: {data.get('detail') or 'unknown'}"
    return ""


def _short(value: Plain) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finding(data: dict[str, Plain]) -> str:
    level = data.get("level") or "INCONCLUSIVE"
    if level == "GREEN":
        return f"GREEN again: {data.get('watch')}"
    value = data.get("value")
    seen = "missing" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{level}: {data.get('symptom')}, {data.get('signal')} = {seen} ({data.get('watch')})"


def _verified(data: dict[str, Plain]) -> str:
    why = f": {data['why']}" if data.get("why") else ""
    return f"{data.get('verdict')}: {data.get('rung')}{why}"


def _verdict(data: dict[str, Plain]) -> str:
    standing = data.get("standing")
    left = f", still standing: {', '.join(map(str, standing))}" if isinstance(standing, list) and standing else ""
    after = f" after rung {data['after_rung']!r}" if data.get("after_rung") else ""
    return f"{data.get('verdict')}{after}{left}"


def _run(data: dict[str, Plain]) -> str:
    told = [f"{key} {_short(value)}" for key, value in data.items() if key not in ("what", "why") and value != ""]
    why = f": {data['why']}" if data.get("why") else ""
    return f"run {data.get('what')}{' (' + ', '.join(told) + ')' if told else ''}{why}"


def _asked(data: dict[str, Plain]) -> str:
    return "asked for: " if data.get("asked") is True else ""


_FORMS: dict[str, Callable[[dict[str, Plain]], str]] = {
    "run": _run,
    "finding": _finding,
    "opened": lambda d: f"incident opened: {d.get('because')}",
    "queued": lambda d: f"waits behind incident {d.get('behind')}",
    "verified": _verified,
    "relapse": lambda d: f"relapse: {d.get('why')}",
    "recovered": lambda d: f"recovered after rung {d.get('after_rung')!r}, through a whole relapse watch",
    "held": _verdict,
    "closed": lambda d: f"closed: {_verdict(d)}",
    "handed_over": lambda d: f"handed over to a person: {d.get('why')}",
    "escalated": lambda d: f"escalated at {d.get('level')}{' to ' + str(d['to']) if 'to' in d else ''}",
    "good": lambda d: f"checkpoint of tick {d.get('saved_at')} earned its good mark",
    "acknowledged": lambda d: f"{_asked(d)}acknowledged by {d.get('who')}",
    "rebaselined": lambda d: f"{_asked(d)}new normal accepted by {d.get('who')}",
    "guard_fault": lambda d: f"the guard itself: {d.get('what')}",
    "unwatched": lambda d: f"not watched: {d.get('what')}",
    "fault": lambda d: f"fault {d.get('what')}: {d.get('detail')}",
    "proof": lambda d: f"proof: {d.get('verdict')} on {d.get('seeds')} seeds",
    "gate": lambda d: f"gate {d.get('gate')}: {d.get('answer')}",
}
