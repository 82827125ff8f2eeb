"""The checks by stage, in the order in which they run. A stage is a module here with ``rows(asked)``."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

from premortem.core.errors import ConfigError
from premortem.run.preflight.row import Asked, Row
from premortem.run.suggest import closest

STAGES = ("registers", "runbooks", "dependencies", "storage", "memory", "devices", "data", "trackers", "flags")


def run_checks(stages: Sequence[str], asked: Asked) -> dict[str, list[Row]]:
    """The rows of each stage; of all stages when none is named.

    Raises:
        ConfigError: for a stage that is unknown, and for what a check cannot make sense of.
    """
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError(
                f"found the unknown stage {stage!r}, expected one of {', '.join(STAGES)}{closest(stage, STAGES)}"
            )
    return {stage: _rows(stage, asked) for stage in (stages or STAGES)}


def _rows(stage: str, asked: Asked) -> list[Row]:
    name = f"{__package__}.{stage}"
    if importlib.util.find_spec(name) is None:
        return [Row(stage, "unknown", "this version has no such check", "a check", "check it by hand")]
    try:
        return list(importlib.import_module(name).rows(asked))
    except ConfigError:
        raise
    except Exception as error:  # fail closed: a check that breaks has shown nothing
        told = f"the check itself failed: {type(error).__name__}: {error}".splitlines()[0]
        return [Row(stage, "unknown", told, "an answer", "check it by hand, and report this")]
