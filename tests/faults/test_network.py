"""A proxy whose network goes bad: the client's own socket is the witness."""

import random
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from premortem.core.errors import ConfigError
from premortem.faults.network import BadNetwork, Condition, TcpProxy

ANSWER = random.Random(1).randbytes(100_000)
KINDS = [
    ("refuse", 0), ("hang", 0), ("reset", 0), ("delay", 0.2), ("throttle", 200_000), ("truncate", 5_000),
    ("corrupt", 1_000), ("black hole", 5_000),
]  # fmt: skip


class Answering(socketserver.BaseRequestHandler):
    """For each line, 100,000 bytes."""

    def handle(self) -> None:
        while self.request.recv(1024):
            self.request.sendall(ANSWER)


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: int) -> Iterator[TcpProxy]:
    with TcpProxy(upstream) as running:
        yield running


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def connect_and_ask(port: int) -> bytes:
    with connect(port) as client:
        return ask(client)


def ask(client: socket.socket, enough: int = len(ANSWER)) -> bytes:
    client.sendall(b"?")
    got = b""
    while len(got) < enough and (chunk := client.recv(1 << 16)):
        got += chunk
    return got


def test_it_passes_every_byte_and_the_end(proxy: TcpProxy) -> None:
    with connect(proxy.port) as client:
        assert ask(client) == ANSWER
        assert ask(client) == ANSWER
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize(("kind", "amount"), KINDS)
def test_every_kind_is_shown_by_a_probe_and_gone_afterwards(proxy: TcpProxy, kind, amount: float) -> None:
    fault = BadNetwork(proxy, kind, amount)
    assert fault.observed().holds is None
    with fault:
        assert fault.observed().holds, fault.observed().detail
        assert fault.gone().holds is False
    assert fault.gone().holds, fault.gone().detail
    with connect(proxy.port) as client:
        assert ask(client) == ANSWER


def test_a_refusing_port_is_really_closed_and_comes_back_as_the_same(proxy: TcpProxy) -> None:
    with BadNetwork(proxy, "refuse"), pytest.raises(ConnectionRefusedError):
        connect(proxy.port)
    with connect(proxy.port) as client:
        assert ask(client) == ANSWER


@pytest.mark.parametrize("kind", ["refuse", "reset"])
def test_an_open_connection_is_reset(proxy: TcpProxy, kind) -> None:
    with connect(proxy.port) as client:
        assert ask(client) == ANSWER
        with BadNetwork(proxy, kind), pytest.raises(ConnectionResetError):
            ask(client)


def test_a_hanging_network_accepts_says_nothing_and_goes_on_when_it_wakes(proxy: TcpProxy) -> None:
    with connect(proxy.port) as old:
        assert ask(old) == ANSWER
        with BadNetwork(proxy, "hang"), connect(proxy.port) as new:
            for client in (old, new):
                client.sendall(b"?")
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    client.recv(1)
                client.settimeout(20)
            proxy.take(proxy)  # another owner: nothing changes
            assert proxy.condition.kind == "hang"
        got = b""
        while len(got) < len(ANSWER):
            got += old.recv(1 << 16)
        assert got == ANSWER


def test_truncation_ends_the_connection_after_so_many_bytes(proxy: TcpProxy) -> None:
    with BadNetwork(proxy, "truncate", 5_000), connect(proxy.port) as client:
        assert ask(client) == ANSWER[:5_000]


def test_a_black_hole_swallows_what_comes_after(proxy: TcpProxy) -> None:
    with BadNetwork(proxy, "black hole", 5_000), connect(proxy.port) as client:
        assert ask(client, 5_000) == ANSWER[:5_000]
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_corruption_hits_the_same_places_at_every_replay(proxy: TcpProxy) -> None:
    def once(seed: int) -> bytes:
        with BadNetwork(proxy, "corrupt", 1_000, seed=seed), connect(proxy.port) as client:
            return ask(client)

    one = once(0)
    assert sum(a != b for a, b in zip(one, ANSWER, strict=True)) == len(ANSWER) // 1_000
    assert once(0) == one
    assert once(1) != one


def test_where_bytes_are_corrupted_does_not_hang_on_how_they_are_cut() -> None:
    condition, whole = Condition("corrupt", 7, seed=3), bytes(100)
    pieces = b"".join(condition.corrupted(whole[i : i + 3], i) for i in range(0, 100, 3))
    assert pieces == condition.corrupted(whole, 0)


def test_the_newest_condition_counts_and_the_one_before_comes_back(proxy: TcpProxy) -> None:
    with BadNetwork(proxy, "delay", 0.01) as outer:
        with BadNetwork(proxy, "refuse") as inner:
            assert proxy.condition.kind == "refuse"
        assert proxy.condition.kind == "delay"
        assert inner.gone().holds
    assert outer.gone().holds


def test_a_condition_that_is_left_behind_is_seen_by_gone(proxy: TcpProxy) -> None:
    class Sticky(BadNetwork):
        def _undo(self) -> None:
            pass

    with Sticky(proxy, "corrupt", 100) as fault:
        pass
    assert fault.gone().holds is None
    assert "under 'corrupt'" in fault.gone().detail
    BadNetwork._undo(fault)
    assert fault.gone().holds


def test_a_dead_server_shows_as_a_reset(proxy: TcpProxy) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with TcpProxy(closed.getsockname()[1]) as dead, pytest.raises(ConnectionResetError):
            connect_and_ask(dead.port)


def test_more_connections_than_allowed_are_reset(upstream: int) -> None:
    with TcpProxy(upstream, max_connections=1) as proxy, connect(proxy.port) as first:
        assert ask(first) == ANSWER
        with pytest.raises(ConnectionResetError):
            connect_and_ask(proxy.port)


def test_closing_ends_thread_port_and_connections(upstream: int) -> None:
    proxy = TcpProxy(upstream)
    before = threading.active_count()
    with proxy, connect(proxy.port) as client:
        ask(client)
        fault = BadNetwork(proxy, "delay", 0.01)
        with fault:
            pass
        proxy.close()
        with pytest.raises(ConnectionResetError):
            ask(client)
    proxy.close()
    assert threading.active_count() <= before + 1, "the upstream's own thread may be ending"
    assert fault.gone().holds is None
    with pytest.raises(ConnectionRefusedError):
        connect(proxy.port)
    with pytest.raises(ConfigError, match="closed"), BadNetwork(proxy, "hang"):
        pass


@pytest.mark.parametrize(("kind", "amount"), [("throttle", 0), ("corrupt", 0), ("delay", -1), ("truncate", 1e9)])
def test_amounts_that_make_no_sense_are_refused(proxy: TcpProxy, kind, amount: float) -> None:
    with pytest.raises(ConfigError):
        BadNetwork(proxy, kind, amount)
