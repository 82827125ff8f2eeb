"""Fetches one file over HTTP: retries with exponential backoff, resumes, and never waits without a bound.

Covered: refused, reset and hanging connections; a trickle; 408, 425, 429 and 5xx with Retry-After; short bodies;
wrong hashes; resuming by Range, held to the same ETag. Not covered: a server that trickles its headers.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from re import compile as pattern
from typing import TYPE_CHECKING, TypeVar

from premortem.core.errors import StageError
from premortem.stages.data.refusal import Refused
from premortem.stages.data.transport import Patience, chunks, opened

if TYPE_CHECKING:
    import httpx

Told = Callable[[str], None]
T = TypeVar("T")
# each retry is told to `told`; who wants stamina's own lines sets up logging
logging.getLogger("stamina").addHandler(logging.NullHandler())
_CONTENT_RANGE = pattern(r"bytes (\d+)-\d+/(?:\d+|\*)")
_CHUNK = 1 << 20
_SMALL = 64 << 20
_ANOTHER = "what is here is no beginning of what is there"


@dataclass(frozen=True, slots=True)
class Remote:
    """One file: its address, and what is known of its content beforehand.

    `git_blob` is the sha1 that git gives a file; hubs name it for small ones.
    """

    url: str
    name: str
    sha256: str = ""
    git_blob: str = ""
    size: int | None = None
    token: str = ""

    @property
    def has_hash(self) -> bool:
        """Whether its content can be told from any other."""
        return bool(self.sha256 or self.git_blob)

    @property
    def identity(self) -> str:
        """Names the content at this address: another revision of it never goes on with this one's part."""
        return "\0".join((self.url, self.sha256, self.git_blob))


def fetch(remote: Remote, part: Path, patience: Patience, told: Told) -> None:
    """Bring the file to `part`; what is there already from an earlier try is gone on with.

    Raises:
        Refused: after the last try, with what came of it.
        StageError: where `part` cannot be written.
    """
    deadline = time.monotonic() + patience.total_s
    try:
        retrying(lambda: _once(remote, part, patience, deadline), patience, told, remote.url)
    except OSError as error:
        raise StageError(f"{part}: cannot be written: {error.strerror or error}; free space") from error


def fetch_text(url: str, patience: Patience, told: Told, token: str = "") -> str:
    """A small answer, such as an API's JSON, of at most 64 MiB. Raises Refused."""
    deadline = time.monotonic() + patience.total_s

    def once() -> str:
        got = b""
        with opened(url, _headers(token), patience) as reply:
            for chunk in chunks(reply, patience, deadline):
                got += chunk
                if len(got) > _SMALL:
                    raise Refused("damaged", f"{url}: an answer of more than {_SMALL} bytes")
        return got.decode("utf-8", errors="replace")

    return retrying(once, patience, told, url)


def retrying(once: Callable[[], T], patience: Patience, told: Told, what: str) -> T:
    """Call until it raises no :class:`Refused` that later may be better, within the patience."""
    import stamina

    deadline = time.monotonic() + patience.total_s

    def wait_for(error: Exception) -> bool | float:
        if not isinstance(error, Refused) or error.symptom == "not there":
            return False
        if error.retry_after_s:
            return error.retry_after_s if time.monotonic() + error.retry_after_s < deadline else False
        return True

    for attempt in stamina.retry_context(
        on=wait_for, attempts=patience.attempts, timeout=patience.total_s, wait_initial=patience.first_wait_s,
        wait_max=patience.longest_wait_s, wait_jitter=patience.first_wait_s,
    ):  # fmt: skip
        with attempt:
            if attempt.num > 1:
                told(f"{what}: try {attempt.num} of {patience.attempts}")
            return once()
    raise AssertionError("stamina ends by a value or an error")


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _once(remote: Remote, part: Path, patience: Patience, deadline: float) -> None:
    tag = part.with_suffix(".etag")
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = _headers(remote.token)
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text("utf-8")}
    if not have or remote.size is None or have < remote.size:
        _receive(remote, part, tag, headers, (patience, deadline))
    _verify(remote, part, tag)


def _receive(
    remote: Remote, part: Path, tag: Path, headers: dict[str, str], bound: tuple[Patience, float]
) -> None:  # fmt: skip
    have = part.stat().st_size if "Range" in headers else 0
    try:
        with opened(remote.url, headers, bound[0]) as reply:
            goes_on = _continues(reply, have, headers)
            _remember(tag, reply.headers.get("ETag", ""))
            with part.open("ab" if goes_on else "wb") as stream:
                for chunk in chunks(reply, *bound):
                    stream.write(chunk)
    except Refused as error:
        if have and ("HTTP 416" in str(error) or _ANOTHER in str(error)):
            part.unlink(missing_ok=True)
        raise


def _continues(reply: httpx.Response, have: int, asked: dict[str, str]) -> bool:
    """Whether the answer is the rest of what is here; raises Refused where it is the rest of something else."""
    if reply.status_code != 206:
        return False
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    # some servers do not know If-Range and send the rest of another version
    if match is None or int(match[1]) != have or reply.headers.get("ETag", "") != asked["If-Range"]:
        raise Refused("unreachable", f"{reply.url}: {_ANOTHER}")
    return True


def _remember(tag: Path, etag: str) -> None:
    """A part may only be gone on with under the ETag that it began with; without a strong one it is begun anew."""
    if etag and not etag.startswith("W/"):
        tag.write_text(etag, "utf-8")
    else:
        tag.unlink(missing_ok=True)


def _verify(remote: Remote, part: Path, tag: Path) -> None:
    """Hold the part against all that is known of it; what is wrong is deleted."""
    size, why = part.stat().st_size, ""
    if remote.size is not None and size != remote.size:
        why = f"{size} bytes came, the source names {remote.size}"
    elif remote.sha256 and (found := _digest(part, hashlib.sha256())) != remote.sha256:
        why = f"sha256 {found[:12]}…, the source names {remote.sha256[:12]}…"
    elif remote.git_blob and not remote.sha256:
        header = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        if (found := _digest(part, header)) != remote.git_blob:
            why = f"git hash {found[:12]}…, the source names {remote.git_blob[:12]}…"
    tag.unlink(missing_ok=True)
    if why:
        part.unlink()
        raise Refused("damaged", f"{remote.url}: {why}")


def _digest(part: Path, digest: hashlib._Hash) -> str:
    with part.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
