"""The preflight of data sets: a row for each, from a real hub on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from premortem.core.errors import ConfigError
from premortem.faults.hub import LocalHub
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.run.data import cache_folder, sources_of
from premortem.run.preflight.data import check_data, rows
from premortem.run.preflight.row import Asked
from premortem.stages.data.catalogue import CATALOGUE
from premortem.stages.data.source import Source
from premortem.stages.data.transport import Patience

QUICK = Patience(attempts=2, first_wait_s=0.01, longest_wait_s=0.05, total_s=20, read_s=0.5)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    for name in ("one", "two"):
        file = tmp_path / "hub" / "owner" / name / "train.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("".join(json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(20)))
    with LocalHub(tmp_path / "hub") as hub, TcpProxy(hub.port) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("PREMORTEM_DATA", str(tmp_path / "data"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield proxy


def test_sets_that_are_there_are_ok_and_say_from_where(proxy: TcpProxy) -> None:
    found = rows(Asked(datasets=("owner/one", "owner/two")))
    assert [row.state for row in found] == ["ok", "ok"]
    assert "10 rows from hub owner/one" in found[0].found


def test_a_set_that_exists_nowhere_is_one_row_with_what_came_of_each_place(proxy: TcpProxy) -> None:
    there, missing = check_data(["owner/one", "owner/nowhere"], patience=QUICK)
    assert there.state == "ok"
    assert missing.state == "not ok"
    for reason in ("HTTP 404", "DatasetNotFoundError", "no whole copy in the cache"):
        assert reason in missing.found
    assert "\n" not in missing.found
    assert "folder" in missing.do


def test_with_the_hub_away_the_cached_copy_is_said_to_be_one(proxy: TcpProxy, tmp_path: Path) -> None:
    lines = tmp_path / "sets.yaml"
    lines.write_text("schema: premortem/datasets/v1\nsets:\n- {name: mine, mirrors: [{hub: owner/one}]}\n")
    assert check_data([lines], patience=QUICK)[0].state == "ok"
    with BadNetwork(proxy, "refuse"):
        row = check_data([lines], patience=QUICK)[0]
    assert row.state == "ok"
    assert "the cached copy of 20" in row.found


def test_an_unknown_name_is_the_users_mistake(proxy: TcpProxy) -> None:
    with pytest.raises(ConfigError, match="did you mean 'gsm8k'"):
        rows(Asked(datasets=("gsm8",)))
    with pytest.raises(ConfigError, match=r"cannot be read"):
        rows(Asked(datasets=("absent.yaml",)))


def test_nothing_named_is_not_asked_and_the_agent_forge_names_fourteen() -> None:
    assert [row.state for row in rows(Asked())] == ["not asked"]
    assert len(CATALOGUE) == 14
    assert len(sources_of([source.name for source in CATALOGUE])) == 14


def test_a_cache_that_cannot_be_used_is_said_and_nothing_is_claimed(
    proxy: TcpProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREMORTEM_DATA", str(tmp_path / "file" / "data"))
    (row,) = rows(Asked(datasets=("owner/one",)))
    assert row.state == "unknown"
    assert "cannot be used" in row.found


def test_the_same_name_twice_must_be_the_same_set() -> None:
    assert len(sources_of(["gsm8k", "gsm8k"])) == 1
    with pytest.raises(ConfigError, match="named twice"):
        sources_of(["gsm8k", Source(name="gsm8k")])
    with pytest.raises(ConfigError, match="no set"):
        sources_of([])


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a/..", "/etc", "a b/c", "owner/"])
def test_what_is_no_name_at_the_hub_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        sources_of([name])


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREMORTEM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "premortem" / "data"
    monkeypatch.setenv("PREMORTEM_DATA", str(tmp_path / "d"))
    assert cache_folder(None) == tmp_path / "d"
    assert cache_folder("x") == Path("x")
