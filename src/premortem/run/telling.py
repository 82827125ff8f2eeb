"""Says on the standard logger what a person at the console must know: incidents, verdicts, the end of a run.

Logger ``premortem``; Python prints its warnings to the standard error where logging is not set up.
"""

from __future__ import annotations

import logging

from premortem.core.evidence import Record

LOGGER = logging.getLogger("premortem")


def tell(record: Record) -> None:
    """Log one record, if it is one of the few that matter at the console."""
    data, where = record.data, f"{record.entry} #{record.incident} at tick {record.tick}"
    if record.event == "opened":
        LOGGER.warning("%s: incident: %s", where, data.get("because"))
    elif record.event == "recovered":
        rung = f"after rung {data['after_rung']!r}" if data.get("after_rung") else "by itself"
        LOGGER.warning("%s: recovered %s", where, rung)
    elif record.event == "handed_over":
        LOGGER.error("%s: handed over to a person: %s", where, data.get("why"))
    elif record.event == "run" and data.get("what") == "resumed" and data.get("where"):
        LOGGER.warning("the run goes on from %s", data.get("where"))
    elif record.event == "run" and data.get("what") == "ended":
        if data.get("why"):
            LOGGER.error("the run ended early, after %s steps: %s", data.get("steps"), data.get("why"))
        for incident in data.get("open") or []:  # type: ignore[union-attr]
            LOGGER.warning("%s when the run ended; premortem incidents show tells more", incident)
