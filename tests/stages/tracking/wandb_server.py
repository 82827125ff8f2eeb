"""A stand-in for the few calls that wandb's client makes: enough to log online, to resume, to be refused.

Not wandb's server: what it keeps is what a client sent, line by line by offset, as the protocol says. Written from
what wandb 0.31 sends.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class Run:
    """What arrived for one run: history lines by offset."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    exit_code: int | None = None
    doubled: int = 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.history[i] for i in sorted(self.history)]


class WandbServer:
    """Serves on a free loopback port; `runs` by run id. `key`: the only API key that is let in."""

    def __init__(self, key: str = "x" * 40) -> None:
        self.key = key
        self.runs: dict[str, Run] = {}
        self.asked: list[str] = []
        self.lock = threading.Lock()
        handler = type("Bound", (_Requests,), {"world": self})
        self._http = _Quiet(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = re.search(r"(query|mutation)\s+(\w+)", query)
        operation = name[2] if name else "?"
        self.asked.append(operation)
        if operation == "Viewer":
            entity = {"id": "E", "name": "me", "defaultEntity": {"name": "me"}}
            return {
                "viewer": {"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}, **entity}
            }
        if operation == "UpsertBucket":
            return self._upsert(variables)
        if "historyTail" in query:
            return self._status(variables)
        if operation == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/upload/{f}"} for f in variables.get("files", [])]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        return {}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables.get("name") or variables.get("id") or "?"
        with self.lock:
            is_new = run_id not in self.runs
            run = self.runs.setdefault(run_id, Run())
        project = {"id": "P", "name": variables.get("project") or "p", "entity": {"id": "E", "name": "me"}}
        bucket = {
            "id": f"id-{run_id}", "name": run_id, "displayName": variables.get("displayName") or run_id,
            "description": "", "config": variables.get("config") or "{}", "sweepName": None,
            "project": project, "historyLineCount": len(run.history),
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _status(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables.get("name") or variables.get("run")
        run = self.runs.get(str(run_id))
        bucket = None
        if run is not None:
            tail = [json.dumps(row) for row in run.rows[-1:]]
            bucket = {
                "id": f"id-{run_id}", "name": run_id, "summaryMetrics": "{}", "displayName": run_id,
                "logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0,
                "historyTail": json.dumps(tail), "eventsTail": "[]", "config": "{}", "tags": [], "notes": "",
                "wandbConfig": json.dumps({"t": 1}),
            }  # fmt: skip
        return {"model": {"id": "P", "name": "p", "entity": {"id": "E", "name": "me"}, "bucket": bucket}}

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        with self.lock:
            run = self.runs.setdefault(run_id, Run())
            chunk = body.get("files", {}).get("wandb-history.jsonl")
            if chunk:
                for i, line in enumerate(chunk["content"], chunk["offset"]):
                    run.doubled += i in run.history
                    run.history[i] = json.loads(line)
            run.complete = bool(body.get("complete", run.complete))
            run.exit_code = body.get("exitcode", run.exit_code)


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed has nothing to tell."""


class _Requests(BaseHTTPRequestHandler):
    world: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if not self._may_enter():
            return self._answer(401, {"errors": [{"message": "user is not logged in"}]})
        if self.path.endswith("/graphql"):
            return self._answer(200, {"data": self.world.graphql(body.get("query", ""), body.get("variables") or {})})
        if "/file_stream" in self.path:
            self.world.stream(self.path.split("/file_stream")[0].split("/")[-1], body)
            return self._answer(200, {"exitcode": None, "limits": {}})
        return self._answer(200, {})

    def do_GET(self) -> None:
        if self._may_enter():
            self._answer(200, {})
        else:
            self._send(401, "text/html", b"You are not authenticated.")  # as mlflow's own authentication answers

    def do_PUT(self) -> None:
        self._body()
        self._answer(200, {})

    def _may_enter(self) -> bool:
        given = self.headers.get("Authorization", "")
        wanted = base64.b64encode(f"api:{self.world.key}".encode()).decode()
        return given == f"Basic {wanted}"

    def _body(self) -> Any:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            data = gzip.decompress(data)
        try:
            return json.loads(data or b"{}")
        except ValueError:
            return {}

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        self._send(code, "application/json", json.dumps(content).encode())

    def _send(self, code: int, kind: str, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""
