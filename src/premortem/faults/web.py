"""A real HTTP server on loopback that serves a folder, and can be troubled while it runs.

Covered: GET and HEAD with Range and ETag; answers of 4xx and 5xx with Retry-After; bodies that are cut, silently
or against their Content-Length; garbled rows. Not covered: TLS, writing, directory listings. What a bad network
does is `network.BadNetwork`, through a proxy in front of this server.
"""

from __future__ import annotations

import atexit
import fnmatch
import hashlib
import math
import random
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError

from premortem.core.errors import ConfigError
from premortem.faults.disturbance import Disturbance
from premortem.faults.fault import Evidence

HOST = "127.0.0.1"
_PROBE = "X-Premortem-Probe"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What happens to answers whose path matches `pattern`, for the first `times` of them.

    Attributes:
        status: instead of 200; with `retry_after` (seconds, or an HTTP date) as its header when that is given.
        cut: the share of the body that is sent; `declares_all`: Content-Length still claims the whole of it.
        garbled: the share of the body's bytes that are wrong, drawn from `seed`; the length stays right.
    """

    pattern: str = "*"
    times: float = math.inf
    status: int = 200
    retry_after: str = ""
    cut: float = 1.0
    declares_all: bool = False
    garbled: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.cut <= 1 and 0 <= self.garbled <= 1 and self.times >= 1):
            raise ConfigError(f"trouble: found {self}, expected shares from 0 to 1 and at least one time")
        if self.status == 200 and self.cut == 1 and not self.garbled:
            raise ConfigError("trouble: it troubles nothing; give a status, a cut or a garbled share")

    def spoil(self, body: bytes) -> bytes:
        """The body with its garbled bytes."""
        rng = random.Random(self.seed)
        changed = bytearray(body)
        for at in rng.sample(range(len(body)), math.ceil(self.garbled * len(body))):
            changed[at] ^= rng.randrange(1, 256)
        return bytes(changed)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent for a path when nothing troubles it."""

    body: bytes
    status: int = 200
    kind: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)


class FileServer:
    """`with FileServer(folder) as server:` then GET `server.url + "/name"`.

    A subclass may answer other paths by `answer(path)`. `requests` counts what was asked, by path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.requests: dict[str, int] = {}
        self._troubles: dict[object, tuple[Trouble, list[int]]] = {}
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def answer(self, path: str, body: bytes = b"") -> Answer | None:
        """The file at `path` below the folder; None where there is none. `body` is what was posted."""
        file = (self.folder / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.folder.resolve()) or not file.is_file():
            return None
        return Answer(file.read_bytes())

    def conditional(self, asked: str, etag: str) -> bool:
        """Whether a Range that is asked for under If-Range is given: only of the same version."""
        return asked == etag

    # --- life ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        atexit.register(self.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, the listener and every connection; again changes nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        atexit.unregister(self.close)
        server.shutdown()
        server.end_connections()
        server.server_close()
        self._thread.join(10.0)

    @property
    def port(self) -> int:
        """Where it listens; raises ConfigError while it does not."""
        if self._server is None:
            raise ConfigError("file server: it does not run; enter it first")
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://{HOST}:{self.port}"

    # --- trouble ------------------------------------------------------------------------------

    def put(self, owner: object, trouble: Trouble) -> None:
        """Trouble the answers from now on."""
        with self._lock:
            self._troubles[owner] = (trouble, [0])

    def take(self, owner: object) -> None:
        """Take the owner's trouble away; again changes nothing."""
        with self._lock:
            self._troubles.pop(owner, None)

    def trouble_for(self, path: str, *, counts: bool = True) -> Trouble | None:
        """The newest trouble that still hits this path; counts it as one of its times."""
        with self._lock:
            if counts:
                self.requests[path] = self.requests.get(path, 0) + 1
            for trouble, hits in reversed(self._troubles.values()):
                if hits[0] < trouble.times and fnmatch.fnmatch(path, trouble.pattern):
                    hits[0] += counts
                    return trouble
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    request_queue_size = 64

    def __init__(self, files: FileServer) -> None:
        self.files = files
        self.open: set[socket.socket] = set()
        super().__init__((HOST, 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news."""

    def end_connections(self) -> None:
        for request in list(self.open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._give(with_body=True)

    def do_POST(self) -> None:
        self._give(with_body=True, posted=self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_HEAD(self) -> None:
        self._give(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Nothing on the console."""

    def _give(self, *, with_body: bool, posted: bytes = b"") -> None:
        files = self.server.files
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        trouble = files.trouble_for(path, counts=_PROBE not in self.headers)
        answer = files.answer(path, posted)
        if trouble is not None and trouble.status != 200:
            later = {"Retry-After": trouble.retry_after} if trouble.retry_after else {}
            answer = Answer(b"", trouble.status, headers=later)
        elif answer is None:
            answer = Answer(b"not found", 404)
        self._send(answer, trouble, with_body=with_body)

    def _send(self, answer: Answer, trouble: Trouble | None, *, with_body: bool) -> None:
        whole = answer.body if trouble is None else trouble.spoil(answer.body)
        etag = answer.headers.get("ETag", f'"{hashlib.sha256(answer.body).hexdigest()}"')
        start, end, status = self._range(len(whole), answer.status, etag)
        body = whole[start:end]
        sent = body if trouble is None else body[: int(len(body) * trouble.cut)]
        declared = len(body) if trouble is None or trouble.declares_all else len(sent)
        self.send_response(status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(whole)}")
        if "ETag" not in answer.headers:
            self.send_header("ETag", etag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(declared))
        self.send_header("Connection", "close")
        self.end_headers()
        if with_body:
            self.wfile.write(sent)

    def _range(self, length: int, status: int, etag: str) -> tuple[int, int, int]:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        fresh = self.server.files.conditional(self.headers.get("If-Range", etag), etag)
        if match is None or not fresh or status != 200 or int(match[1]) >= length:
            return 0, length, status
        return int(match[1]), min(length, int(match[2] or length) + bool(match[2])), 206


class TroubledServer(Disturbance):
    """Puts one trouble on a server that runs; `path` is what the evidence asks for, by real requests."""

    def __init__(self, server: FileServer, trouble: Trouble, path: str) -> None:
        self.server, self.trouble, self.path = server, trouble, path
        what = f"status {trouble.status}" if trouble.status != 200 else "cut" if trouble.cut < 1 else "garbled"
        self.name = f"server: {what}"
        if not fnmatch.fnmatch(path, trouble.pattern):
            raise ConfigError(f"{self.name}: {path!r} is not hit by the pattern {trouble.pattern!r}; name one that is")
        self._seen = Evidence(None, f"{self.name}: never entered")

    def _apply(self) -> None:
        self.server.put(self, self.trouble)
        right, found = self._ask()
        self._seen = Evidence(not right, f"{self.name}: GET {self.path} gave {found}")

    def _undo(self) -> None:
        self.server.take(self)

    def _ask(self) -> tuple[bool, str]:
        """Whether the answer is what it would be without trouble, and what it was."""
        expected = self.server.answer(self.path)
        request = urllib.request.Request(self.server.url + urllib.parse.quote(self.path), headers={_PROBE: "1"})
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                body, declared = reply.read(), int(reply.headers["Content-Length"])
        except HTTPError as error:
            error.close()
            return expected is None and error.code == 404, f"status {error.code}"
        except (URLError, OSError, EOFError) as error:
            return False, repr(error)
        except Exception as error:  # http.client.IncompleteRead is no OSError
            return False, repr(error)
        right = expected is not None and body == expected.body
        return right, f"{len(body)} of {declared} bytes, {'right' if right else 'not those of the source'}"

    def observed(self) -> Evidence:
        """What a real request met when the trouble came on."""
        return self._seen

    def gone(self) -> Evidence:
        """Whether a real request gets the right bytes again."""
        if self._seen.holds is None:
            return self._seen
        if self.is_on:
            return Evidence(False, f"{self.name}: still on")
        right, found = self._ask()
        return Evidence(right, f"{self.name}: away; GET {self.path} gave {found}")
