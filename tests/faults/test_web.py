"""A server that is troubled: what a plain client gets is the witness."""

import http.client
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from premortem.core.errors import ConfigError
from premortem.faults.web import FileServer, Trouble, TroubledServer

ROWS = b'{"question": "1 + 1", "answer": "2"}\n' * 100


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(ROWS)
    with FileServer(tmp_path / "set") as running:
        yield running


def get(server: FileServer, path: str = "/train.jsonl", **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers), timeout=20) as reply:
        return reply.read()


def test_it_serves_files_ranges_and_nothing_above_its_folder(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    assert get(server) == ROWS
    assert get(server, Range="bytes=10-19") == ROWS[10:20]
    assert get(server, Range="bytes=3000-") == ROWS[3000:]
    for path in ("/absent", "/../secret", "/%2e%2e/secret", "/"):
        with pytest.raises(HTTPError, match="404") as caught:
            get(server, path)
        caught.value.close()
    assert server.requests["/train.jsonl"] == 3


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_a_status_with_retry_after_for_so_many_times(server: FileServer, status: int) -> None:
    fault = TroubledServer(server, Trouble(status=status, retry_after="7", times=2), "/train.jsonl")
    with fault:
        assert fault.observed().holds
        for _ in range(2):
            with pytest.raises(HTTPError, match=str(status)) as caught:
                get(server)
            assert caught.value.headers["Retry-After"] == "7"
            caught.value.close()
        assert get(server) == ROWS, "its times are spent"
    assert fault.gone().holds


def test_a_cut_body_under_a_right_length_is_seen_by_the_client_and_a_silent_one_is_not(server: FileServer) -> None:
    with TroubledServer(server, Trouble(cut=0.5, declares_all=True), "/train.jsonl") as fault:
        assert fault.observed().holds
        with pytest.raises(http.client.IncompleteRead):
            get(server)
    with TroubledServer(server, Trouble(cut=0.5), "/train.jsonl") as fault:
        assert fault.observed().holds
        assert get(server) == ROWS[: len(ROWS) // 2]
    assert fault.gone().holds


def test_garbled_rows_have_the_right_length_and_are_the_same_at_every_replay(server: FileServer) -> None:
    with TroubledServer(server, Trouble(garbled=0.01, seed=3), "/train.jsonl") as fault:
        assert fault.observed().holds
        got = get(server)
        assert len(got) == len(ROWS)
        assert sum(a != b for a, b in zip(got, ROWS, strict=True)) == len(ROWS) // 100
        assert get(server) == got
    assert fault.gone().holds
    assert get(server) == ROWS


def test_only_matching_paths_are_hit(server: FileServer) -> None:
    (server.folder / "test.jsonl").write_bytes(b"{}")
    with TroubledServer(server, Trouble(status=404, pattern="/train*"), "/train.jsonl"):
        assert get(server, "/test.jsonl") == b"{}"
    with pytest.raises(ConfigError, match="not hit"):
        TroubledServer(server, Trouble(status=404, pattern="/train*"), "/test.jsonl")


def test_trouble_left_behind_is_seen_by_gone(server: FileServer) -> None:
    class Sticky(TroubledServer):
        def _undo(self) -> None:
            pass

    with Sticky(server, Trouble(status=500), "/train.jsonl") as fault:
        assert fault.gone().holds is False
    assert fault.gone().holds is False
    TroubledServer._undo(fault)
    assert fault.gone().holds


def test_closing_ends_thread_and_port(tmp_path: Path) -> None:
    server = FileServer(tmp_path)
    with server:
        port = server.port
    server.close()
    assert not [t for t in threading.enumerate() if getattr(t, "_target", None) and "serve_forever" in str(t._target)]
    with pytest.raises(ConfigError, match="does not run"):
        _ = server.url
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()


@pytest.mark.parametrize("wrong", [{}, {"cut": 2.0}, {"garbled": -1.0}, {"status": 500, "times": 0}])
def test_trouble_that_troubles_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Trouble(**wrong)
