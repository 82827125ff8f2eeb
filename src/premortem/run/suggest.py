"""The closest match, for error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(found: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or nothing.

    >>> closest("divergance", ["divergence", "plateau"])
    "; did you mean 'divergence'?"
    """
    match = get_close_matches(found, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
