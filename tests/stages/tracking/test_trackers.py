"""Real trackers that are away, come back, refuse; and `premortem sync` on what a run left.

mlflow is a real server; TensorBoard's files are read by its own loader; wandb's client is real and its server is a
stand-in (`wandb_server.py`).
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb_server import WandbServer

from premortem.faults.network import BadNetwork, TcpProxy
from premortem.risks.train.tracker_offline.server import MlflowServer
from premortem.stages import tracking
from premortem.stages.tracking.folder import Folder

PATIENT_S = 60.0


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("server")) as server:
        yield server


def premortem(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "premortem.app.cli.main", *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def steps_at(port: int, run: str) -> Counter[int]:
    code = (
        "import sys, json\nfrom mlflow.tracking import MlflowClient\n"
        "c = MlflowClient(sys.argv[1]); e = c.get_experiment_by_name('p')\n"
        "runs = c.search_runs([e.experiment_id], f\"attributes.run_name = '{sys.argv[2]}'\")\n"
        "print(json.dumps([m.step for r in runs for m in c.get_metric_history(r.info.run_id, 'loss')]))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, f"http://127.0.0.1:{port}", run], capture_output=True, text=True, check=True
    )
    return Counter(json.loads(found.stdout.strip().splitlines()[-1]))


def log(tracker: tracking.Tracker, start: int, count: int) -> None:
    for step in range(start, start + count):
        tracker.log({"loss": 1.0 / (step + 1)}, step)


def test_a_server_dead_for_the_whole_run_has_each_record_once_after_sync(
    tmp_path: Path, mlflow_server: MlflowServer
) -> None:
    with TcpProxy(mlflow_server.port) as proxy:
        place = {"mlflow": f"http://127.0.0.1:{proxy.port}"}
        with BadNetwork(proxy, "refuse"):
            tracker = tracking.open(place, project="p", run="dead", spool=tmp_path, close_s=0.5)
            log(tracker, 0, 500)
            with pytest.warns(RuntimeWarning, match="501 records wait .* premortem sync"):
                assert tracker.close() == 501
            away = premortem("sync", str(tmp_path), "--wait", "4", "--json")
            assert away.returncode == 1
            assert json.loads(away.stdout)[0]["unsent"] == 501
            assert json.loads(away.stdout)[0]["fault"] != ""
        done = premortem("sync", str(tmp_path), "--wait", str(PATIENT_S), "--json")
        assert done.returncode == 0, done.stderr
        again = premortem("sync", str(tmp_path), "--json")
        assert (again.returncode, json.loads(again.stdout)[0]["unsent"]) == (0, 0)
    assert steps_at(mlflow_server.port, "dead") == Counter(range(500))


def test_an_answer_that_never_came_is_asked_for_and_not_sent_again(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    """The request reaches the server, the answer is lost: records are there, and their sender does not know."""
    with TcpProxy(mlflow_server.port) as proxy:
        place = {"mlflow": f"http://127.0.0.1:{proxy.port}"}
        with BadNetwork(proxy, "truncate", 0):
            tracker = tracking.open(place, project="p", run="lost", spool=tmp_path, close_s=3.0)
            log(tracker, 0, 200)
            with pytest.warns(RuntimeWarning, match="wait for their tracker"):
                tracker.close()
        assert premortem("sync", str(tmp_path), "--wait", str(PATIENT_S)).returncode == 0
    assert steps_at(mlflow_server.port, "lost") == Counter(range(200))


def test_the_next_run_sends_what_the_last_one_left(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    place = {"mlflow": f"http://127.0.0.1:{mlflow_server.port}"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        first = tracking.open(place, project="p", run="a-first", spool=tmp_path, mode="local", close_s=0.5)
        log(first, 0, 50)
        first.close()
    second = tracking.open(place, project="p", run="b-second", spool=tmp_path, close_s=PATIENT_S)
    log(second, 0, 10)
    assert second.close() == 0
    assert steps_at(mlflow_server.port, "b-second") == Counter(range(10))
    assert steps_at(mlflow_server.port, "a-first") == Counter(range(50))


def test_the_same_run_again_goes_on_in_the_same_run_of_the_tracker(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    place = {"tensorboard": str(tmp_path / "tb")}
    for start in (0, 30):
        with tracking.open(place, project="p", run="r", spool=tmp_path, close_s=PATIENT_S) as tracker:
            log(tracker, start, 30)
    (path,) = (tmp_path / "tb").rglob("events*")
    steps = [event.step for event in EventFileLoader(str(path)).Load() if event.summary.value]
    assert steps == list(range(60))


def test_wandb_gets_each_row_once_online_offline_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        tracker = tracking.open({"wandb": server.url}, project="p", run="r", spool=tmp_path, close_s=PATIENT_S)
        log(tracker, 0, 100)
        tracker.choose("offline")
        log(tracker, 100, 100)
        wait_for(tracker.folder, "wandb-offline", 100)
        tracker.choose("online")
        log(tracker, 200, 100)
        assert tracker.close() == 0
        run = server.runs[tracker.run.id]
    assert [row["step"] for row in run.rows] == list(range(300))
    assert [row["_step"] for row in run.rows] == list(range(1, 301))
    assert run.exit_code == 0


def test_wandbs_own_sync_reads_the_offline_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            tracker = tracking.open("wandb", project="p", run="r", spool=tmp_path, mode="offline", close_s=PATIENT_S)
            log(tracker, 0, 40)
            tracker.close()
        (folder,) = tracker.folder.offline.glob("wandb/offline-run-*")
        command = [sys.executable, "-m", "wandb", "sync", str(folder)]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        rows = [row for run in server.runs.values() for row in run.rows]
    assert [row["step"] for row in rows] == list(range(40))


def test_wrong_credentials_are_the_users_mistake_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_API_KEY", "y" * 40)
        tracker = tracking.open({"wandb": server.url}, project="p", run="r", spool=tmp_path, close_s=PATIENT_S)
        log(tracker, 0, 10)
        with pytest.warns(RuntimeWarning, match="11 records wait"):
            tracker.close()
        assert tracker.folder.status("wandb").refused
        refused = premortem("sync", str(tmp_path), WANDB_API_KEY="y" * 40)
        assert refused.returncode == 2
        assert "the API key is not accepted" in refused.stderr.splitlines()[-1]
        assert "Traceback" not in refused.stderr
        done = premortem("sync", str(tmp_path), WANDB_API_KEY=server.key)
        assert done.returncode == 0, done.stderr
        assert [row["step"] for row in server.runs[tracker.run.id].rows] == list(range(10))


def test_mlflow_refused_by_401_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WandbServer() as server:  # answers 401 to anybody without its key
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", base64.b64encode(b"wrong").decode())
        tracker = tracking.open({"mlflow": server.url}, project="p", run="r", spool=tmp_path, close_s=PATIENT_S)
        log(tracker, 0, 3)
        with pytest.warns(RuntimeWarning, match="4 records wait"):
            tracker.close()
    state = tracker.folder.status("mlflow")
    assert (state.refused, state.failures) == (True, 0)


def test_bad_folders_are_one_clear_line(tmp_path: Path) -> None:
    nothing = premortem("sync", str(tmp_path / "nowhere"))
    assert (nothing.returncode, "found no spool" in nothing.stderr) == (2, True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    torn = premortem("sync", str(tmp_path / "torn"), "--json")
    assert (torn.returncode, "no whole description" in torn.stderr) == (1, True)
    assert "Traceback" not in nothing.stderr + torn.stderr


def test_a_spool_that_cannot_be_sent_keeps_no_other_waiting(tmp_path: Path) -> None:
    (tmp_path / "a-torn").mkdir()
    (tmp_path / "a-torn" / "run.json").write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        tracker = tracking.open({"tensorboard": str(tmp_path / "tb")}, project="p", run="b-whole", spool=tmp_path,
                                mode="local", close_s=0.2)  # fmt: skip
        log(tracker, 0, 20)
        tracker.close()
    told = premortem("sync", str(tmp_path), "--json")
    torn, whole = json.loads(told.stdout)
    assert (told.returncode, torn["unsent"], "no whole description" in torn["fault"]) == (1, None, True)
    assert (whole["run"], whole["unsent"], whole["fault"]) == ("p/b-whole", 0, "")


def test_a_torn_tail_and_a_damaged_line_are_told_and_the_rest_is_sent(tmp_path: Path) -> None:
    place = {"tensorboard": str(tmp_path / "tb")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        tracker = tracking.open(place, project="p", run="r", spool=tmp_path, mode="local", close_s=0.2)
        log(tracker, 0, 20)
        tracker.close()
    spool = tracker.folder.spool
    lines = spool.read_bytes().splitlines(keepends=True)
    lines[5] = lines[5][:10] + b"#" + lines[5][11:]
    spool.write_bytes(b"".join(lines) + b'{"n":99,"step":')
    told = premortem("sync", str(tmp_path), "--json")
    row = json.loads(told.stdout)[0]
    assert (told.returncode, row["damaged"], row["unsent"]) == (0, 1, 0)


def wait_for(folder: Folder, sink: str, count: int) -> None:
    import time

    until = time.monotonic() + PATIENT_S
    while folder.status(sink).sent < count:
        assert time.monotonic() < until, folder.log.read_text()
        time.sleep(0.05)
