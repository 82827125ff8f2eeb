"""mlflow: a tracking server, a database or a folder, through mlflow's own client.

A batch whose answer never came may be there or not: the history of its metrics is read back, and what is there is
not sent again. A database keeps one row for the same metric, step, time and value anyway, so a request that arrives
after the look doubles nothing there; only mlflow's old folder store can then hold a value twice.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from premortem.stages.tracking.backends import Invalid, Refused, Unreachable
from premortem.stages.tracking.folder import RunInfo
from premortem.stages.tracking.record import Logged

T = TypeVar("T")
Point = tuple[int, int, float]
_TAG = "premortem.spool"
_PER_REQUEST = 1000
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_\-. :/]")
_REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"})
_INVALID = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST"})
_LEAST_STEP = -(2**63)
_LARGEST = 1.7976931348623157e308


class MLflow:
    """One run at one tracking URI."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: MlflowClient | None = None
        self._run = ""
        self._sent = 0
        self._there: dict[str, set[Point]] = {}

    def open(self, run: RunInfo, saved: Mapping[str, str | int]) -> None:
        """Find the run by the spool's id in a tag, or make it."""
        self._there.clear()
        self._client = client = _ask(lambda: MlflowClient(self._uri))
        experiment = _ask(lambda: _experiment(client, run.project))
        found = _ask(lambda: client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'", order_by=["start_time"]))
        if found:  # the oldest, where a request that was given up made a second one after all
            self._run = found[0].info.run_id
        else:
            tags = {_TAG: run.id}
            began = int(run.began * 1000)
            self._run = _ask(lambda: client.create_run(experiment, began, tags, run.name)).info.run_id
        params = [Param(_name(key), value[:6000]) for key, value in run.params.items()]
        if params:
            _ask(lambda: client.log_batch(self._run, params=params))

    def send(self, records: Sequence[Logged], *, doubtful: bool) -> None:
        """Log metrics in requests of at most 1,000; each value with its own step and time."""
        assert self._client is not None
        client = self._client
        if not doubtful:
            self._there.clear()
        if any(not _LEAST_STEP <= record.step <= -_LEAST_STEP - 1 for record in records):
            raise Invalid("mlflow: a step does not fit into 64 bits")  # its databases say so as if they were away
        metrics = [
            Metric(_name(name), value, record.milliseconds, record.step)
            for record in records
            for name, value in record.values.items()
        ]
        if doubtful:
            since = min((metric.timestamp for metric in metrics), default=0)
            metrics = [metric for metric in metrics if not self._is_there(metric, since)]
        for start in range(0, len(metrics), _PER_REQUEST):
            part = metrics[start : start + _PER_REQUEST]
            try:
                _ask(lambda part=part: client.log_batch(self._run, metrics=part))  # type: ignore[misc]
            except Unreachable:
                self._there.clear()  # what was read before is old now
                raise
        if records:
            self._sent = records[-1].n

    def _is_there(self, metric: Metric, since: int) -> bool:
        """Whether the history has it; only what is as young as the doubtful records is remembered."""
        assert self._client is not None
        client = self._client
        if metric.key not in self._there:
            history = _ask(lambda: client.get_metric_history(self._run, metric.key))
            self._there[metric.key] = {_point(m) for m in history if m.timestamp >= since}
        return _point(metric) in self._there[metric.key]

    def confirmed(self) -> int:
        """mlflow answers when it has stored."""
        return self._sent

    def saved(self) -> dict[str, str | int]:
        """The id of the run."""
        return {"run": self._run}

    def finish(self, how: str) -> None:
        """Set the run's end; again changes nothing."""
        assert self._client is not None
        client = self._client
        _ask(lambda: client.set_terminated(self._run, "FINISHED" if how == "finished" else "FAILED"))

    def close(self) -> None:
        """Nothing is held."""
        self._client = None


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        again = client.get_experiment_by_name(name)
        if again is None:
            raise
        return str(again.experiment_id)


def _ask(act: Callable[[], T]) -> T:
    """Call mlflow, and say in our words what its error means for the sender."""
    try:
        return act()
    except MlflowException as error:
        told = f"mlflow: {_first_line(error)}"
        status = getattr(error, "get_http_status_code", lambda: 500)()
        if error.error_code in _REFUSED or status in (401, 403) or " 401" in told or " 403" in told:
            raise Refused(told) from None
        if error.error_code in _INVALID:
            raise Invalid(told) from None
        raise Unreachable(told) from None
    except Exception as error:  # a client's or a driver's own: uncertain, so it is tried again
        raise Unreachable(f"mlflow: {type(error).__name__}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _name(name: str) -> str:
    """A name that mlflow takes; a changed one carries a mark, so that two names never become one."""
    fit = _FORBIDDEN.sub("_", name)[:240]
    return fit if fit == name else f"{fit}_{zlib.crc32(name.encode()):08x}"


def _point(metric: Metric) -> Point:
    """What makes a value the same value. mlflow's databases keep an infinity as the largest number, NaN as NaN."""
    value = float(metric.value)
    if value != value:
        return (int(metric.step), int(metric.timestamp), 0.5)
    return (int(metric.step), int(metric.timestamp), max(-_LARGEST, min(_LARGEST, value)))


def make(where: str, offline: Path | None, home: Path) -> Any:
    """``where`` is a tracking URI; offline it is a database in the spool's folder, which ``mlflow ui`` opens."""
    if offline is None:
        return MLflow(where)
    offline.mkdir(parents=True, exist_ok=True)
    return MLflow(f"sqlite:///{offline.resolve() / 'mlflow.db'}")
