"""However often sending is cut short, each whole record is in the tracker once, in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from premortem.stages.tracking.backends import make
from premortem.stages.tracking.drain import Drain
from premortem.stages.tracking.folder import Folder, RunInfo
from premortem.stages.tracking.reader import Reader
from premortem.stages.tracking.spool import Spool

its_own_warnings = pytest.mark.filterwarnings("ignore")
"""mlflow's own, of the libraries that it brings."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours handles it."""


def new_folder(home: Path, place: dict[str, str]) -> Folder:
    folder = Folder(home / "run")
    folder.path.mkdir(parents=True)
    folder.write_run(RunInfo("5f0c", "p", "run", 1000.0, place, {"lr": "0.1"}))
    return folder


def write(folder: Folder, count: int, last: int) -> int:
    spool = Spool(folder.spool, last)
    for _ in range(count):
        spool.append(spool.last % 7, 1000.0 + spool.last, {"loss": float(spool.last)})
    spool.close()
    return spool.last


def in_tensorboard(logdir: Path) -> list[float]:
    """By TensorBoard's own loader."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    values = []
    for path in sorted(logdir.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            values += [v.tensor.float_val[0] for v in event.summary.value if v.tag == "loss"]
    return values


def drained(folder: Folder, sink: str, die_at: int | None = None, batch: int = 5) -> None:
    """One life of a sender; killed at the `die_at`-th system call that changes a file."""
    place = folder.read_run().backends[sink]
    backend = make(sink, folder, place)
    calls = [0]

    def mortal(act):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            calls[0] += 1
            if die_at is not None and calls[0] > die_at:
                raise Killed
            return act(*args, **kwargs)

        return call

    def torn(fd: int, data: bytes, offset: int) -> int:
        calls[0] += 1
        if die_at is not None and calls[0] > die_at:
            real_pwrite(fd, data[: len(data) * (die_at % 5) // 5], offset)
            raise Killed
        return real_pwrite(fd, data, offset)

    real_pwrite = os.pwrite
    real = {name: getattr(os, name) for name in ("pwrite", "fsync", "fdatasync", "ftruncate")}
    try:
        os.pwrite = torn  # type: ignore[assignment]
        for name in ("fsync", "fdatasync", "ftruncate"):
            setattr(os, name, mortal(real[name]))
        drain = Drain(folder, sink, backend)
        while drain.step(batch):
            pass
    except Killed:
        pass
    finally:
        for name, function in real.items():
            setattr(os, name, function)
        backend.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 25), st.integers(0, 60)), min_size=1, max_size=6))
def test_killed_cut_and_started_again_any_number_of_times(lives: list[tuple[int, int, int]]) -> None:
    home = Path(tempfile.mkdtemp())
    try:
        folder = new_folder(home, {"tensorboard": str(home / "tb")})
        last = 0
        for count, die_at, cut in lives:
            before = folder.spool.stat().st_size if folder.spool.exists() else 0
            last = write(folder, count, last)
            # a power loss takes from the end what no sender has seen; a sent record was flushed before
            os.truncate(folder.spool, max(before, folder.spool.stat().st_size - cut))
            drained(folder, "tensorboard", die_at)
        drained(folder, "tensorboard")
        reader = Reader(folder.spool)
        whole = [p.record.values["loss"] for p in reader.read(10_000)]
        assert in_tensorboard(home / "tb") == whole
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'm.db'}"


def in_mlflow(uri: str, run_id: str) -> list[tuple[int, int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = client.search_runs(
        [client.get_experiment_by_name("p").experiment_id], f"tags.`premortem.spool` = '{run_id}'"
    )
    assert len(found) == 1
    history = client.get_metric_history(found[0].info.run_id, "loss")
    return sorted((m.timestamp, m.step, m.value) for m in history)


@its_own_warnings
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8)), min_size=1, max_size=3))
def test_mlflow_has_each_record_once_though_cursors_are_lost(sqlite: str, lives: list[tuple[int, int]]) -> None:
    home = Path(tempfile.mkdtemp())
    try:
        folder = new_folder(home, {"mlflow": sqlite})
        info = RunInfo(home.name, "p", "run", 1000.0, {"mlflow": sqlite}, {"lr": "0.1"})
        folder.write_run(info)
        last = 0
        for count, die_at in lives:
            last = write(folder, count, last)
            drained(folder, "mlflow", die_at, batch=3)  # dies between the answer and the cursor, too
        drained(folder, "mlflow")
        folder.cursor("mlflow").unlink()
        drained(folder, "mlflow")
        whole = [
            (p.record.milliseconds, p.record.step, p.record.values["loss"]) for p in Reader(folder.spool).read(999)
        ]
        assert in_mlflow(sqlite, info.id) == whole
    finally:
        shutil.rmtree(home)


@its_own_warnings
def test_a_record_that_mlflow_never_takes_is_put_aside_and_the_rest_goes_in(tmp_path: Path, sqlite: str) -> None:
    folder = new_folder(tmp_path, {"mlflow": sqlite})
    folder.write_run(RunInfo("aside", "p", "run", 1000.0, {"mlflow": sqlite}))
    spool = Spool(folder.spool, 0)
    for i in range(9):
        spool.append(2**70 if i == 4 else i, 1000.0 + i, {"loss": float(i), "a*b": 1.0, "a?b": 2.0})
    spool.close()
    drained(folder, "mlflow")
    assert [value for _, _, value in in_mlflow(sqlite, "aside")] == [0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0]
    aside = Reader(folder.rejected("mlflow")).read(10)
    assert [p.record.n for p in aside] == [5]


def workers(folder: Folder) -> Iterator[None]:
    """Starts a worker and kills it, again and again, until one ends by itself."""
    command = [sys.executable, "-m", "premortem.stages.tracking.worker", str(folder.path), "tensorboard"]
    for life in range(16):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(timeout=0.3 * 1.3**life)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            yield
        else:
            assert child.returncode == 0
            return
    raise AssertionError("no worker came to its end")


def test_real_workers_killed_by_the_kernel_lose_and_double_nothing(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, {"tensorboard": str(tmp_path / "tb")})
    last = write(folder, 4000, 0)
    for _ in workers(folder):
        last = write(folder, 200, last)
    assert in_tensorboard(tmp_path / "tb") == [float(i) for i in range(last)]


def test_two_workers_never_send_one_spool(tmp_path: Path) -> None:
    folder = new_folder(tmp_path, {"tensorboard": str(tmp_path / "tb")})
    write(folder, 10, 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nfrom pathlib import Path\n"
         "from premortem.stages.tracking.folder import Folder\n"
         "Folder(Path(sys.argv[1])).hold('tensorboard'); print(flush=True); time.sleep(60)", str(folder.path)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    command = [sys.executable, "-m", "premortem.stages.tracking.worker", str(folder.path), "tensorboard"]
    began = time.monotonic()
    assert subprocess.run(command, check=False).returncode == 3
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert subprocess.run(command, check=False).returncode == 0
    assert len(in_tensorboard(tmp_path / "tb")) == 10
    assert time.monotonic() > began
