"""Where memory is too short for the flushing thread, the ledger goes on in its caller, and signals are heard."""

import json
import signal
import subprocess
import sys
import time

from premortem.ledger import Ledger
from premortem.ledger.query import readings

# 4 MiB of private memory are left: a thread's stack alone takes 8
JOB = """
import json, os, resource, sys, time
from pathlib import Path
from premortem.ledger import Ledger
from premortem.ledger.query import readings
path = Path(sys.argv[1])
ledger = Ledger.open(path, run="r")
data = next(int(r.split()[1]) for r in Path("/proc/self/status").read_text().splitlines() if r.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, ((data << 10) + (4 << 20),) * 2)
ledger.note_readings(1, {"loss": 1.0})
time.sleep(0.6)
ledger.note_readings(2, {"loss": 2.0})
print(json.dumps([row.value for row in readings(path, "loss", None)]), flush=True)
while True:
    ledger.note_readings(3, {"loss": 3.0})
    time.sleep(0.05)
"""


def test_readings_are_written_without_a_thread_and_sigterm_ends_the_process(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path / "ledger.db")], stdout=subprocess.PIPE, text=True
    ) as job:  # fmt: skip
        try:
            written = json.loads(job.stdout.readline())
            job.send_signal(signal.SIGTERM)
            assert job.wait(30) == -signal.SIGTERM
        finally:
            job.kill()
    assert written == [1.0, 2.0]


def test_a_thread_that_never_says_it_runs_does_not_hold_up_the_first_reading(tmp_path, monkeypatch):
    import _thread

    from premortem.machine import threads

    start = _thread.start_new_thread
    monkeypatch.setattr(_thread, "start_new_thread", lambda body, args: start(lambda: None, ()))
    monkeypatch.setattr(threads.begin, "__defaults__", (0.05,))
    with Ledger.open(tmp_path / "ledger.db", run="r") as ledger:
        ledger.note_readings(1, {"loss": 1.0})
        deadline = time.monotonic() + 30
        tick = 2
        while not (written := list(readings(tmp_path / "ledger.db", "loss", None))) and time.monotonic() < deadline:
            ledger.note_readings(tick, {"loss": 1.0})
            tick += 1
        assert written[0].tick == 1
