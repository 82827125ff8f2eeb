"""What a training run keeps: when a bundle is saved, which one is good, how one comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from premortem.core.engine import Engine
from premortem.core.errors import StageError
from premortem.run.distributed.bundles import SharedBundles
from premortem.run.moments import Moments
from premortem.run.restoring import Restoring
from premortem.stages.train.checkpoint import Bundle, Shelf
from premortem.stages.train.checkpoint.search import turned_from
from premortem.stages.train.guarded.parts import put_back_random_streams, random_streams
from premortem.stages.train.guarded.requests import Request
from premortem.stages.train.guarded.stepper import Stepped
from premortem.stages.train.guarded.trying import NO_ROOM
from premortem.stages.train.guarded.workload import GIB
from premortem.stages.train.position import PositionState

if TYPE_CHECKING:
    from premortem.run.guard import Options

_SHARE, _SHARE_BEHIND = 0.04, 0.1
"""Of training time, at most, for saving; and where none was saved in the later half of the steps: early in a run."""
_FEWEST = 25


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where a resumed run stands. ``is_moved``: the bundle is of another number of processes, so its data position
    and random streams are nobody's here, and the data go on with ``epoch``."""

    path: str
    position: Any
    ticks: int
    is_moved: bool = False
    epoch: int = 0


class Keeping:
    """The bundles of one run. Without a folder nothing is kept."""

    def __init__(
        self, folder: Path | None, options: Options, bundles: SharedBundles,
        position: Callable[[], PositionState | None],
    ) -> None:  # fmt: skip
        self._folder = folder
        self._options = options
        self._bundles = bundles
        self.peers = self._peers = bundles.peers
        self._position = position
        self._shelf: Shelf | None = None
        self._engine: Engine | None = None
        self.step = 0
        self.rejected: tuple[str, ...] = ()
        self.need_gib = 0.0
        self._step_of: dict[int, int] = {}
        self._since_save = self._steps = 0
        self._save_s = 0.0
        self._trained_s = 0.0
        self._mark_s = 0.0
        self.restoring: Restoring | None = None
        self.moments = Moments(self._moment)
        self.saving_s = 0.0
        """Seconds spent on bundles so far: saving, pruning, marking."""

    def open(self, engine: Engine) -> None:
        """Take the folder; raises ``ConfigError`` when another run has it."""
        self._engine = engine
        if self._folder is not None:
            self._shelf = self._bundles.open(self._folder, self._options.keep)

    def close(self) -> None:
        """Let go of the folder."""
        if self._shelf is not None:
            self._shelf.close()

    @property
    def shelf(self) -> Shelf:
        """The folder's shelf; raises ``StageError`` where there is none."""
        if self._shelf is None:
            raise StageError("no folder for checkpoints: nothing can be saved or restored; give checkpoints='ckpt/'")
        return self._shelf

    def stepped(self, stepped: Stepped, seconds: float | None) -> None:
        """Count a step, which took so long."""
        if stepped.why == NO_ROOM:
            self.moments.give_up()  # no room for a step: none for copies
        elif self.restoring is not None:
            self.restoring.hear(stepped.loss)
        self.moments.stepped(seconds)
        self.step += stepped.applied
        self._since_save += 1
        self._steps += 1
        self._trained_s += seconds or 0.0

    @property
    def tick(self) -> int:
        """The kernel's present tick."""
        assert self._engine is not None
        return self._engine.desk.tick

    @property
    def is_behind(self) -> bool:
        """Whether steps were made since the last bundle."""
        return self._shelf is not None and self._since_save > 0

    @property
    def is_due(self) -> bool:
        """Whether it is time to save: every ``save_every`` steps, or so often that saving stays cheap.

        At its own pace it takes 4 % of the time; but up to 10 % while a kill would cost more than half of the steps.
        """
        if self._shelf is None:
            return False
        every = self._options.save_every
        if every > 0:
            return self._since_save >= every
        if self._since_save < _FEWEST:
            return False
        share = _SHARE_BEHIND if 2 * self._since_save > self._steps else _SHARE
        return self._save_s == 0.0 or self.saving_s + self._save_s <= share * (self._trained_s + self.saving_s)

    def save(self, tick: int) -> None:
        """Write a bundle of this moment; raises ``StageError`` when the disk does not take it."""
        self._since_save = 0
        began = time.monotonic()
        bundle = self.write(tick)
        self.need_gib = sum(f.stat().st_size for f in bundle.path.iterdir()) / GIB
        self._step_of[tick] = self.step
        if not self._options.prune_by_hand:
            self._peers.by_first(self.shelf.prune)
        self._save_s = time.monotonic() - began + self._mark_s
        self.saving_s += time.monotonic() - began

    def write(self, tick: int) -> Bundle:
        """A bundle of this moment and nothing else; raises ``StageError`` when the disk does not take it."""
        assert self._engine is not None
        position = self._position()
        common = {
            "detectors": self._engine.observer.state(),
            "counters": {"step": self.step, "ticks": tick, "epoch": 0 if position is None else position["epoch"]},
        }
        own: dict[str, object] = {"random": random_streams(), "position": None if position is None else dict(position)}
        return self._bundles.save(self.shelf, self.step, common, own)

    def _moment(self) -> dict[str, Any]:
        assert self._engine is not None
        return {**self._bundles.parts.gather(), "detectors": self._engine.observer.state()}

    def remember(self, tick: int) -> bool:
        """Take this moment into memory, if it is time for one; whether it was taken."""
        if self._shelf is None or not self._peers.is_alone or not self.moments.is_due:
            return False
        return self.moments.take(tick, self.step)

    def mark_good(self, tick: int) -> bool:
        """What was saved or remembered at this tick earned its mark, a bundle with the baseline of the moment.

        Returns:
            Whether it is a bundle, which people should know of.
        """
        assert self._engine is not None
        if self.moments.mark_good(tick):
            return False
        began, bands, step = time.monotonic(), self._engine.baseline.bands, self._step_of.pop(tick)
        if self._peers.is_first:
            self.shelf.mark_good(step, {name: band.location for name, band in bands.items()})
        if self.restoring is not None:
            self.restoring.let_go()
        self._mark_s = time.monotonic() - began
        self.saving_s += self._mark_s
        return True

    def restore_control(
        self, model: nn.Module, on_restored: Callable[[], None], tell: Callable[[str], None]
    ) -> Request:
        """The control that brings the last good bundle back, and takes that back where it did not help."""
        self.restoring = Restoring(self, model, on_restored, tell)
        return self.restoring.control

    def prune_control(self) -> Request:
        """The control that deletes what nothing points to, down to the newest ``keep``: ``"keep 3"``."""
        left: list[int] = []

        def prune(request: str) -> None:
            left.clear()
            left.append(self._peers.by_first(lambda: keep(request)))

        def keep(request: str) -> int:
            shelf, usual = self.shelf, self.shelf.keep
            shelf.keep = int(request.split()[1])
            try:
                deleted = shelf.prune()
            finally:
                shelf.keep = usual
            if not deleted:
                raise StageError("nothing can be deleted: every bundle is good, protected or among the newest")
            return len(shelf.bundles())

        return Request(prune, lambda: bool(left) and len(self.shelf.bundles()) <= left[0])

    def intermediates_control(self) -> Request:
        """The control that deletes what the run's owner named as intermediate."""

        def delete(request: str) -> None:
            self._peers.by_first(unlink)

        def unlink() -> None:
            if not any(True for _ in self._intermediates()):
                raise StageError(f"nothing matches {', '.join(self._options.intermediates)}: nothing to delete")
            for path in self._intermediates():
                path.unlink()

        return Request(delete, lambda: not any(True for _ in self._intermediates()))

    def _intermediates(self) -> Iterator[Path]:
        assert self._folder is not None
        for pattern in self._options.intermediates:
            yield from (p for p in self._folder.glob(pattern) if p.is_file() and not p.name.startswith("ledger"))

    def resume(self) -> Loaded | None:
        """Go on from the newest bundle that verifies; ``None`` where there is none at all.

        Raises:
            StageError: when bundles are there and none of them serves: a run must not begin anew over them.
            ConfigError: when the bundle is of another model or optimiser.
        """
        path = self._peers.by_first(self._find)
        if path is None:
            return None
        parts = self.load(path)
        counters = parts["counters"]
        if "random" not in parts:
            return Loaded(str(path), None, counters["ticks"], is_moved=True, epoch=counters.get("epoch", 0))
        put_back_random_streams(parts["random"])
        return Loaded(str(path), parts["position"], counters["ticks"])

    def _find(self) -> Path | None:
        search = self.shelf.find_loadable()
        # an abandoned one was left on purpose; every other that is passed over is news
        self.rejected = tuple(r.why for r in search.rejected if turned_from(r.bundle) is None)
        if search.bundle is None and search.rejected:
            raise StageError(
                f"{self._folder}: found {len(search.rejected)} bundles and none that serves "
                f"({search.rejected[0].why}), expected one to go on from; "
                "move them away to begin anew, or give another folder"
            )
        return None if search.bundle is None else search.bundle.path

    def where(self) -> str:
        """Where the weights of a run that is ended are, as the rest of a sentence; empty without a folder."""
        if self._shelf is None:
            return ""
        newest = self._peers.by_first(self._shelf.latest)
        on_disk = "no bundle holds them" if newest is None else f"the newest bundle is {newest.name}"
        return f"; the weights in memory are of step {self.step}, {on_disk}"

    def newest(self) -> Path:
        """The newest bundle that verifies.

        Raises:
            StageError: where there is none.
        """
        found = self.shelf.find_loadable()
        if found.bundle is None:
            raise StageError(f"{self._folder}: found no bundle that verifies, expected one to go on from")
        return found.bundle.path

    def good(self) -> Bundle:
        """The newest bundle with a good mark that verifies; raises ``StageError`` where there is none."""
        good = self._peers.by_first(self.shelf.last_good)
        if good is None:
            raise StageError("no bundle has earned its good mark yet: there is nothing healthy to restore")
        return good

    def load(self, path: Path) -> dict[str, Any]:
        """Verify everything first, then put everything back."""
        parts = self._bundles.load(path)
        self._stand_at(parts["counters"]["step"], parts)
        return parts

    def put_back(self, step: int, parts: dict[str, Any]) -> dict[str, Any]:
        """Go back to a moment that was remembered."""
        self._bundles.parts.put_back(parts)
        self._stand_at(step, parts)
        return parts

    def _stand_at(self, step: int, parts: dict[str, Any]) -> None:
        assert self._engine is not None
        self.step = step
        self._engine.observer.load(parts["detectors"])
        self.moments.leave(beyond=step)
