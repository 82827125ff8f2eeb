"""A real mlflow tracking server in a process of its own, on loopback: mlflow's web application over a database file.

`python -m premortem.risks.train.tracker_offline.server DATABASE` prints its port when it serves, and ends with its
parent. Lighter than `mlflow server`, whose workers and job runners take 12 s to start; the handlers are the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from premortem.core.errors import StageError


class MlflowServer:
    """`with MlflowServer(folder) as server:` then `server.port`; the database is `folder/mlflow.db`."""

    def __init__(self, folder: Path) -> None:
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, self.database],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        if not told.strip().isdigit():
            self.close()
            last = self._log.read_text("utf-8", "replace").strip().splitlines()[-1:]
            raise StageError(f"the mlflow server did not start: {' '.join(last)}")
        self.port = int(told)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; again changes nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


def _serve(database: str) -> None:
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = database
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(Path(database.removeprefix("sqlite:///")).parent / "artifacts")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from mlflow.server import app
    from mlflow.server.handlers import _get_tracking_store
    from werkzeug.serving import make_server

    _get_tracking_store()  # the tables are there before the first request
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
