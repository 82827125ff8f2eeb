"""Whatever the server and network do: no wrong byte is ever handed out, and a healthy try afterwards succeeds."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from data_world import ROWS, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.faults.hub import LocalHub
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.faults.web import Trouble
from premortem.stages.data.cache import Cache, sha256_of
from premortem.stages.data.obtain import obtain
from premortem.stages.data.refusal import Refused
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.transport import Patience
from premortem.stages.data.workload import FROM_CACHE, NEXT_MIRROR, RETRY, DataWorkload

QUICK = Patience(attempts=2, first_wait_s=0.001, longest_wait_s=0.002, total_s=5, read_s=0.05)
PATHS = st.sampled_from(["*", "/api/*", "*/resolve/*"])
TIMES = st.sampled_from([1, 2, float("inf")])
SHARES = st.floats(0.0, 0.99)
TROUBLES = st.one_of(
    st.builds(Trouble, pattern=PATHS, times=TIMES, status=st.sampled_from([403, 404, 429, 500, 503])),
    st.builds(Trouble, pattern=PATHS, times=TIMES, cut=SHARES, declares_all=st.booleans()),
    st.builds(Trouble, pattern=PATHS, times=TIMES, garbled=st.floats(0.0001, 1.0), seed=st.integers(0, 99)),
)
NETWORKS = st.one_of(
    st.tuples(st.sampled_from(["refuse", "reset"]), st.just(0)),
    st.tuples(st.just("truncate"), st.integers(0, 3_000)),
    st.tuples(st.just("corrupt"), st.integers(1, 3_000)),
)
DAMAGE = st.sampled_from(["none", "blob", "manifest", "parts"])
WAYS = st.sampled_from([RETRY, NEXT_MIRROR, FROM_CACHE])


@pytest.fixture(scope="module")
def world():
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_lines(folder / "owner/lines/train.jsonl", ROWS)
        hub = stack.enter_context(LocalHub(folder))
        yield hub, stack.enter_context(TcpProxy(hub.port))


def damage(cache: Cache, what: str) -> None:
    folder = {"blob": "blobs", "manifest": "sets", "parts": "parts"}.get(what)
    files = [] if folder is None else [f for f in (cache.folder / folder).rglob("*") if f.is_file()]
    for file in files:
        file.chmod(0o644)
        body = bytearray(file.read_bytes() or b"x")
        body[len(body) // 2] ^= 1
        file.write_bytes(body)


def require_right(ready, truth: Path) -> None:
    assert [sha256_of(path) for path in ready.paths] == [kept.sha256 for kept in ready.entry.files]
    assert ready.paths[0].read_bytes() == truth.read_bytes()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(steps=st.lists(st.tuples(WAYS, st.one_of(TROUBLES, NETWORKS), DAMAGE), min_size=1, max_size=5))
def test_no_wrong_byte_is_handed_out_and_a_healthy_try_succeeds(world, steps) -> None:
    hub, proxy = world
    truth = hub.folder / "owner/lines/train.jsonl"
    mirrors = tuple(Mirror("hub", "owner/lines", endpoint=f"http://127.0.0.1:{p}") for p in (proxy.port, hub.port))
    source = Source(name="lines", columns=("question",), mirrors=mirrors)
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(folder)
        workload = DataWorkload([source], cache, patience=QUICK)
        for way, trouble, hurt in steps:
            with ExitStack() as stack:
                if isinstance(trouble, Trouble):
                    hub.put("trouble", trouble)
                    stack.callback(hub.take, "trouble")
                else:
                    proxy.put("trouble", BadNetwork(proxy, *trouble).condition)
                    stack.callback(proxy.take, "trouble")
                workload.assess()
                workload.go(way)
                workload.assess()
            for ready in workload.ready.values():
                require_right(ready, truth)
            damage(cache, hurt)
            workload.assess()
            for ready in workload.ready.values():
                require_right(ready, truth)
            entry = cache.read(source)
            assert entry is None or all(sha256_of(cache.blob(kept)) == kept.sha256 for kept in entry.files)
        require_right(obtain(source, mirrors[0], cache, QUICK, lambda line: None), truth)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(200, 4_000), min_size=1, max_size=5))
def test_a_download_cut_again_and_again_ends_whole(world, sizes: list[int]) -> None:
    hub, proxy = world
    mirror = Mirror("hub", "owner/lines", endpoint=f"http://127.0.0.1:{proxy.port}")
    source = Source(name="lines", mirrors=(mirror,))
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(folder)
        for size in sizes:
            proxy.put("trouble", BadNetwork(proxy, "truncate", size).condition)
            try:
                ready = obtain(source, mirror, cache, QUICK, lambda line: None)
            except Refused:
                continue
            finally:
                proxy.take("trouble")
            require_right(ready, hub.folder / "owner/lines/train.jsonl")
        ready = obtain(source, mirror, cache, QUICK, lambda line: None)
        require_right(ready, hub.folder / "owner/lines/train.jsonl")
