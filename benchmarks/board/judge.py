"""From what a peer left to one word, and from the words and figures of a row to who is ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.board.peer import DISK, HEALTHY, KILLED, MEMORY, Peer

Outcome = dict[str, Any]
WITHIN = 1.02
"""Of its own clean run: what counts as no harm. Unguarded, every numeric row leaves more than this."""
LEVEL = 0.005
"""Ratios that differ by less are level."""
CLEAN, RECOVERED, IN_TIME, HARMED, NOT_RUN = "clean", "recovered", "stopped in time", "harmed", "not run"
_RANK = {CLEAN: 3, RECOVERED: 3, IN_TIME: 2, HARMED: 1, NOT_RUN: 0}
ONSET, LAST_EPOCH = 300, 240


@dataclass(frozen=True)
class Cell:
    """``ratio``: loss left over the peer's own clean final loss; ``cost``: what ranks equals, less is better."""

    word: str
    text: str
    ratio: float | None
    cost: float
    cost_text: str


def judge(peer: Peer, row: str, outcome: Outcome, clean: Outcome, plain: Outcome) -> Cell:
    """One cell; ``clean`` is the peer's healthy run, ``plain`` that of torch without a guard."""
    if outcome["ended"] == "not run":
        return Cell(NOT_RUN, f"not run: {outcome['why']}", None, 0.0, "")
    if "flips" in outcome:
        return _flips(outcome)
    if row == MEMORY:
        cell = _memory(outcome)
    elif row == HEALTHY:
        return _healthy(outcome, plain)
    else:
        cell = _training(row, outcome, clean)
    missing = "" if row in peer.guards else "; no guard for it"
    return Cell(cell.word, cell.text + missing, cell.ratio, cell.cost, cell.cost_text)


def _healthy(outcome: Outcome, plain: Outcome) -> Cell:
    alarms = int(outcome.get("seen") is not None)
    same = outcome.get("digest") == plain.get("digest")
    word = HARMED if alarms or outcome["ended"] != "finished" else CLEAN
    loss = outcome.get("loss")
    ratio = loss / plain["loss"] if loss else None
    told = f"{word} {_number(loss)}, {'bit for bit torch' if same else 'own recipe'}"
    seen = f"; false alarm at step {outcome['seen']}" if alarms else ""
    return Cell(word, told + seen, ratio, float(alarms), f"{alarms} false alarms")


def _training(row: str, outcome: Outcome, clean: Outcome) -> Cell:
    base, ended = clean["loss"], outcome["ended"]
    loss, kept = outcome.get("loss"), outcome.get("kept")
    in_memory = loss / base if loss else None
    on_disk = kept / base if kept else None
    seen = _seen(row, outcome)
    if ended == "finished":
        word = RECOVERED if in_memory is not None and in_memory <= WITHIN else HARMED
        ratio = in_memory
    else:
        left = (in_memory, on_disk) if ended == "stopped" else (on_disk,)  # what died took its memory with it
        ratio = min((r for r in left if r is not None), default=None)
        allowed = WITHIN * clean["curve"][str(LAST_EPOCH)] / base
        word = IN_TIME if ratio is not None and ratio <= allowed else HARMED
    why = f" ({ended}: {outcome['why']})" if ended == "died" else f" ({outcome['why']})" if outcome["why"] else ""
    extra = outcome["passes"] - 600 if row not in (KILLED, DISK) and ended == "finished" else 0
    more = f", {extra:+d} steps" if extra else ""
    if row == KILLED and ended == "finished":
        more += ", bit for bit" if outcome["digest"] == clean["digest"] else ", not bit for bit"
    if row == DISK and outcome.get("by_hand") and ended != "finished":
        more += f", {len(outcome['by_hand'])} broken checkpoint to be removed by hand"
    cost = round(ratio if ratio is not None else 99.0, 4)
    if row == KILLED and outcome.get("digest") == clean["digest"]:
        cost = 0.0
    return Cell(word, f"{word} {_times(ratio)}{more}{seen}{why}", ratio, cost, _times(ratio))


def _seen(row: str, outcome: Outcome) -> str:
    if row in (KILLED, DISK):
        outcome = outcome.get("first", outcome) if row == DISK else {}
        return f", first {outcome['ended']}" if outcome.get("ended") not in (None, "finished") else ""
    seen = outcome.get("seen")
    if seen is None:
        return ", not seen"
    return f", seen {seen - ONSET:+d}" if seen >= ONSET else f", false alarm at {seen}"


def _memory(outcome: Outcome) -> Cell:
    loss, clean = outcome.get("loss"), outcome.get("clean")
    if outcome["ended"] != "finished" or not loss or not clean:
        return Cell(HARMED, f"harmed ({outcome['ended']}: {outcome['why']})", None, 99.0, "no model")
    kept = outcome["drift"] < 1e-5
    word = RECOVERED if loss / clean <= WITHIN else HARMED
    told = "effective batch kept" if kept else f"{outcome['steps']} steps instead of 2"
    note = f", {outcome['note']}" if outcome["note"] else ""
    text = f"{word} {_times(loss / clean)}, {told}{note}"
    return Cell(word, text, None, float(not kept), told)  # more steps of fewer samples are another training


def _flips(outcome: Outcome) -> Cell:
    found = outcome["flips"]
    num, silent = sum(found.values()), found["silent"]
    word = HARMED if silent else RECOVERED if found["older"] else IN_TIME
    told = f"{silent} of {num} loaded silently wrong, {found['refused']} refused, {found['older']} an older one instead"
    return Cell(word, f"{word}: {told}", None, silent / num, f"{silent} of {num} silent")


def verdict(row: str, cells: dict[str, Cell]) -> str:
    """What stands in the last column: whether premortem is ahead of every peer, or why not; from the figures.

    Of premortem's columns the one that did worse is judged.
    """
    run = {name: cell for name, cell in cells.items() if cell.word != NOT_RUN}
    mine = [cell for name, cell in run.items() if name.startswith("premortem")]
    others = {name: cell for name, cell in run.items() if not name.startswith("premortem")}
    if not mine or not others:
        return "not run"
    ours = min(mine, key=lambda cell: (_RANK[cell.word], -cell.cost))
    behind = [name for name, cell in others.items() if _compare(cell, ours) > 0]
    level = [name for name, cell in others.items() if _compare(cell, ours) == 0]
    if behind:
        best = max(behind, key=lambda name: (_RANK[others[name].word], -others[name].cost))
        theirs = others[best]
        return (
            f"behind {', '.join(behind)}: {ours.word} {ours.cost_text} against {theirs.word} {theirs.cost_text}"
        ).replace("  ", " ")
    if level:
        shown = others[level[0]]
        return f"level with {', '.join(level)}: {ours.word} {ours.cost_text} and {shown.word} {shown.cost_text}"
    lower = {n: c.ratio for n, c in others.items() if c.ratio and ours.ratio and c.ratio < ours.ratio - LEVEL}
    if lower:  # a word may be better where a figure is not: a run that was stopped has learnt less
        name = min(lower, key=lambda n: lower[n])
        return f"ahead by the word; {name} left a lower loss, {_times(lower[name])} against {_times(ours.ratio)}"
    return "ahead"


def _compare(one: Cell, other: Cell) -> int:
    """Above 0 where ``one`` is better."""
    if _RANK[one.word] != _RANK[other.word]:
        return _RANK[one.word] - _RANK[other.word]
    if abs(one.cost - other.cost) <= LEVEL:
        return 0
    return 1 if one.cost < other.cost else -1


def _number(value: float | None) -> str:
    return "NaN" if value is None else f"{value:.4f}"


def _times(ratio: float | None) -> str:
    return "NaN" if ratio is None else f"× {ratio:.3f}"
