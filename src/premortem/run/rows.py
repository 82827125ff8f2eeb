"""One row of observations, as a caller gives it and as the kernel takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from premortem.core.errors import ConfigError
from premortem.run.suggest import closest

Values = Mapping[str, float | None] | Sequence[float | None]
"""By signal's name (what is left out is missing), or in the order of the workload's signals."""


def row_of(values: Values, names: Sequence[str]) -> list[float | None]:
    """The row in slot order.

    Raises:
        ConfigError: an unknown signal, with the closest match; another number of values; a value that is no number.
    """
    if isinstance(values, Mapping):
        for name in values:
            if name not in names:
                raise ConfigError(
                    f"watch: found the unknown signal {name!r}, expected one of {', '.join(names)}"
                    f"{closest(str(name), names)}"
                )
        return [_number(name, values.get(name)) for name in names]
    if len(values) != len(names):
        raise ConfigError(f"watch: found {len(values)} values, expected one for each of {', '.join(names)}")
    return [_number(name, value) for name, value in zip(names, values, strict=True)]


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"watch: {name}: found {value!r}, expected a number, or None where it is missing") from None
