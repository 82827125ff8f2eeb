"""``premortem supervise`` as a user meets it: nothing changed for the command, nothing left of it, honest codes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from premortem.app.cli.main import main
from premortem.stages.process.group import LimitedGroup, LimitNotPermitted

CLI = (sys.executable, "-m", "premortem.app.cli.main", "supervise")
PYTHON = (sys.executable, "-I", "-S", "-c")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREMORTEM_LEDGER", raising=False)
    return tmp_path


def call(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*CLI, *words], input=stdin, capture_output=True, check=False, timeout=90)


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the supervisor in the background; what still runs at the end is killed, and with it its command."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen([*CLI, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE))  # fmt: skip
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + 30
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- nothing is changed for the command ------------------------------------------------------------


def test_streams_pass_through_byte_for_byte() -> None:
    raw = bytes(range(256)) * 2000
    code = "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d); sys.stderr.buffer.write(d[::-1])"
    ran = call("-q", "--", *PYTHON, code, stdin=raw)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, raw, raw[::-1])


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_commands_own(code: int) -> None:
    assert call("--restarts", "0", "--", *PYTHON, f"raise SystemExit({code})").returncode == code


def test_a_signal_shows_as_a_shell_shows_it() -> None:
    assert call("--restarts", "0", "--", "sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV


def test_options_of_the_command_are_the_commands() -> None:
    ran = call("-q", sys.executable, "-I", "-c", "import sys; print(sys.argv[1:])", "--json", "--restarts", "9")
    assert ran.stdout.strip() == b"['--json', '--restarts', '9']"


def test_a_good_run_says_nothing_of_its_own() -> None:
    ran = call("--", *PYTHON, "print('only this')")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"only this\n", b"")


def test_a_reader_that_leaves_is_told_to_the_command(here: Path) -> None:
    code = "import sys\ntry:\n  while True: print('y' * 1000)\nexcept BrokenPipeError: open('told', 'w').close(); raise"
    with subprocess.Popen([*CLI, "-q", "--restarts", "0", "--", *PYTHON, code], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as ran:  # fmt: skip
        assert ran.stdout is not None
        ran.stdout.readline()
        ran.stdout.close()
        assert eventually((here / "told").exists)


def test_a_command_whose_reader_has_left_is_not_started_again(here: Path) -> None:
    code = "open('starts', 'a').write('x')\nwhile True: print('y' * 1000)"
    with subprocess.Popen([*CLI, "--every", "50ms", "--backoff", "50ms", "--", *PYTHON, code], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as ran:  # fmt: skip
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.readline()
        ran.stdout.close()
        said = ran.stderr.read()
    assert ran.returncode == 1  # BrokenPipeError, its own
    assert (here / "starts").read_text() == "x"
    assert b"the reader of its output had gone" in said
    assert b"incident" not in said.partition(b"what happened")[0]


def test_output_that_a_full_disk_does_not_take_is_told() -> None:
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([*CLI, "--", "echo", "lost"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=90)
    assert ran.returncode == 0
    assert b"at least 5 bytes of the output could not be passed on (No space left on device)" in ran.stderr


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_nowhere_and_never_the_ledger(here: Path, closed: str) -> None:
    call = f"{' '.join(CLI)} -- sh -c 'echo gone; cat >kept' {closed}"
    assert subprocess.run(call, shell=True, stdin=subprocess.DEVNULL, check=False, timeout=90).returncode == 0
    assert (here / "kept").read_bytes() == b""
    assert subprocess.run([*CLI[:-1], "ledger", "verify"], capture_output=True, check=False).returncode == 0


def test_at_a_terminal_the_command_has_one() -> None:
    master, slave = pty.openpty()
    code = "import os, sys; print([os.isatty(i) for i in (0, 1, 2)]); print(input())"
    with subprocess.Popen([*CLI, "--", *PYTHON, code], stdin=slave, stdout=slave, stderr=slave,
                          start_new_session=True) as ran:  # fmt: skip
        os.close(slave)
        said = b""
        while b"[True, True, True]" not in said:
            said += os.read(master, 1024)
        os.write(master, b"typed\n")
        while said.count(b"typed") < 2:  # the terminal's echo, and the command's own line
            said += os.read(master, 1024)
        assert ran.wait(30) == 0
    os.close(master)


def test_ctrl_z_ctrl_c_and_the_size_of_the_window(here: Path) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    before = termios.tcgetattr(slave)
    code = (
        "import os, time; open('pid', 'w').write(str(os.getpid())); "
        "print(os.get_terminal_size().columns, flush=True); time.sleep(60)"
    )
    words = [*CLI, "--", *PYTHON, code]
    own_terminal = f"import fcntl, os, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv({CLI[0]!r}, {words!r})"
    with subprocess.Popen([sys.executable, "-c", own_terminal], stdin=slave, stdout=slave, stderr=slave,
                          start_new_session=True) as ran:  # fmt: skip
        said = b""
        while b"77\r\n" not in said:
            said += os.read(master, 1024)
        pid = int((here / "pid").read_text())
        os.write(master, b"\x1a")
        assert eventually(lambda: {psutil.Process(p).status() for p in (pid, ran.pid)} == {psutil.STATUS_STOPPED})
        assert termios.tcgetattr(slave) == before
        ran.send_signal(signal.SIGCONT)
        assert eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_SLEEPING)
        os.write(master, b"\x03")
        assert ran.wait(30) == 130
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


# --- the end, as asked -----------------------------------------------------------------------------

WAITS = """
import signal, sys, time
def end(number, frame):
    open("heard", "w").write(str(number)); sys.exit(9)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1): signal.signal(number, end)
open("ready", "w").close()
while True: time.sleep(0.05)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_the_users_signal_ends_it_and_nothing_starts_it_again(here: Path, begin, number: signal.Signals) -> None:
    supervisor = begin("--", *PYTHON, WAITS)
    assert eventually((here / "ready").exists)
    supervisor.send_signal(number)
    assert supervisor.wait(30) == 9
    assert (here / "heard").read_text() == str(int(number))


def test_a_killed_supervisor_takes_its_command_along(here: Path, begin) -> None:
    code = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nwhile True: time.sleep(1)"
    supervisor = begin("--grace", "1s", "--", "sh", "-c", f'{sys.executable} -I -S -c "{code}" & wait')
    assert eventually(lambda: (here / "pid").exists() and (here / "pid").read_text() != "")
    pid = int((here / "pid").read_text())
    assert is_alive(pid)
    supervisor.kill()
    assert eventually(lambda: not is_alive(pid))


def test_a_supervisor_that_was_killed_goes_on_counting(here: Path, begin) -> None:
    code = "open('starts', 'a').write('x'); raise SystemExit('always the same')"
    command = ("--every", "50ms", "--", *PYTHON, code)
    supervisor = begin("--backoff", "60s", *command)
    assert eventually(lambda: (here / "starts").exists() and (here / "starts").read_text() == "xx")
    time.sleep(1.0)  # the second ending is noted at the next look
    supervisor.kill()
    supervisor.wait()
    ran = call("--backoff", "50ms", *command)
    assert ran.returncode == 125
    assert (here / "starts").read_text() == "xxx"
    assert b"2 starts are remembered" in ran.stderr


# --- what happened ---------------------------------------------------------------------------------


def test_what_happened_is_in_the_ledger_and_in_the_summary(here: Path) -> None:
    code = "raise SystemExit('RuntimeError: NaN loss at step 3')"
    ran = call("--every", "50ms", "--backoff", "50ms", "--summary", "sum.json", "--", *PYTHON, code)
    assert ran.returncode == 125
    summary = json.loads((here / "sum.json").read_text())
    assert (summary["verdict"], summary["exit_code"], summary["starts"]) == ("given up", 125, 3)
    listed = subprocess.run([*CLI[:-1], "incidents", "list", "--json"], capture_output=True, check=True)
    (incident,) = json.loads(listed.stdout)
    assert (incident["entry"], incident["verdict"]) == ("SUP-2", "handed over")
    assert subprocess.run([*CLI[:-1], "ledger", "verify"], capture_output=True, check=False).returncode == 0


def test_with_json_stdout_is_the_summary_alone() -> None:
    ran = call("--json", "--", *PYTHON, "print('of the command')")
    assert json.loads(ran.stdout)["verdict"] == "ended well"
    assert b"of the command" in ran.stderr


def test_settings_reach_a_program_and_its_own_files_are_put_back(here: Path) -> None:
    (here / "train.json").write_text('{"batch_size": 8}')
    (here / "sup.yaml").write_text(
        "settings:\n  less-memory:\n    environment: {MY_BATCH: 4}\n"
        "    edits: [{file: train.json, path: batch_size, scale: 0.5}]\n"
    )
    code = (
        "import json, os, sys; size = json.load(open('train.json'))['batch_size']; "
        "given = json.load(open(os.environ['PREMORTEM_SETTINGS'])) if 'PREMORTEM_SETTINGS' in os.environ else {}; "
        "print(size, os.environ.get('MY_BATCH'), os.environ.get('MALLOC_ARENA_MAX'), given.get('accumulate')); "
        "sys.exit(0 if size < 8 else 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB')"
    )
    ran = call("--every", "50ms", "--config", "sup.yaml", "--", *PYTHON, code)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split(b"\n")[:2] == [b"8 None None None", b"4 4 2 2"]  # no headway: less at once
    assert (here / "train.json").read_text() == '{"batch_size": 8}'
    assert not list(here.glob("**/settings.json"))


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "found no command"),
        (["--", "no-such-command"], "does not exist here"),
        (["--", "/etc/hostname"], "cannot be executed"),
        (["--memory-limit", "600Q", "--", "true"], "--memory-limit: found '600Q'"),
        (["--memory-limit", "120%", "--", "true"], "at most 100 %"),
        (["--memory-limit", "100K", "--", "true"], "expected at least 1M"),
        (["--summary", "nowhere/s.json", "--", "false"], "nothing was started"),
        (["--ledger", "bad.yaml/l.db", "--", "false"], "bad.yaml/l.db"),
        (["--heartbeat", "soon", "--", "true"], "--heartbeat: found 'soon'"),
        (["--restarts", "-1", "--", "true"], "--restarts: found -1"),
        (["--limit-by", "magic", "--", "true"], "expected one of auto, group, watching"),
        (["--limit-by", "group", "--", "true"], "found no --memory-limit"),
        (["--watch-disk", "nowhere", "--", "true"], "no folder here"),
        (["--progress", "step", "--", "true"], "expected a group"),
        (["--config", "none.yaml", "--", "true"], "cannot be read"),
        (["--config", "bad.yaml", "--", "true"], "bad.yaml"),
        (["--config", "typo.yaml", "--", "true"], "less-memori"),
        (["--config", "risk.yaml", "--", "true"], "expected one of process/crash-loop"),
        (["--register", "none", "--", "true"], "none"),
        (["--register", "default", "--", "true"], "no active entry that watches a command"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_clear_line(here: Path, capfd, words: list[str], found: str) -> None:
    (here / "bad.yaml").write_text("settings: [")
    (here / "typo.yaml").write_text("settings: {less-memori: {}}")
    (here / "risk.yaml").write_text("params: {process/crash-lop: {same_endings: 2}}")
    with pytest.raises(SystemExit) as left:
        main(["supervise", *words])
    said = capfd.readouterr().err
    assert left.value.code == 2
    assert found in said
    assert said.count("\n") == 1


def test_a_limit_that_the_rights_do_not_allow_is_refused_where_it_was_insisted_on() -> None:
    ran = call("--memory-limit", "200M", "--limit-by", "group", "--", "true")
    try:
        LimitedGroup(200 << 20).close()
    except LimitNotPermitted:
        assert ran.returncode == 2
        assert b"--limit-by group" in ran.stderr
    else:
        assert ran.returncode == 0
        assert b"kept by the kernel" in ran.stderr
