"""The four levels as plain module names: an enum attribute costs 30 ns on the hot path, a global 2."""

from __future__ import annotations

from typing import Final

from premortem.core.detector import Level

GREEN: Final = Level.GREEN
YELLOW: Final = Level.YELLOW
RED: Final = Level.RED
CRITICAL: Final = Level.CRITICAL
