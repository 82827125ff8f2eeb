"""A real hub on loopback goes bad before a run that needs three of its sets.

The unguarded twin fetches as most scripts do: one `urlopen` a set, and whatever can be read is trained on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import random
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.core.errors import BugError
from premortem.faults.condition import Kind
from premortem.faults.fault import Fault
from premortem.faults.hub import LocalHub
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.faults.web import FileServer, Trouble, TroubledServer
from premortem.risks.case import Ticking, WatchedCase
from premortem.stages.data.cache import Cache
from premortem.stages.data.obtain import ReadySet, obtain, take_over
from premortem.stages.data.refusal import Refused
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.transport import Patience
from premortem.stages.data.workload import DataWorkload

NAMES = ("arithmetic", "reading", "commonsense")
ROWS = 200
PATIENCE = Patience(attempts=3, first_wait_s=0.05, longest_wait_s=0.2, total_s=10, read_s=0.4)
PLAIN_TIMEOUT_S = 1.0
FILE = "/datasets/lab/arithmetic/resolve/main/train.csv"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where the sets lie beside the hub's first name."""

    by_url: bool = False
    renamed: bool = False
    cached: bool = False


class Lab:
    """Hub, proxy before it, a mirror, a cache, and a run that needs every row of three sets."""

    def __init__(self, seed: int, elsewhere: Elsewhere) -> None:
        self._open = ExitStack()
        self.folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="premortem-data-")))
        self.files = {name: _table(name, seed) for name in NAMES}
        for name, text in self.files.items():
            for owner in ("lab", "new-lab") if elsewhere.renamed else ("lab",):
                _write(self.folder / "hub" / owner / name / "train.csv", text)
            _write(self.folder / "mirror" / f"{name}.csv", text)
        self.hub = self._open.enter_context(LocalHub(self.folder / "hub"))
        self.mirror = self._open.enter_context(FileServer(self.folder / "mirror"))
        self.proxy = self._open.enter_context(TcpProxy(self.hub.port))
        self.cache = Cache(self.folder / "cache")
        sources = [self._source(name, elsewhere) for name in NAMES]
        if elsewhere.cached:  # by the run of the day before
            for source in sources:
                obtain(source, source.places[0], self.cache, PATIENCE, lambda line: None)
        self.workload = DataWorkload(sources, self.cache, patience=PATIENCE, first=self._plain)

    @property
    def url(self) -> str:
        """The hub as its clients see it: through the proxy."""
        return f"http://127.0.0.1:{self.proxy.port}"

    def close(self) -> None:
        """End the servers and delete the folder."""
        self._open.close()

    def _source(self, name: str, elsewhere: Elsewhere) -> Source:
        sha256 = hashlib.sha256(self.files[name].encode()).hexdigest()
        mirrors = [Mirror("hub", f"lab/{name}", endpoint=self.url, sha256=sha256)]
        if elsewhere.renamed:
            mirrors.append(Mirror("hub", f"new-lab/{name}", endpoint=self.url))
        if elsewhere.by_url:
            mirrors.append(Mirror("url", f"{self.mirror.url}/{name}.csv", sha256=sha256))
        return Source(name=name, columns=("question", "answer"), mirrors=tuple(mirrors))

    def _plain(self, source: Source, cache: Cache) -> ReadySet:
        """What anyone would write; the guard only looks at what it brought."""
        file = self._plain_file(source.name)
        url = f"{self.url}/datasets/{source.places[0].place}/resolve/main/train.csv"
        try:
            with urllib.request.urlopen(url, timeout=PLAIN_TIMEOUT_S) as reply:
                body = reply.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise Refused("not there" if error.code == 404 else "unreachable", f"{url}: {error}") from None
        except OSError as error:
            raise Refused("unreachable", f"{url}: {error}") from None
        _write(file, body.decode("utf-8", errors="replace"))
        return take_over(source, file, cache)

    def _plain_file(self, name: str) -> Path:
        return self.folder / "plain" / f"{name}.csv"

    def advance(self, tick: int) -> list[float | None]:
        """One assessment."""
        return self.workload.assess()

    def outcome(self) -> float:
        """The share of needed rows that the run would not have had as they are; NaN where it died for want of a set."""
        wrong = 0
        for name, text in self.files.items():
            ready = self.workload.ready.get(name)
            file = self._plain_file(name) if ready is None else ready.paths[0]
            if not file.exists():
                return math.nan
            needed, had = _read(text), _read(file.read_text("utf-8", errors="replace"))
            wrong += len(needed) - sum(row in had for row in needed)
        return wrong / (ROWS * len(NAMES))


def _table(name: str, seed: int) -> str:
    rng = random.Random(f"{name}:{seed}")
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(["question", "answer"])
    rows.writerows([f"{name}: what is {(a := rng.randrange(10**6))} + {(b := rng.randrange(10**6))}?", a + b]
                   for _ in range(ROWS))  # fmt: skip
    return stream.getvalue()


def _read(text: str) -> set[tuple[str, ...]]:
    """As a tolerant reader reads: what does not fit is left out."""
    return {(row.get("question") or "", row.get("answer") or "") for row in csv.DictReader(io.StringIO(text))}


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())


def build(seed: int, elsewhere: Elsewhere) -> Ticking:
    """The run, its hub and what lies elsewhere."""
    lab = Lab(seed, elsewhere)
    return Ticking(
        workload=lab.workload, advance=lab.advance, outcome=lab.outcome, subject=lab, close=lab.close,
    )  # fmt: skip


def _lab(ticking: Ticking) -> Lab:
    if not isinstance(ticking.subject, Lab):
        raise BugError(f"the drill of data sets was given {ticking.subject!r}, expected its Lab")
    return ticking.subject


def network(ticking: Ticking, kind: Kind) -> Fault:
    """Between the run and the hub."""
    return BadNetwork(_lab(ticking).proxy, kind)


def server(ticking: Ticking, trouble: Trouble) -> Fault:
    """Of the hub itself."""
    return TroubledServer(_lab(ticking).hub, trouble, FILE)


def case(name: str, fault: Callable[[Ticking], Fault], elsewhere: Elsewhere) -> WatchedCase:
    """The fault is there before the first assessment, and stays until recovery is judged."""
    return WatchedCase(
        name=name, build=partial(build, elsewhere=elsewhere), fault=fault, at=1, lasts=math.inf, num_ticks=16,
        bounds=Bounds(detect_within=1, absolute=0.001),
    )  # fmt: skip


LIMITED = Trouble(status=429, retry_after="1", times=2 * len(NAMES))
"""The plain script is turned away, and the guard's first question too; then the hub has had its pause."""
CUT = Trouble(cut=0.5, pattern="/datasets/*")
RENAMED = Trouble(status=404, pattern="*/lab/*")
GARBLED = Trouble(garbled=0.02, pattern="/datasets/*")
CASES = (
    case("the hub limits the rate", partial(server, trouble=LIMITED), Elsewhere()),
    case("the hub refuses", partial(network, kind="refuse"), Elsewhere(cached=True)),
    case("the hub hangs", partial(network, kind="hang"), Elsewhere(by_url=True)),
    case("the hub cuts files", partial(server, trouble=CUT), Elsewhere(by_url=True)),
    case("sets were renamed", partial(server, trouble=RENAMED), Elsewhere(renamed=True)),
    case("the hub garbles rows", partial(server, trouble=GARBLED), Elsewhere(by_url=True)),
)  # fmt: skip
