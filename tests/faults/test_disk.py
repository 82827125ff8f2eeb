"""Disks that refuse: where this user may not mount, the refusal itself must be one clear line."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from premortem.core.errors import ConfigError, StageError
from premortem.faults.disk import FileSizeLimit, FilledDisk, FullTmpfs, clean_ballast, clean_mounts
from premortem.faults.fault import NotPermitted, RemovalFailed
from premortem.faults.mounts import tmpfs_mounts

MIB = 1 << 20


def may_mount() -> bool:
    """CAP_SYS_ADMIN (bit 21) in the effective set, as the kernel tells it."""
    status = Path("/proc/self/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    return bool(int(mask, 16) >> 21 & 1)


@contextmanager
def either_refused_clearly() -> Iterator[None]:
    """Where mounting is not allowed, the test is about the refusal."""
    if may_mount():
        yield
        return
    with pytest.raises(NotPermitted, match="run the drill as root or with CAP_SYS_ADMIN") as caught:
        yield
    assert "\n" not in str(caught.value)


def my_mounts() -> list[Path]:
    return [m.folder for m in tmpfs_mounts() if m.source.startswith(f"premortem-tmpfs-{os.getpid()}-")]


def is_mounted(folder: Path) -> bool:
    return folder in [m.folder for m in tmpfs_mounts()]


def my_folders() -> list[str]:
    return [n for n in os.listdir(tempfile.gettempdir()) if n.startswith(f"premortem-tmpfs-{os.getpid()}-")]


def test_a_full_tmpfs_makes_torch_save_fail_with_no_space() -> None:
    with either_refused_clearly(), FullTmpfs(2 * MIB) as fault:
        assert fault.folder in my_mounts()
        assert os.statvfs(fault.folder).f_bavail == 0
        with (
            pytest.raises((OSError, RuntimeError)) as caught,
            (fault.folder / "model.pt").open("wb") as stream,
        ):
            torch.save({"w": torch.zeros(100_000)}, stream)
        errors = [caught.value, caught.value.__context__]
        assert any(getattr(error, "errno", None) == errno.ENOSPC for error in errors), errors
        assert fault.observed().holds
        assert fault.gone().holds is False
    if may_mount():
        assert fault.observed().holds
        assert fault.gone().holds
    assert my_mounts() == []
    assert my_folders() == []


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_no_mount_stays_when_the_body_raises(raised: type[BaseException]) -> None:
    fault = FullTmpfs(MIB)
    with either_refused_clearly():
        try:
            with fault:
                raise raised
        except raised:
            assert may_mount()
    assert my_mounts() == []
    assert my_folders() == []
    assert fault.gone().holds


def test_a_tmpfs_is_filled_and_freed_when_the_drill_says_so() -> None:
    with either_refused_clearly(), FullTmpfs(2 * MIB, leave_bytes=None) as fault:
        assert fault.observed().holds is False
        (fault.folder / "before").write_bytes(bytes(MIB // 2))
        fault.fill(leave_bytes=64 * 1024)
        (fault.folder / "fits").write_bytes(bytes(60 * 1024))
        with pytest.raises(OSError, match="No space left"):
            (fault.folder / "too much").write_bytes(bytes(64 * 1024))
        fault.free()
        (fault.folder / "again").write_bytes(bytes(MIB))
        assert fault.observed().holds


def test_open_files_do_not_keep_the_mount() -> None:
    with either_refused_clearly():
        with FullTmpfs(MIB, leave_bytes=None) as fault:
            stream = (fault.folder / "open").open("wb")
        stream.close()
        assert fault.gone().holds


def test_a_mount_left_behind_is_seen_by_gone() -> None:
    class Sticky(FullTmpfs):
        def _undo(self) -> None:
            pass

    with either_refused_clearly():
        fault = Sticky(MIB)
        try:
            with fault:
                pass
            assert fault.gone().holds is False
        finally:
            FullTmpfs._undo(fault)
        assert fault.gone().holds


def test_a_mount_that_cannot_go_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.EBUSY, "busy", str(folder))

    with either_refused_clearly():
        fault = FullTmpfs(MIB, leave_bytes=None).__enter__()
        monkeypatch.setattr("premortem.faults.disk.unmount", refuse)
        with pytest.raises(RemovalFailed, match="busy"):
            fault.remove()
        assert fault.gone().holds is False
        monkeypatch.undo()
        fault.remove()
        assert fault.gone().holds


KILLED = """
import os, signal, sys
from premortem.faults.disk import FilledDisk, FullTmpfs
from premortem.faults.fault import NotPermitted
try:
    fault = FullTmpfs(1 << 20)
    fault.__enter__()
except NotPermitted as error:
    sys.exit(str(error))
print(fault.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_drill_left_is_found_and_cleaned() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    if not may_mount():
        assert done.returncode == 1
        assert "CAP_SYS_ADMIN" in done.stderr
        return
    assert done.returncode == -signal.SIGKILL
    folder = Path(done.stdout.strip())
    assert is_mounted(folder)
    assert clean_ballast(folder) != [], "the ballast of a dead process"
    assert list(folder.iterdir()) == []
    assert folder in clean_mounts()
    assert not folder.exists()
    assert folder not in clean_mounts()


def test_the_next_fault_cleans_the_mount_of_a_killed_one() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    with either_refused_clearly(), FullTmpfs(MIB) as fault:
        assert my_mounts() == [fault.folder]
        assert done.returncode == -signal.SIGKILL
        left = Path(done.stdout.strip())
        assert not is_mounted(left)
        assert not left.exists()


NO_RIGHTS = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from premortem.faults.disk import FullTmpfs
from premortem.faults.fault import NotPermitted
fault = FullTmpfs(1 << 20)
try:
    with fault: pass
except NotPermitted as error:
    print(error)
    print(fault.observed().holds, os.path.exists(fault.folder))
"""


def test_a_user_without_rights_gets_one_clear_line() -> None:
    if not may_mount():  # this very process has no rights: the other tests here assert its refusal
        with either_refused_clearly(), FullTmpfs(MIB):
            pass
        return
    code = f"import premortem.faults.disk, psutil\n{NO_RIGHTS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("full tmpfs: mounting at ")
    assert lines[0].endswith("run the drill as root or with CAP_SYS_ADMIN")
    assert lines[1] == "False False"


def test_a_given_file_system_is_filled_and_comes_back() -> None:
    with either_refused_clearly(), FullTmpfs(2 * MIB, leave_bytes=None) as disk:
        before = os.statvfs(disk.folder).f_bavail
        for raised in (ValueError, KeyboardInterrupt):
            fault = FilledDisk(disk.folder, leave_bytes=16 * 1024)
            with pytest.raises(raised), fault:  # noqa: PT012
                state = os.statvfs(disk.folder)
                assert state.f_bavail * state.f_frsize == 16 * 1024
                assert fault.observed().holds
                assert fault.gone().holds is False
                raise raised
            assert fault.gone().holds
            assert os.statvfs(disk.folder).f_bavail == before
            assert list(disk.folder.iterdir()) == []


def test_a_disk_that_others_filled_meanwhile_is_inconclusive() -> None:
    with either_refused_clearly(), FullTmpfs(MIB, leave_bytes=None) as disk:
        with FilledDisk(disk.folder) as fault:
            pass
        with FilledDisk(disk.folder):
            assert fault.gone().holds is None
        assert fault.gone().holds


def test_the_machines_own_disk_is_not_filled_by_mistake(tmp_path: Path) -> None:
    fault = FilledDisk(tmp_path, at_most=4096)
    with pytest.raises(ConfigError, match="at_most allows 4096"), fault:
        pass
    assert list(tmp_path.iterdir()) == []
    assert fault.observed().holds is None
    with pytest.raises(ConfigError, match="expected 0 or more"):
        FilledDisk(tmp_path, -1)


def run_child(body: str) -> str:
    """FileSizeLimit hits a whole process, so it gets one of its own."""
    head = """
        import os, resource, signal, sys, tempfile, errno
        from premortem.faults.disk import FileSizeLimit
        path = os.path.join(tempfile.mkdtemp(), "f")
        def write(num):
            with open(path, "wb", buffering=0) as stream:
                stream.truncate(0)
                done = 0
                while done < num: done += os.write(stream.fileno(), bytes(num - done))
    """
    code = textwrap.dedent(head) + textwrap.dedent(body) + "\nimport shutil; shutil.rmtree(os.path.dirname(path))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("raised", ["None", "ValueError", "KeyboardInterrupt"])
def test_a_file_cannot_grow_beyond_the_limit_and_afterwards_can(raised: str) -> None:
    body = f"""
        raised, before = {raised}, resource.getrlimit(resource.RLIMIT_FSIZE)
        fault = FileSizeLimit(10_000)
        try:
            with fault:
                write(10_000)
                try: write(10_001)
                except OSError as error: print(errno.errorcode[error.errno])
                assert os.path.getsize(path) == 10_000
                assert fault.observed().holds and fault.gone().holds is False
                if raised: raise raised
        except (ValueError, KeyboardInterrupt) as error: assert type(error) is raised
        write(10_001)
        assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
        assert fault.observed().holds and fault.gone().holds
    """
    assert run_child(body) == "EFBIG"


def test_a_process_that_would_die_of_sigxfsz_gets_the_error_instead() -> None:
    body = """
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with FileSizeLimit(100) as fault: assert fault.observed().holds
        print(signal.getsignal(signal.SIGXFSZ) == signal.SIG_DFL)
    """
    assert run_child(body) == "True"


def test_a_limit_left_behind_is_seen_by_gone() -> None:
    body = """
        class Sticky(FileSizeLimit):
            def _undo(self): pass
        with Sticky(100) as fault: pass
        print(fault.gone().holds)
    """
    assert run_child(body) == "False"


def test_a_limit_above_the_hard_one_is_not_permitted() -> None:
    body = """
        from premortem.faults.fault import NotPermitted
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try: FileSizeLimit(60_000).__enter__()
        except NotPermitted as error: print(error)
    """
    assert run_child(body) == "file size limit: 60000 is above the hard limit 50000; ask for less"


def test_this_process_was_never_limited() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with pytest.raises(ConfigError, match="expected 0 or more"):
        FileSizeLimit(-1)
    assert issubclass(NotPermitted, StageError)
