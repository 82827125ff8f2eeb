"""What a training loop holds: ``open`` a tracker, ``log`` to it, ``close`` it. None of them waits for a network."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from premortem.core.errors import ConfigError, StageError
from premortem.stages.tracking import cursor as cursors
from premortem.stages.tracking.backends import require_known
from premortem.stages.tracking.folder import MODES, OFFLINE, Folder, Mode, RunInfo
from premortem.stages.tracking.reader import last_number
from premortem.stages.tracking.record import require_numbers
from premortem.stages.tracking.spool import Spool

_SECRET = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")

_LOOK_EVERY = 512
"""Records between two looks at whether the sender lives."""
_HELD: set[tuple[int, Path]] = set()
"""Spools that this process writes, by process: a fork copies the set."""


class Tracker:
    """One run's records: kept in a spool by this process, sent by another.

    Use it as a context manager, or :meth:`close` it. Made by :func:`open_run`.

    Attributes:
        folder: the spool.
        run: which run it is.
    """

    def __init__(self, folder: Folder, run: RunInfo, *, close_s: float, grace_s: float) -> None:
        self.folder = folder
        self.run = run
        self._own_mode: Mode = folder.mode
        self._close_s = close_s
        self._grace_s = grace_s
        self._warned: set[str] = set()
        if (os.getpid(), folder.path) in _HELD:  # the kernel's lock does not keep a process from itself
            raise ConfigError(f"{folder.path}: this process writes to this spool already; close that tracker first")
        self._lock = folder.hold("writer")
        if self._lock is None:
            raise ConfigError(f"{folder.path}: another process writes to this spool; give this run another name")
        _HELD.add((os.getpid(), folder.path))
        self.spool = Spool(folder.spool, self._last_given())
        self._sender: subprocess.Popen[bytes] | None = None
        self.ensure_sender()

    def log(self, metrics: Mapping[str, object], step: int) -> None:
        """Keep the values of a step: numbers, or tensors of one element (which a device is asked for).

        What is no number is left out with one warning, and so is a record whose step is none. Raises nothing.
        """
        try:
            values, refused = require_numbers(dict(metrics))
            at = int(step)
        except (TypeError, ValueError, OverflowError):
            self._warn(f"tracker: found metrics {metrics!r:.60} at the step {step!r:.60}, expected names with numbers "
                       "at a whole number; such records are left out", "record")  # fmt: skip
            return
        for name in refused:
            self._warn(f"tracker: {name!r} is no number and is left out", name)
        if self.spool.append(at, time.time(), values):
            if self.spool.last % _LOOK_EVERY == 0:
                self.ensure_sender()
        elif self.spool.fault:
            self._warn(f"tracker: records wait in memory: {self.spool.fault}", "spool")

    @property
    def mode(self) -> Mode:
        """Where records go at present."""
        return self.folder.mode

    def choose(self, mode: Mode) -> None:
        """Send ``online``, into ``offline`` files, or nowhere (``local``: the spool alone). Raises ``OSError``."""
        self.folder.choose(mode)
        self.ensure_sender()

    def ensure_sender(self) -> None:
        """Start the sender where none runs."""
        if self._sender is not None and self._sender.poll() is None:
            return
        command = [sys.executable, "-m", "premortem.stages.tracking.sender", str(self.folder.path), str(self._grace_s)]
        try:
            with self.folder.log.open("ab") as log:
                self._sender = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            self._warn(f"tracker: the sender was not started: {error}", "sender")

    def close(self, how: str = "finished") -> int:
        """End the run, give the sender its time, and say what is left.

        Returns:
            How many records a tracker does not have yet; `premortem sync` sends them later.
        """
        if self._lock is None:
            return 0
        self.ensure_sender()
        self.spool.append(0, time.time(), {}, how)
        self.spool.close()
        os.close(self._lock)
        self._lock = None
        _HELD.discard((os.getpid(), self.folder.path))
        if self.folder.mode != self._own_mode:  # a last try: whatever was wrong may be over
            self.folder.choose(self._own_mode)
        left = self._wait()
        if left or self.spool.num_lost:
            lost = f", {self.spool.num_lost} found no disk" if self.spool.num_lost else ""
            warnings.warn(
                f"premortem: {left} records wait for their tracker{lost}; premortem sync {self.folder.path}",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        return left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("finished" if error is None else f"{type(error).__name__}: {error}")

    def _wait(self) -> int:
        until = time.monotonic() + self._close_s
        sender = self._sender
        while sender is not None and sender.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if sender is not None and sender.poll() is None:
            sender.terminate()
            try:
                sender.wait(5.0)
            except subprocess.TimeoutExpired:
                sender.kill()
                sender.wait()
        return unsent(self.folder, self.spool.last)

    def _last_given(self) -> int:
        try:
            last, num_damaged = last_number(self.folder.spool) if self.folder.spool.exists() else (0, 0)
        except OSError as error:
            raise ConfigError(f"{self.folder.spool}: cannot be read ({error.strerror})") from None
        if num_damaged:
            self._warn(f"tracker: {num_damaged} torn lines in {self.folder.spool} are passed over", "torn")
        sinks = [*self.run.backends, *(name + OFFLINE for name in self.run.backends)]
        return max([last, *(cursors.load(self.folder.cursor(sink)).sent for sink in sinks)])

    def _warn(self, text: str, once: str) -> None:
        if once not in self._warned:
            self._warned.add(once)
            warnings.warn(f"premortem: {text}", RuntimeWarning, stacklevel=3)


def open_run(  # noqa: PLR0913 - all keyword-only but the first
    backends: str | Sequence[str] | Mapping[str, str],
    *,
    project: str,
    run: str = "",
    spool: str | Path = "runs/spool",
    params: Mapping[str, object] | None = None,
    mode: Mode = "online",
    close_s: float = 10.0,
    grace_s: float = 60.0,
) -> Tracker:  # fmt: skip
    """A tracker for this run.

    Args:
        backends: ``mlflow``, ``wandb``, ``tensorboard``, several of them, or where each is:
            ``{"mlflow": "http://…", "tensorboard": "runs/tb"}``. Without a place: what the tool's own environment
            says (``MLFLOW_TRACKING_URI``, ``WANDB_BASE_URL``), else its default. Credentials stay in the environment.
        project: experiment (mlflow), project (wandb), folder (TensorBoard).
        run: a name; the same one again goes on with the same run. A new one where it is left out.
        spool: a folder; each run has its own in it.
        params: what the run was started with, as text.
        mode: ``offline`` and ``local`` send nothing; ``premortem sync`` does it later.
        close_s: how long :meth:`Tracker.close` waits for the sender.
        grace_s: how long the sender goes on when this process died.

    Raises:
        ConfigError: an unknown tracker, a name that is no folder's, a spool of another run or in use.
        StageError: a spool that is damaged, or a folder that cannot be written.
    """
    places = _places(backends)
    name = run or f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    for what, text in (("run", name), ("project", project)):
        if not _NAME.fullmatch(text):
            raise ConfigError(f"tracker: found the {what} {text!r}, expected letters, digits, '.', '_' or '-'")
    folder = Folder(Path(spool).absolute() / name)
    given = {str(key): str(value) for key, value in (params or {}).items()}
    wanted = RunInfo(secrets.token_hex(8), project, name, time.time(), places, given)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        if (folder.path / "run.json").exists():
            wanted = _same(folder.read_run(), wanted, folder)
        else:
            folder.write_run(wanted)
        if mode not in MODES:
            raise ConfigError(f"tracker: found the mode {mode!r}, expected one of {', '.join(MODES)}")
        folder.choose(mode)
    except OSError as error:
        raise StageError(
            f"{folder.path}: the spool cannot be written ({error.strerror}); name another folder"
        ) from None
    return Tracker(folder, wanted, close_s=close_s, grace_s=grace_s)


def unsent(folder: Folder, last: int) -> int:
    """Records up to ``last`` that the slowest online tracker does not have."""
    return max((last - cursors.load(folder.cursor(sink)).sent for sink in folder.sinks("online")), default=0)


def _same(found: RunInfo, wanted: RunInfo, folder: Folder) -> RunInfo:
    """The run that is there, when it is the one that is wanted."""
    for what in ("project", "name", "backends"):
        if getattr(found, what) != getattr(wanted, what):
            raise ConfigError(
                f"{folder.path}: found the spool of another run ({what} {getattr(found, what)!r}), expected "
                f"{getattr(wanted, what)!r}; give this run another name"
            )
    return found


def _places(backends: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    try:
        names = [backends] if isinstance(backends, str) else list(backends)
    except TypeError:
        raise ConfigError(f"tracker: found the backends {backends!r}, expected names such as 'mlflow'") from None
    if not names:
        raise ConfigError("tracker: found no backend, expected at least one of mlflow, tensorboard, wandb")
    given = backends if isinstance(backends, Mapping) else {}
    places = {}
    for name in names:
        require_known(name)
        place = str(given.get(name) or default_place(name))
        if _SECRET.search(place):
            raise ConfigError(f"tracker: found a password in the address of {name}; put it into the environment")
        places[name] = place if "://" in place or place == "databricks" else str(Path(place).absolute())
    return places


def default_place(name: str) -> str:
    """Where a tracker is when nobody says: its own variable, else its own default."""
    if name == "mlflow":
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"
    if name == "wandb":
        return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return "runs/tensorboard"
