"""Damaged files: read by others as damaged, and byte for byte back afterwards."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.core.errors import ConfigError
from premortem.faults.fault import RemovalFailed
from premortem.faults.files import BitFlip, DamagedFile, MissingFile, Truncation, restore_orphans


def make(kind: str, path: Path) -> DamagedFile:
    return {
        "flip": lambda: BitFlip(path, seed=3),
        "cut": lambda: Truncation(path),
        "missing": lambda: MissingFile(path),
    }[kind]()


def leftovers() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"premortem-original-{os.getpid()}-*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "weights.bin"
    target.write_bytes(os.urandom(5000))
    target.chmod(0o640)
    return target


@pytest.mark.parametrize("raised", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["flip", "cut", "missing"])
def test_the_damage_is_on_disk_while_on_and_the_bytes_return(path, kind, raised) -> None:
    before, state = path.read_bytes(), path.stat()
    fault = make(kind, path)
    with pytest.raises(raised) if raised else nullcontext(), fault:
        assert fault.observed().holds
        assert fault.gone().holds is False
        assert (path.read_bytes() if path.exists() else None) != before
        if raised:
            raise raised
    assert path.read_bytes() == before
    assert (path.stat().st_mode, path.stat().st_mtime_ns) == (state.st_mode, state.st_mtime_ns)
    assert fault.observed().holds
    assert fault.gone().holds
    assert leftovers() == []


@given(content=st.binary(min_size=1, max_size=300), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_exactly_one_bit_flips_for_any_content_and_seed(content: bytes, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(content)
        with BitFlip(path, seed):
            flipped = path.read_bytes()
        differing = int.from_bytes(content, "big") ^ int.from_bytes(flipped, "big")
        assert differing.bit_count() == 1
        assert path.read_bytes() == content


def test_a_truncated_checkpoint_cannot_be_loaded_and_afterwards_can(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(1000)}, path)
    with Truncation(path, keep=0.6), pytest.raises((RuntimeError, OSError)):
        torch.load(path)
    assert torch.equal(torch.load(path)["w"], torch.arange(1000))


def test_hard_links_see_the_flip_and_the_return(path: Path) -> None:
    twin = path.with_name("twin")
    os.link(path, twin)
    before = twin.read_bytes()
    with BitFlip(path, 0):
        assert twin.read_bytes() != before
    assert twin.read_bytes() == before


@pytest.mark.parametrize("kind", ["flip", "cut", "missing"])
def test_a_file_that_the_workload_repaired_meanwhile_is_not_overwritten(path: Path, kind: str) -> None:
    with make(kind, path) as fault:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(b"repaired")
        fresh.replace(path)
    assert path.read_bytes() == b"repaired"
    assert fault.gone().holds
    assert leftovers() == []


def test_a_file_rewritten_in_place_is_left_alone_and_inconclusive(path: Path) -> None:
    with BitFlip(path, 0) as fault:
        path.write_bytes(b"something else")
    assert path.read_bytes() == b"something else"
    assert fault.gone().holds is None


def test_a_flip_that_is_left_behind_is_seen_by_gone(path: Path) -> None:
    class Sticky(BitFlip):
        def _put_back(self, backup: Path) -> None:
            pass

    fault = Sticky(path, 0)
    with pytest.raises(RemovalFailed, match="not its original"), fault:
        pass
    assert fault.gone().holds is False
    BitFlip._put_back(fault, fault._backup)
    fault.remove()
    assert fault.gone().holds


def test_a_damage_that_did_nothing_is_not_observed(path: Path) -> None:
    class Idle(Truncation):
        def _damage(self) -> str:
            return "nothing"

    with Idle(path) as fault:
        pass
    assert fault.observed().holds is False


def test_a_damage_that_breaks_half_way_is_undone(path: Path) -> None:
    class Broken(Truncation):
        def _damage(self) -> str:
            super()._damage()
            raise OSError("half way")

    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(OSError, match="half way"), Broken(path):
        pass
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_what_is_no_file_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for wrong in (tmp_path, tmp_path / "none", tmp_path / "empty"):
        fault = MissingFile(wrong)
        with pytest.raises(ConfigError, match="not a file with content"), fault:
            pass
        assert fault.observed().holds is None
        assert fault.gone().holds is None
    with pytest.raises(ConfigError, match="expected a share"):
        Truncation(tmp_path / "empty", keep=1)
    shutil.rmtree(tmp_path)


KILLED = """
import os, signal, sys
from premortem.faults.files import BitFlip, MissingFile, Truncation
for kind, path in zip((lambda p: BitFlip(p, 0), Truncation, MissingFile), sys.argv[1:]):
    kind(path).__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_drill_damaged_is_put_back_unless_rewritten_since(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("flipped", "cut", "missing")]
    for path in paths:
        path.write_bytes(b"original")
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, paths)])
    assert done.returncode == -signal.SIGKILL
    assert not paths[2].exists()
    assert b"original" not in (paths[0].read_bytes(), paths[1].read_bytes())
    paths[1].write_bytes(b"rewritten")
    assert set(restore_orphans()) >= {paths[0], paths[2]}
    assert [path.read_bytes() for path in paths] == [b"original", b"rewritten", b"original"]
    assert not set(restore_orphans()) & set(paths)


def test_faults_of_files_disks_and_processes_load_no_tensor_library() -> None:
    code = (
        "import sys; from premortem.faults import disk, files, process; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
