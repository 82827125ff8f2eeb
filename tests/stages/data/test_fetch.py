"""Fetching over a bad network and from a bad server: the bytes on disk are the witness."""

import email.utils
import hashlib
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from data_world import QUICK

from premortem.core.errors import ConfigError, StageError
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.faults.web import FileServer, Trouble, TroubledServer
from premortem.stages.data.fetch import Remote, fetch
from premortem.stages.data.refusal import Refused
from premortem.stages.data.transport import Patience

BODY = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(tmp_path: Path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(BODY)
    with FileServer(tmp_path / "served") as running:
        yield running


def remote(server: FileServer, port: int = 0, **known) -> Remote:
    return Remote(f"http://127.0.0.1:{port or server.port}/a.bin", "a.bin", **known)


def bring(wanted: Remote, part: Path, patience: Patience = QUICK) -> list[str]:
    told: list[str] = []
    fetch(wanted, part, patience, told.append)
    return told


def test_a_healthy_fetch_is_whole_and_tells_no_retry(server: FileServer, tmp_path: Path) -> None:
    assert bring(remote(server, sha256=SHA, size=len(BODY)), tmp_path / "part") == []
    assert (tmp_path / "part").read_bytes() == BODY


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_recovers_is_tried_until_it_does(server: FileServer, tmp_path: Path, status: int) -> None:
    server.put(1, Trouble(status=status, times=2))
    assert len(bring(remote(server), tmp_path / "part")) == 2
    assert (tmp_path / "part").read_bytes() == BODY


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for(server: FileServer, tmp_path: Path, as_date: bool) -> None:
    asked = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    server.put(1, Trouble(status=429, retry_after=asked, times=1))
    began = time.monotonic()
    bring(remote(server), tmp_path / "part")
    assert time.monotonic() - began >= 0.9  # a lower bound: a wait cannot be shorter than was asked for


def test_a_retry_after_beyond_the_bound_is_not_waited_for(server: FileServer, tmp_path: Path) -> None:
    server.put(1, Trouble(status=429, retry_after="3600"))
    with pytest.raises(Refused, match="429") as caught:
        bring(remote(server), tmp_path / "part")
    assert caught.value.symptom == "unreachable"
    assert server.requests["/a.bin"] == 1


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_not_tried_again(server: FileServer, tmp_path: Path, status: int) -> None:
    server.put(1, Trouble(status=status))
    with pytest.raises(Refused) as caught:
        bring(remote(server), tmp_path / "part")
    assert caught.value.symptom == "not there"
    assert server.requests["/a.bin"] == 1


@pytest.mark.parametrize(
    ("kind", "amount"), [("refuse", 0), ("reset", 0), ("hang", 0), ("black hole", 50_000), ("truncate", 50)]
)
def test_a_dead_network_ends_within_its_bound(server: FileServer, tmp_path: Path, kind, amount: float) -> None:
    patience = replace(QUICK, attempts=2)
    with TcpProxy(server.port) as proxy, BadNetwork(proxy, kind, amount), pytest.raises(Refused) as caught:
        bring(remote(server, proxy.port, sha256=SHA), tmp_path / "part", patience)
    assert caught.value.symptom == "unreachable"


def test_a_trickle_is_seen_as_a_hang(server: FileServer, tmp_path: Path) -> None:
    with TcpProxy(server.port) as proxy, BadNetwork(proxy, "throttle", 2_000), pytest.raises(Refused, match="trickle"):
        fetch(remote(server, proxy.port), tmp_path / "part", Patience(
            attempts=1, read_s=0.5, total_s=20, least_bytes_per_s=20_000), print)  # fmt: skip


def test_the_total_bound_holds_in_the_middle_of_a_body(server: FileServer, tmp_path: Path) -> None:
    patience = Patience(attempts=5, total_s=0.5, read_s=5)
    with TcpProxy(server.port) as proxy, BadNetwork(proxy, "throttle", 20_000), pytest.raises(Refused, match="within"):
        fetch(remote(server, proxy.port), tmp_path / "part", patience, print)


def test_a_broken_download_goes_on_where_it_ended(server: FileServer, tmp_path: Path) -> None:
    with TcpProxy(server.port) as proxy:
        wanted = remote(server, proxy.port, sha256=SHA, size=len(BODY))
        with BadNetwork(proxy, "truncate", 200_000), pytest.raises(Refused):
            bring(wanted, tmp_path / "part", Patience(attempts=1))
        had = (tmp_path / "part").stat().st_size
        assert 100_000 < had < 200_000
        with BadNetwork(proxy, "truncate", len(BODY) - had + 1_000):  # enough for the rest, too little for all
            bring(wanted, tmp_path / "part", Patience(attempts=1))
    assert (tmp_path / "part").read_bytes() == BODY


class KnowsNoIfRange(FileServer):
    """Sends the rest of another version, as some servers do."""

    def conditional(self, asked: str, etag: str) -> bool:
        return True


@pytest.mark.parametrize("kind", [FileServer, KnowsNoIfRange])
def test_a_file_that_changed_meanwhile_is_begun_anew(kind: type[FileServer], tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(BODY)
    with kind(tmp_path) as server:
        _change_in_the_middle(server, tmp_path)


def _change_in_the_middle(server: FileServer, tmp_path: Path) -> None:
    with TcpProxy(server.port) as proxy, BadNetwork(proxy, "truncate", 200_000), pytest.raises(Refused):
        bring(remote(server, proxy.port), tmp_path / "part", Patience(attempts=1))
    other = random.Random(1).randbytes(300_000)
    (server.folder / "a.bin").write_bytes(other)
    bring(remote(server), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == other


@pytest.mark.parametrize("garbled_until", ["first try", "for ever"])
def test_wrong_bytes_are_thrown_away_and_fetched_again(
    server: FileServer, tmp_path: Path, garbled_until: str
) -> None:  # fmt: skip
    times = 1 if garbled_until == "first try" else float("inf")
    with TroubledServer(server, Trouble(garbled=0.001, times=times), "/a.bin"):
        if times == 1:
            assert len(bring(remote(server, sha256=SHA), tmp_path / "part")) == 1
            assert (tmp_path / "part").read_bytes() == BODY
        else:
            with pytest.raises(Refused) as caught:
                bring(remote(server, sha256=SHA), tmp_path / "part")
            assert caught.value.symptom == "damaged"
            assert not (tmp_path / "part").exists()


def test_a_silent_cut_is_seen_by_size_by_git_hash_and_by_sha256(server: FileServer, tmp_path: Path) -> None:
    git = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()
    bring(remote(server, git_blob=git), tmp_path / "part")
    with TroubledServer(server, Trouble(cut=0.5), "/a.bin"):
        for known in ({"size": len(BODY)}, {"git_blob": git}, {"sha256": SHA}):
            with pytest.raises(Refused) as caught:
                bring(remote(server, **known), tmp_path / "part")
            assert caught.value.symptom == "damaged"


def test_a_folder_that_cannot_be_written_is_one_line(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be written"):
        bring(remote(server), tmp_path / "absent" / "part")


def test_a_server_on_this_machine_is_not_asked_through_the_houses_proxy(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert bring(remote(server, sha256=SHA), tmp_path / "part") == []


def test_an_address_that_is_none_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        bring(Remote("http://[::bad", "a"), tmp_path / "part")
    assert caught.value.symptom == "not there"


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"total_s": 0}, {"read_s": -1}])
def test_a_patience_without_bounds_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Patience(**wrong)
