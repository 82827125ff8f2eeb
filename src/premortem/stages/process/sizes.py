"""Sizes and times as people write them on a command line."""

from __future__ import annotations

import re

from premortem.core.errors import ConfigError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*", re.IGNORECASE)
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_size(text: str, where: str) -> int:
    """Bytes; K, M, G and T are powers of 1024.

    Raises:
        ConfigError: for anything else, and for nothing.

    >>> parse_size("1.5G", "--memory-limit") // 2**20
    1536
    """
    match = _SIZE.fullmatch(text)
    size = 0 if match is None else int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])
    if size <= 0:
        raise ConfigError(f"{where}: found {text!r}, expected a size such as 600M, 1.5G or 4096; K, M, G and T count "
                          "by 1024")  # fmt: skip
    return size


def parse_seconds(text: str, where: str) -> float:
    """Seconds; without a unit it is seconds.

    Raises:
        ConfigError: for anything else, and for nothing.

    >>> parse_seconds("10m", "--heartbeat")
    600.0
    """
    match = _TIME.fullmatch(text)
    found = 0.0 if match is None else float(match[1]) * _SECONDS[(match[2] or "").lower()]
    if found <= 0:
        raise ConfigError(f"{where}: found {text!r}, expected a time such as 30s, 10m or 2h")
    return found


def in_words(size: float) -> str:
    """A size for people.

    >>> in_words(600 * 2**20)
    '600 MiB'
    """
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1024**power:
            return f"{size / 1024**power:.3g} {unit}"
    return f"{size:.0f} bytes"
