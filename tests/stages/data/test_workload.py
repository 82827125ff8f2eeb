"""The workload of data sets: what its signals say, what its controls do, and that nothing holds it up."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from data_world import QUICK

from premortem.core.action import Override, Owner
from premortem.core.errors import ConfigError, StageError
from premortem.faults.hub import LocalHub
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.faults.web import Trouble
from premortem.stages.data.cache import Cache
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.workload import DataWorkload

ME = Owner(1, "rung")


def named(workload: DataWorkload) -> dict[str, float | None]:
    return dict(zip([s.name for s in workload.signals], workload.assess(), strict=True))


def three(hub: LocalHub) -> list[Source]:
    return [
        Source(name="lines", mirrors=(Mirror("hub", "owner/lines"),)),
        Source(name="small", columns=("absent",), mirrors=(Mirror("hub", "owner/small"),)),
        Source(name="gone", mirrors=(Mirror("hub", "owner/gone"), Mirror("hub", "owner/lines"))),
    ]


def test_each_way_to_be_missing_has_its_signal(hub: LocalHub, tmp_path: Path) -> None:
    workload = DataWorkload(three(hub), Cache(tmp_path), patience=QUICK)
    assert named(workload) == {
        "sets_ready": 1, "sets_unreachable": 0, "sets_not_there": 1, "sets_damaged": 1, "retries": 0,
    }  # fmt: skip


def test_the_first_try_is_a_single_one_and_a_look_asks_nobody(hub: LocalHub, tmp_path: Path) -> None:
    hub.put(1, Trouble(status=503))
    workload = DataWorkload(three(hub), Cache(tmp_path), patience=QUICK)
    assert named(workload)["sets_unreachable"] == 3
    asked = sum(hub.requests.values())
    assert asked == 3
    workload.assess()
    assert sum(hub.requests.values()) == asked


def test_turning_the_control_goes_that_way_once_and_reads_back(hub: LocalHub, tmp_path: Path) -> None:
    workload = DataWorkload(three(hub)[2:], Cache(tmp_path), patience=QUICK)
    control = workload.controls["fetch"]
    assert control.read() == "one try"
    assert named(workload)["sets_not_there"] == 1
    control.turn(ME, Override("choose", "next mirror #1.1"))
    assert control.read() == "next mirror #1.1"
    assert named(workload)["sets_ready"] == 1
    with pytest.raises(ConfigError, match="found the way"):
        control.turn(ME, Override("choose", "pray"))


def test_retries_are_counted_and_told(hub: LocalHub, tmp_path: Path) -> None:
    hub.put(1, Trouble(status=500, times=3))
    told: list[str] = []
    workload = DataWorkload(three(hub)[:1], Cache(tmp_path), patience=QUICK, told=told.append)
    workload.assess()
    workload.go("retry")
    assert named(workload)["retries"] == 2
    assert len(told) == 2
    assert "try 2 of 3" in told[0]


def test_a_stopped_run_fetches_nothing_any_more(hub: LocalHub, tmp_path: Path) -> None:
    workload = DataWorkload(three(hub), Cache(tmp_path), patience=QUICK)
    workload.controls["run"].turn(ME, Override("choose", "stopped: data sets are missing"))
    assert workload.controls["run"].read() == "stopped: data sets are missing"
    workload.assess()
    assert hub.requests == {}


def test_a_cache_that_cannot_be_written_is_an_error_and_no_missing_set(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be used"):
        DataWorkload(three(hub), Cache(tmp_path / "file"), patience=QUICK).assess()


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="each name once"):
        DataWorkload([Source(name="a"), Source(name="a")], Cache(tmp_path))


WAITS = """
import sys
from premortem.stages.data.cache import Cache
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.workload import DataWorkload
sets = [Source(name=k, mirrors=(Mirror(k, "owner/lines"),)) for k in ("hub", "datasets")]
print("begins", flush=True)
DataWorkload(sets, Cache(sys.argv[1])).assess()
"""


def test_ctrl_c_waits_for_no_hub(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TcpProxy(hub.port) as proxy, BadNetwork(proxy, "hang"):
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
        child = subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path)], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        with child.stdout:
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.5)
            child.send_signal(signal.SIGINT)
            assert child.wait(10) != 0  # a bound, where the hub would have held it for minutes
