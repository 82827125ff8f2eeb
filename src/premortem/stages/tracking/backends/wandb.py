"""Weights & Biases: one run id a spool, and the sequence number as wandb's own step.

wandb's client hands over to a process of its own and says nothing of what arrived, so what arrived is asked for: of the
server online (the end of the run's history), of the run file offline. The caller's step goes along as ``step``, as it
may go back after a restore, which wandb's step may not.
"""

from __future__ import annotations

import base64
import contextlib
import json
import netrc
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb

from premortem.stages.tracking.backends import Refused, Unreachable
from premortem.stages.tracking.backends.wandb_file import last_step
from premortem.stages.tracking.folder import RunInfo
from premortem.stages.tracking.record import Logged

_ASK_EVERY_S = 1.0
_TIMEOUT_S = 15.0
_SILENT_S = 60.0
"""So long nothing may arrive while something is owed, before the client is given up and made anew."""
_QUERY = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) { historyLineCount historyTail } }
}"""


class Wandb:
    """One run, ``online`` at a server or ``offline`` in files."""

    def __init__(self, base_url: str, folder: Path, *, online: bool) -> None:
        self._base_url = base_url
        self._folder = folder
        self._online = online
        self._run: Any = None
        self._info: RunInfo | None = None
        self._sent = 0
        self._there = 0
        self._asked = 0.0
        self._grew = 0.0

    def open(self, run: RunInfo, saved: Mapping[str, str | int]) -> int:
        """Make or resume the run; what is there already comes from where it lies."""
        self.close()
        self._info = run
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._online:
            self._ask_server()  # refused, or nobody there: said at once, and not after the client's long patience
        try:
            self._run = wandb.init(
                project=run.project, id=run.id, name=run.name, config=dict(run.params), dir=str(self._folder),
                mode="online" if self._online else "offline", resume="allow", settings=_settings(self._base_url),
            )  # fmt: skip
            self._run.define_metric("*", step_metric="step")
        except wandb.errors.Error as error:
            raise _told(error) from None
        self._there = self._look()
        self._sent = self._there
        self._grew = time.monotonic()
        return self._there

    def send(self, records: Sequence[Logged], *, doubtful: bool) -> None:
        """Hand rows to the client; :meth:`confirmed` says what became of them."""
        for record in records:
            if record.n > self._sent:
                row = {"step": record.step, **record.values, "_timestamp": record.t}
                try:
                    self._run.log(row, step=record.n, commit=True)
                except wandb.errors.Error as error:
                    raise _told(error) from None
                self._sent = record.n

    def confirmed(self) -> int:
        """The last row that is there; raises ``Unreachable`` when nothing arrives for a minute."""
        now = time.monotonic()
        if self._there < self._sent and now - self._asked >= _ASK_EVERY_S:
            self._asked = now
            there = self._look()
            if there > self._there:
                self._there, self._grew = there, now
        if self._there >= self._sent:
            self._grew = now
        elif now - self._grew > _SILENT_S:
            raise Unreachable(f"wandb: nothing arrived for {_SILENT_S:g} s")
        return self._there

    def saved(self) -> dict[str, str | int]:
        """The run's id."""
        return {} if self._info is None else {"run": self._info.id}

    def finish(self, how: str) -> None:
        """Say that the run ended; waits until the client has handed over all."""
        try:
            self._run.finish(exit_code=0 if how == "finished" else 1)
        except wandb.errors.Error as error:
            raise _told(error) from None
        self._run = None

    def close(self) -> None:
        """Give the client up, without its goodbye: what it still had is doubtful, and asked for at the next open."""
        if self._run is not None:
            self._run = None
            wandb.teardown(exit_code=1)

    def _look(self) -> int:
        assert self._info is not None
        if self._online:
            return self._ask_server()
        return last_step(self._folder, self._info.id)

    def _key(self) -> str:
        key = os.environ.get("WANDB_API_KEY")
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            found = None if key else netrc.netrc().authenticators(urlsplit(self._base_url).hostname or "")
            key = found[2] if found else key
        if not key:
            raise Refused("wandb: found no API key, expected WANDB_API_KEY or an entry of `wandb login`; log in")
        return key

    def _ask_server(self) -> int:
        assert self._info is not None
        variables = {"project": self._info.project, "entity": os.environ.get("WANDB_ENTITY"), "name": self._info.id}
        answer = _post(f"{self._base_url}/graphql", {"query": _QUERY, "variables": variables}, self._key())
        bucket = ((answer.get("data") or {}).get("model") or {}).get("bucket")
        tail = json.loads((bucket or {}).get("historyTail") or "[]")
        return max((int(json.loads(row).get("_step", 0)) for row in tail), default=0)


def _post(url: str, content: dict[str, object], key: str) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    request.add_header("Authorization", "Basic " + base64.b64encode(f"api:{key}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise Refused(f"wandb: {url} answers {error.code}: the API key is not accepted") from None
        raise Unreachable(f"wandb: {url} answers {error.code}") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"wandb: {url}: {error}") from None


def _settings(base_url: str) -> Any:
    """The sender's own machine figures, code and console are nobody's business; uploads every two seconds."""
    return wandb.Settings(
        base_url=base_url, console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True,
        x_disable_meta=True, init_timeout=30, x_file_stream_transmit_interval=2.0, x_graphql_timeout_seconds=_TIMEOUT_S,
    )  # fmt: skip


def _told(error: Exception) -> Unreachable | Refused:
    text = f"wandb: {(str(error).splitlines() or ['no answer'])[0][:300]}"
    if (
        isinstance(error, wandb.errors.AuthenticationError | wandb.errors.UsageError)
        or " 401" in text
        or " 403" in text
    ):
        return Refused(text)
    return Unreachable(text)


def make(where: str, offline: Path | None, home: Path) -> Wandb:
    """``where`` is the server's address; the client's own files lie in the spool's folder."""
    if offline is None:
        return Wandb(where, home / "wandb-online", online=True)
    return Wandb(where, offline, online=False)
