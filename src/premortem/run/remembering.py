"""What a restarted run remembers beside its bundle: the guard's memory, standing settings, skips (law 11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from premortem.core.action import Control
from premortem.core.errors import PremortemError
from premortem.core.evidence import Plain, Record
from premortem.run.driver import Driver
from premortem.stages.train.guarded.draws import Draws
from premortem.stages.train.guarded.settings import NumberSetting


class Remembering:
    """Reads back from the ledger what must never be rolled back with a bundle."""

    def __init__(self, driver: Driver, draws: Draws) -> None:
        self._driver = driver
        self._draws = draws

    @property
    def _skips(self) -> str:
        return f"{self._driver.run}#skips"

    def keep_skips(self) -> None:
        """Keep the skip list at once: the next bundle may never be written."""
        self._driver.ledger.save_state(self._skips, cast("Plain", self._draws.state()))

    def recall(self, tick: int) -> None:
        """Resume the guard: skips, settings in force, what was under way, then the open incident."""
        ledger, engine = self._driver.ledger, self._driver.engine
        skips = ledger.load_state(self._skips)
        if isinstance(skips, list):
            self._draws.load(cast("list[list[int]]", skips))
        memory = ledger.load_state(self._driver.run)
        if not isinstance(memory, dict):
            return
        try:
            commands = engine.load(dict(memory))
        except (KeyError, TypeError, ValueError) as error:
            what = f"the guard's memory could not be read, its incidents are forgotten: {type(error).__name__}: {error}"
            self._driver.carry_out(engine.guard_fault(what))
            return
        # before the open incident climbs on: its next rung comes on top of what stood
        put_settings_back(self._driver.workload.controls, cast("Mapping[str, dict[str, object]]", memory["settings"]))
        self._settle_lost(tick)
        self._driver.carry_out(commands)

    def _settle_lost(self, tick: int) -> None:
        """An intent whose outcome died with the process is settled by reading back, never repeated blindly."""
        driver = self._driver
        try:
            for row in driver.ledger.unsettled(driver.run):
                data = row.record.data
                control = driver.workload.controls.get(str(data.get("control")))
                done = Record(
                    "outcome", row.record.entry, row.record.incident, tick, driver.seconds,
                    {"verb": data.get("verb"), "rung": data.get("rung"), "ok": None,
                     "value": None if control is None else control.read(),
                     "detail": "the process ended before its outcome was known; read back at the restart"},
                )  # fmt: skip
                driver.ledger.settle(row.receipt, done)
        except PremortemError as error:
            driver.carry_out(driver.engine.guard_fault(f"what was under way could not be settled: {error}"))


def put_settings_back(controls: Mapping[str, Control], settings: Mapping[str, dict[str, object]]) -> None:
    """Put the standing overrides in force again; requests were carried out once and hold nothing."""
    for name, state in settings.items():
        control = controls.get(name)
        if isinstance(control, NumberSetting):
            control.load(state)
