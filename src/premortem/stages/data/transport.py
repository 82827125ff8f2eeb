"""One HTTP request whose every byte has a deadline, and whose failures say what can mend them."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from premortem.core.errors import ConfigError
from premortem.stages.data.refusal import Refused

if TYPE_CHECKING:
    import httpx

_LATER_MAY_BE_BETTER = frozenset({408, 416, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one place is tried.

    Attributes:
        attempts: tries of one file; the waits between them double from `first_wait_s` to at most `longest_wait_s`,
            with as much as `first_wait_s` of jitter. What a server asks for by Retry-After is waited for.
        total_s: for one file, all tries and waits; a Retry-After beyond it is not waited for.
        read_s: silence, or a trickle below `least_bytes_per_s`, for so long is a hang.
    """

    attempts: int = 5
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    total_s: float = 900.0
    read_s: float = 15.0
    least_bytes_per_s: float = 1024.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_wait_s, self.longest_wait_s, self.total_s, self.read_s) <= 0:
            raise ConfigError(f"patience: found {self}, expected at least one attempt and times above 0")


@contextlib.contextmanager
def opened(url: str, headers: dict[str, str], patience: Patience) -> Iterator[httpx.Response]:
    """GET; the body is not read yet.

    Raises:
        Refused: for a status that is no success and all that the network does.
    """
    import httpx

    # the bytes themselves are hashed: no compression on the way
    asked = {"Accept-Encoding": "identity", "User-Agent": "premortem", **headers}
    try:
        with (
            httpx.Client(
                timeout=patience.read_s, follow_redirects=True, verify=_trust(), trust_env=not _is_here(url)
            ) as client,
            client.stream("GET", url, headers=asked) as reply,
        ):
            _require_success(reply, url)
            yield reply
    except httpx.TimeoutException as error:
        raise Refused("unreachable", f"{url}: nothing came for {patience.read_s:g} s") from error
    except httpx.TransportError as error:
        raise Refused("unreachable", f"{url}: {str(error) or type(error).__name__}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Refused("not there", f"{url}: {error}") from error


def chunks(reply: httpx.Response, patience: Patience, deadline: float) -> Iterator[bytes]:
    """The body as it comes; raises Refused for a trickle, and past `deadline` (monotonic seconds)."""
    since, num_bytes = time.monotonic(), 0
    for chunk in reply.iter_raw():
        yield chunk
        now = time.monotonic()
        num_bytes += len(chunk)
        if now > deadline:
            raise Refused("unreachable", f"{reply.url}: not whole within {patience.total_s:g} s")
        if now - since >= patience.read_s:
            if num_bytes < patience.least_bytes_per_s * (now - since):
                raise Refused("unreachable", f"{reply.url}: a trickle of {num_bytes} bytes in {now - since:.0f} s")
            since, num_bytes = now, 0


def _is_here(url: str) -> bool:
    """A server on this machine is never asked through the proxy that the environment names."""
    return url.startswith(("http://127.0.0.1", "http://localhost", "http://[::1]"))


@functools.cache
def _trust() -> ssl.SSLContext:
    """Who is trusted; reading all certificates takes longer than a request on loopback."""
    import httpx

    return httpx.create_ssl_context()


def _require_success(reply: httpx.Response, url: str) -> None:
    if reply.is_success:
        return
    why = f"{url}: HTTP {reply.status_code} {reply.reason_phrase}".rstrip()
    if reply.status_code in (401, 403):
        why += "; the set may be gated: set HF_TOKEN, or accept its terms"
    if reply.status_code in _LATER_MAY_BE_BETTER:
        raise Refused("unreachable", why, _retry_after_s(reply.headers.get("Retry-After", "")))
    raise Refused("not there", why)


def _retry_after_s(told: str) -> float:
    """Seconds, or an HTTP date; 0 where it says neither."""
    if told.isdigit():
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
