"""What a restarted run remembers beside its bundle: the guard's memory and the skips (law 11)."""

from __future__ import annotations

from typing import cast

from premortem.core.errors import PremortemError
from premortem.core.evidence import Plain
from premortem.run.driver import Driver
from premortem.stages.train.distributed.peers import ALONE, PeerLost, Peers
from premortem.stages.train.guarded.draws import Draws


class Remembering:
    """Reads back from the ledger what must never be rolled back with a bundle."""

    def __init__(self, driver: Driver, draws: Draws, peers: Peers = ALONE) -> None:
        self._driver = driver
        self._peers = peers
        self._draws = draws

    @property
    def _skips(self) -> str:
        return f"{self._driver.run}#skips"

    def keep_skips(self) -> None:
        """Keep the skip list at once: the next bundle may never be written."""
        self._driver.ledger.save_state(self._skips, cast("Plain", self._draws.state()))

    def recall(self, *, skips: bool = True) -> None:
        """Resume the guard: skips, then settings in force and the open incident, where it stood.

        Of several processes the first one's memory is everybody's. ``skips``: whether places in the data mean what
        they meant. A memory that cannot be read is a fault of the guard, reported; the run goes on.
        """
        driver = self._driver
        try:
            skipped, memory = self._peers.by_first(self._kept)
            if skips and isinstance(skipped, list):
                self._draws.load(cast("list[list[int]]", skipped))
            if isinstance(memory, dict):
                driver.resume(memory)
        except PeerLost:
            raise
        except (PremortemError, KeyError, TypeError, ValueError) as error:
            what = f"the guard's memory could not be read, its incidents are forgotten: {type(error).__name__}: {error}"
            driver.carry_out(driver.engine.guard_fault(what))

    def _kept(self) -> tuple[Plain, Plain]:
        ledger = self._driver.ledger
        return ledger.load_state(self._skips), ledger.load_state(self._driver.run)
