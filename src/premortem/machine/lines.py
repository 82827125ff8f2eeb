"""What a line of a training job's log says has gone wrong: its class, who acts, what it means.

Covered: messages of torch, NCCL, the NVIDIA driver, DeepSpeed, the kernel, Python and schedulers, as they stand in
public logs. Not covered: messages in other words; a class is a hint of the cause and never a verdict. The rules are
data (`rules.py`); the first that fits wins, so the special ones stand above the general.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from premortem.machine.rules import RULES, Rule, Trouble

_LONGEST = 1024
"""Characters of a line that are looked at: what is longer is a dump of data."""
_COMPILED = tuple((rule, re.compile(rule.pattern, re.IGNORECASE)) for rule in RULES)
_ROWS: dict[str, tuple[int, ...]] = {
    token: tuple(row for row, rule in enumerate(RULES) if token in rule.tokens)
    for token in dict.fromkeys(token for rule in RULES for token in rule.tokens)
}
"""Which rows a token makes possible: most lines have none and are done."""
_XID = re.compile(r"\bXid\b\s*(?:\([^)]*\))?\s*:\s*(\d+)", re.IGNORECASE)


def classify(line: str) -> Trouble | None:
    """The fault that a line tells of; None for a line that tells of none.

    >>> classify("RuntimeError: CUDA error: out of memory").kind
    'oom'
    >>> classify("step 400 loss 2.31 lr 3e-4") is None
    True
    """
    low = line[:_LONGEST].lower()
    hits = [token for token in _ROWS if token in low]
    if hits:
        for row in sorted({row for token in hits for row in _ROWS[token]}):
            rule, pattern = _COMPILED[row]
            if pattern.search(line, 0, _LONGEST):
                return Trouble(rule.kind, rule.who, rule.means, line.strip()[:_LONGEST])
    return None


def last_trouble(lines: Iterable[str]) -> Trouble | None:
    """The last fault among lines that has a class: of an ended job, most often its cause."""
    found = None
    for line in lines:
        found = classify(line) or found
    return found


def xid(line: str) -> int | None:
    """The number of an error that the NVIDIA driver reports.

    >>> xid("NVRM: Xid (PCI:0000:10:1c): 63, pid=1850, Row Remapper: New row marked")
    63
    """
    found = _XID.search(line)
    return None if found is None else int(found[1])


def kinds() -> tuple[str, ...]:
    """Every class there is, in the order of the rules."""
    return tuple(dict.fromkeys(rule.kind for rule in RULES))


__all__ = ["Rule", "Trouble", "classify", "kinds", "last_trouble", "xid"]
