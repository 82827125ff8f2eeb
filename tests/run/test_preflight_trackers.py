"""Trackers over real HTTP on this machine: reachable, refusing, hanging, gone."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from premortem.core.errors import ConfigError
from premortem.run.preflight import trackers
from premortem.run.preflight.row import Asked, Row

KEY = "k" * 40


class Tracker(BaseHTTPRequestHandler):
    """Speaks the two requests that the check makes, and asks for credentials as the real ones do."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        given = self.headers.get("Authorization", "")
        if self.path == "/graphql":
            known = given == "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
            self.answer(200, {"data": {"viewer": {"username": "maria"} if known else None}})
        elif self.path == "/api/2.0/mlflow/experiments/search":
            self.answer(200 if given else 401, {"experiments": []})
        elif self.path.startswith("/page"):
            self.answer(200, [])
        else:
            self.answer(500, {})

    def answer(self, code: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Not on the screen."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Tracker) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "WANDB_API_KEY",
                 "WANDB_BASE_URL", "WANDB_MODE", "http_proxy", "HTTP_PROXY"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def row(tracker: str) -> Row:
    (found,) = trackers.rows(Asked(trackers=(tracker,)))
    return found


def test_a_server_that_answers_and_knows_us_is_ok(server: str, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "maria")
    assert row(f"wandb={server}").state == row(f"mlflow={server}/").state == "ok"
    assert "maria" in row(f"wandb={server}").found


def test_wrong_credentials_are_told_apart_from_a_server_that_is_gone(server: str, monkeypatch) -> None:
    assert "no API key" in row(f"wandb={server}").found
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert "does not know this API key" in row(f"wandb={server}").found
    assert "401" in row(f"mlflow={server}").found
    assert "500" in row(f"mlflow={server}/elsewhere").found
    assert "no answer" in row("mlflow=http://127.0.0.1:9").found
    assert "premortem sync" in row("mlflow=http://127.0.0.1:9").do


def test_a_server_that_hangs_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(trackers, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        found = row(f"mlflow=http://127.0.0.1:{hanging.getsockname()[1]}")
    assert found.state == "not ok"
    assert "timed out" in found.found


def test_files_are_really_written_and_what_cannot_be_asked_is_unknown(tmp_path: Path) -> None:
    for place in ("tensorboard=runs", "mlflow=sqlite:///db/mlflow.db", "mlflow=mlruns", "tensorboard", "mlflow"):
        assert row(place).state == "ok", place
    assert [*tmp_path.iterdir()] == []
    assert row("tensorboard=/proc/nowhere").state == "not ok"
    assert row("mlflow=databricks").state == row("mlflow=postgresql://db/x").state == "unknown"


def test_the_environment_points_to_trackers_and_none_is_said(monkeypatch, server: str) -> None:
    (none,) = trackers.rows(Asked())
    assert none.state == "not asked"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
    assert [(found.what, found.state) for found in trackers.rows(Asked())] == [(f"mlflow {server}", "ok")]
    with pytest.raises(ConfigError, match="did you mean 'mlflow'"):
        row("mflow")
