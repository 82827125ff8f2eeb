"""The processes of the service's benchmarks: the service, its bare peer, and hogs. Each ends with its ``with``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent


def free_port() -> int:
    """One that is free now."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


@contextlib.contextmanager
def service(bundle: Path, *options: str) -> Iterator[tuple[int, int]]:
    """``premortem infer`` as a process of its own: its port and pid. Ends it with SIGTERM; it must end well."""
    port = free_port()
    words = ["-m", "premortem.app.cli.main", "infer", str(bundle.absolute()), "--port", str(port), *options]
    with tempfile.TemporaryDirectory() as folder, _process(words, folder) as process:  # a guard writes where it works
        wait_until_ready(port)
        yield port, process.pid
        process.send_signal(signal.SIGTERM)
        if process.wait(30) != 0:
            raise SystemExit(f"the service ended with {process.returncode}, expected 0")


@contextlib.contextmanager
def bare() -> Iterator[int]:
    """The bare service, as a process of its own."""
    port = free_port()
    with _process([str(HERE / "service_bare.py"), str(port)]):
        wait_until_open(port)
        yield port


@contextlib.contextmanager
def hog() -> Iterator[None]:
    """A process that wants one core whole."""
    with _process(["-c", "while True: pass"]):
        yield


@contextlib.contextmanager
def _process(words: list[str], folder: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *words], env=environment, stdout=2, cwd=folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return int(reply.status), reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_until_ready(port: int, patience_s: float = 90.0) -> None:
    """Until ``/readyz`` says so."""
    wait_until_open(port, patience_s)
    until = time.monotonic() + patience_s
    while get(port, "/readyz")[0] != 200:
        if time.monotonic() > until:
            raise SystemExit(f"not ready after {patience_s} s")
        time.sleep(0.1)


def wait_until_open(port: int, patience_s: float = 90.0) -> None:
    """Until something listens."""
    until = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def worker_of(pid: int) -> int:
    """The newest child of the service that is a worker."""
    children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    workers = [c for c in children if b"service.worker" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return workers[-1]
