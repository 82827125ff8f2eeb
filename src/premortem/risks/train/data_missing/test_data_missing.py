"""Data sets go missing before a run: the ladder brings them whole, or the run does not begin and says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from premortem import Guard
from premortem.core.errors import ConfigError, StageError
from premortem.faults.network import BadNetwork
from premortem.faults.web import Trouble, TroubledServer
from premortem.ledger.ledger import Ledger
from premortem.risks.train.data_missing.drill import FILE, PATIENCE, Elsewhere, Lab
from premortem.run.data import GuardedData
from premortem.stages.data.cache import Cache
from premortem.stages.data.obtain import obtain
from premortem.stages.data.workload import DataWorkload


def sources(lab: Lab) -> list:
    return [need.source for need in lab.workload.needs]


def turned(ledger: Path) -> list[str]:
    with Ledger.open(ledger, run="look") as book:
        records = [row.record for row in book.records()]
    return [str(r.data["rung"]) for r in records if r.event == "intent" and r.data.get("verb") == "turn"]


@pytest.fixture
def lab():
    built = Lab(0, Elsewhere(by_url=True))
    yield built
    built.close()


def test_healthy_sets_are_handed_out_without_an_incident(lab: Lab, tmp_path: Path) -> None:
    ready = Guard("agent-forge").data(*sources(lab), cache=tmp_path, patience=PATIENCE)
    assert set(ready) == {"arithmetic", "reading", "commonsense"}
    assert ready["reading"].paths[0].read_text("utf-8") == lab.files["reading"]
    assert len(ready["reading"].first) == 10
    assert turned(tmp_path / "ledger.db") == []


def test_a_hub_that_recovers_needs_only_retries(lab: Lab, tmp_path: Path) -> None:
    lab.hub.put(1, Trouble(status=503, times=4))
    Guard("agent-forge").data(*sources(lab), cache=tmp_path, patience=PATIENCE)
    assert turned(tmp_path / "ledger.db") == ["retry with exponential backoff"]


def test_a_withdrawn_set_is_not_retried_but_had_elsewhere(lab: Lab, tmp_path: Path) -> None:
    lab.hub.put(1, Trouble(status=404, pattern="*arithmetic*"))
    Guard("agent-forge").data(*sources(lab), cache=tmp_path, patience=PATIENCE)
    assert turned(tmp_path / "ledger.db") == ["go to the next mirror"]


def test_the_cached_copy_is_the_last_resort(lab: Lab, tmp_path: Path) -> None:
    for source in sources(lab):
        obtain(source, source.places[0], Cache(tmp_path), PATIENCE, print)
    lab.mirror.put(1, Trouble(status=500))
    with BadNetwork(lab.proxy, "reset"):
        ready = Guard("agent-forge").data(*sources(lab), cache=tmp_path, patience=PATIENCE)
    assert turned(tmp_path / "ledger.db")[-1] == "use the cached copy"
    assert ready["reading"].paths[0].read_text("utf-8") == lab.files["reading"]


def test_offline_on_purpose_takes_the_cached_copies_and_asks_nobody(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    wanted = [replace(source, mirrors=source.mirrors[:1]) for source in sources(lab)]
    guard = Guard(ledger=tmp_path / "ledger.db")
    guard.data(*wanted, cache=tmp_path, patience=PATIENCE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lab.hub.requests.clear()
    assert len(guard.data(*wanted, cache=tmp_path, patience=PATIENCE)) == 3
    assert turned(tmp_path / "ledger.db") == []
    with pytest.raises(StageError, match="HF_HUB_OFFLINE"):
        guard.data(*wanted, cache=tmp_path / "other", patience=PATIENCE)
    assert lab.hub.requests == {}


def test_what_cannot_be_had_stops_the_run_and_is_named_with_its_reason(lab: Lab, tmp_path: Path) -> None:
    lab.mirror.put(1, Trouble(status=404, pattern="/arithmetic*"))
    fault = TroubledServer(lab.hub, Trouble(garbled=0.01, pattern="*lab/arithmetic/resolve*"), FILE)
    with fault, pytest.raises(StageError) as caught:
        Guard("agent-forge").data(*sources(lab), cache=tmp_path, patience=PATIENCE)
    told = str(caught.value).splitlines()
    assert told[0].startswith("1 of 3 data sets cannot be had")
    assert "arithmetic" in told[1]
    for reason in ("sha256", "HTTP 404", "no whole copy in the cache"):
        assert reason in told[1]
    assert turned(tmp_path / "ledger.db")[-1] == "stop before any training"


def test_a_file_that_is_damaged_while_it_is_watched_is_fetched_again(lab: Lab, tmp_path: Path) -> None:
    workload = DataWorkload(sources(lab), Cache(tmp_path), patience=PATIENCE)
    workload.assess()
    blob = workload.ready["reading"].paths[0]
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:100])
    guarded = GuardedData(Guard("agent-forge", ledger=tmp_path / "ledger.db"), workload)
    assert guarded.make_ready()["reading"].paths[0].read_text("utf-8") == lab.files["reading"]
    assert turned(tmp_path / "ledger.db") == ["retry with exponential backoff"]


def test_a_register_that_does_not_watch_data_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no active entry watches 'data'"):
        Guard("hrm").data(*sources(lab), cache=tmp_path)
