"""Trackers: is the library there, does the server answer, does it know us? Nothing is logged, no library is loaded.

Covered: mlflow over HTTP, in a database file or a folder; wandb; TensorBoard's folder. Not covered: whether this user
may write into one project; mlflow on Databricks or in a database server, which only its own client can ask.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from premortem.run.preflight.row import Asked, Row
from premortem.run.preflight.storage import written
from premortem.stages.tracking.backends import require_known
from premortem.stages.tracking.tracker import default_place

TIMEOUT_S = 5.0
_SPOOL = "records go to the spool meanwhile, and `premortem sync` sends them later"
_ANSWERS = "answers, and knows the user"
_VIEWER = "query { viewer { username } }"


def rows(asked: Asked) -> Iterable[Row]:
    """The trackers that were named (``NAME`` or ``NAME=PLACE``), else those that the environment points to.

    Raises:
        ConfigError: a tracker that is none.
    """
    named = asked.trackers or _of_environment()
    if not named:
        return [Row("trackers", "not asked", "none was named, and no variable points to one", "", "--tracker NAME")]
    return [_row(*text.partition("=")[::2]) for text in named]


def _of_environment() -> tuple[str, ...]:
    found = ["mlflow"] if os.environ.get("MLFLOW_TRACKING_URI") else []
    is_off = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if not is_off and (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_BASE_URL")):
        found.append("wandb")
    return tuple(found)


def _row(name: str, place: str) -> Row:
    require_known(name)
    place = place or default_place(name)
    if importlib.util.find_spec(name) is None:
        return Row(name, "not ok", "its package is not installed", _ANSWERS, "pip install 'premortem[trackers]'")
    if name == "wandb":
        return _wandb(place.rstrip("/"))
    if place.startswith(("http://", "https://")):
        return _mlflow(place.rstrip("/"))
    if name == "tensorboard":
        return written(Path(place), f"tensorboard {place}")
    for start in ("sqlite:///", "file://", "file:"):
        if place.startswith(start):
            path = Path(place.removeprefix(start))
            return written(path.parent if start == "sqlite:///" else path, f"mlflow {place}")
    if "://" not in place and place != "databricks":
        return written(Path(place), f"mlflow {place}")
    return Row(f"mlflow {place}", "unknown", "only mlflow's own client can ask there", _ANSWERS, "ask it by hand")


def _mlflow(uri: str) -> Row:
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    authorised = f"Bearer {token}" if token else ""
    if user:
        authorised = _basic(user, password)
    answer = _post(f"{uri}/api/2.0/mlflow/experiments/search", {"max_results": 1}, authorised)
    if isinstance(answer, Row):
        return answer
    return Row(f"mlflow {uri}", "ok", "answers", _ANSWERS)


def _wandb(url: str) -> Row:
    what = f"wandb {url}"
    key = os.environ.get("WANDB_API_KEY") or _of_netrc(url)
    if not key:
        return Row(what, "not ok", "no API key", "WANDB_API_KEY, or an entry of `wandb login`", f"log in; {_SPOOL}")
    answer = _post(f"{url}/graphql", {"query": _VIEWER}, _basic("api", key))
    if isinstance(answer, Row):
        return answer
    viewer = (answer.get("data") or {}).get("viewer")
    if not viewer:
        return Row(what, "not ok", "answers, and does not know this API key", _ANSWERS, f"log in anew; {_SPOOL}")
    return Row(what, "ok", f"answers, as {viewer.get('username')}", _ANSWERS)


def _of_netrc(url: str) -> str:
    import netrc
    from urllib.parse import urlsplit

    try:
        found = netrc.netrc().authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return ""
    return (found[2] or "") if found else ""


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _post(url: str, content: dict[str, object], authorised: str) -> dict[str, Any] | Row:
    """A tracker's answer, or the row that says why there is none that is of use."""
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    if authorised:
        request.add_header("Authorization", authorised)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            found = json.loads(answer.read(1 << 20))
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        told = f"answers {error.code}" + (": it does not accept these credentials" if refused else "")
        error.close()
        return Row(url, "not ok", told, _ANSWERS, f"{'log in anew' if refused else 'ask who runs it'}; {_SPOOL}")
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        return Row(
            url, "not ok", f"no answer of use: {why}"[:200], _ANSWERS, f"start it, or mend the address; {_SPOOL}"
        )
    if not isinstance(found, dict):
        return Row(url, "not ok", "answers, and not as a tracker does", _ANSWERS, f"mend the address; {_SPOOL}")
    return found
