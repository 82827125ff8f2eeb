"""Preflight checks on real folders, limits, packages, tools: each answers in rows, and unknown is not ok."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from premortem.core.errors import ConfigError
from premortem.core.evidence import Record
from premortem.ledger.ledger import Ledger
from premortem.registers.load import load_register
from premortem.run.gate import fingerprint_of
from premortem.run.preflight.checks import STAGES, run_checks
from premortem.run.preflight.row import Asked, Row


def rows(stage: str, **asked: object) -> dict[str, Row]:
    return {row.what: row for row in run_checks([stage], Asked(**asked))[stage]}  # type: ignore[arg-type]


def only(found: dict[str, Row], start: str) -> Row:
    (row,) = [row for what, row in found.items() if what.startswith(start)]
    return row


def test_an_unknown_stage_is_a_mistake_with_the_closest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'storage'"):
        run_checks(["storag"], Asked())
    assert {"storage", "data", "memory", "devices", "dependencies", "trackers", "runbooks", "flags"} <= {*STAGES}


# --- storage -------------------------------------------------------------------------------------


def test_storage_is_really_written_and_leaves_nothing_behind(tmp_path: Path) -> None:
    found = rows("storage", folder=tmp_path / "a" / "ckpt", ledger=tmp_path / "b" / "ledger.db", need_gb=1e-6)
    assert {row.state for row in found.values()} == {"ok"}, found
    assert [*tmp_path.iterdir()] == []


def test_a_need_that_does_not_fit_one_and_a_half_times_is_not_ok(tmp_path: Path) -> None:
    row = only(rows("storage", folder=tmp_path, need_gb=1e9), "free space")
    assert row.state == "not ok"
    assert "1.5 ×" in row.expected
    unasked = rows("storage", folder=tmp_path)["need of the next phase"]
    assert (unasked.state, unasked.do) == ("not asked", "--need-gb GIB")


@pytest.mark.parametrize("need", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_need_is_a_mistake(need: float) -> None:
    with pytest.raises(ConfigError, match="--need-gb"):
        rows("storage", need_gb=need)
    with pytest.raises(ConfigError, match="--memory-gb"):
        rows("memory", memory_gb=need)


def test_a_place_that_takes_no_file_is_not_ok(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    found = rows("storage", folder=Path("/proc/nowhere"), ledger=Path("/proc/nowhere/ledger.db"))
    assert only(found, "checkpoint folder").state == "not ok"
    assert only(found, "ledger").state == "not ok"
    assert only(rows("storage", folder=tmp_path / "file" / "x"), "checkpoint folder").state == "not ok"


def test_a_limit_on_the_size_of_files_shows_when_it_is_tried(tmp_path: Path) -> None:
    code = (
        "import resource, signal\nfrom pathlib import Path\n"
        "from premortem.run.preflight.checks import run_checks\nfrom premortem.run.preflight.row import Asked\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"rows = run_checks(['storage'], Asked(folder=Path({str(tmp_path)!r}), ledger=Path({str(tmp_path)!r})))\n"
        "print(*(row.state for row in rows['storage'] if row.what.startswith(('checkpoint', 'ledger'))), sep=',')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "not ok,not ok"


# --- memory, devices -----------------------------------------------------------------------------


def test_room_is_what_the_tightest_limit_leaves() -> None:
    code = (
        "import resource\nfrom premortem.run.preflight.checks import run_checks\n"
        "from premortem.run.preflight.row import Asked\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "for need in (0.5, 8.0):\n"
        "    row = run_checks(['memory'], Asked(memory_gb=need))['memory'][0]\n"
        "    print(row.state, row.found, sep='|')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fits, not_fits = ran.stdout.strip().splitlines()
    assert not_fits.startswith("not ok|")
    assert "RLIMIT_AS" in fits or fits.startswith("not ok")  # a machine with less than 3 GiB has another limit
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 3 << 30


def test_a_need_is_asked_of_the_device_and_not_of_the_host_where_a_device_is_named() -> None:
    assert "1.00 GiB" in rows("memory", memory_gb=1e6, device="cuda")["room on the host"].expected
    assert rows("memory", memory_gb=1e6)["room on the host"].state == "not ok"


def test_a_device_that_is_not_there_is_not_ok_and_none_at_all_is_the_cpu(monkeypatch) -> None:
    assert rows("devices", device="cpu")["devices"].state == "ok"
    assert only(rows("devices", device="cuda:99"), "device").state in ("not ok", "unknown")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "CPU" in rows("devices")["devices"].found
    with pytest.raises(ConfigError, match="cuda:N"):
        rows("devices", device="gpu0")


TOOL = """#!/bin/sh
case "$1" in
  *compute-apps*) {apps} ;;
  *) {gpus} ;;
esac
"""


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, apps: str = "true") -> None:
    """A driver's tool that answers as the real one does; only the tool can be had without the hardware."""
    tool = folder / "nvidia-smi"
    tool.write_text(TOOL.format(gpus=gpus, apps=apps))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_free_memory_and_errors_are_the_drivers_word(tmp_path: Path, monkeypatch) -> None:
    two = "echo '0, GPU-a, H, 81920, 1024, 80896, 0, No, No'; echo '1, GPU-b, H, 81920, 81000, 920, 3, No, No'"
    driver(tmp_path, monkeypatch, two, "echo 'GPU-a, 4711, 80000'")
    found = rows("devices", device="cuda", memory_gb=10.0)
    assert [row.state for row in found.values()] == ["ok", "not ok", "not ok", "ok"]
    assert "4711" in found["cuda:0 H: free memory"].found
    assert "ECC" in found["cuda:1 H: health"].found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert {what.split()[0] for what in rows("devices", device="cuda:0")} == {"cuda:1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "only the CPU" in only(rows("devices", device="cuda"), "device").found


def test_a_driver_that_fails_is_unknown_and_not_a_missing_device(tmp_path: Path, monkeypatch) -> None:
    driver(tmp_path, monkeypatch, "echo 'Driver/library version mismatch'; exit 18")
    assert rows("devices")["devices"].state == "unknown"


# --- dependencies --------------------------------------------------------------------------------


def test_what_is_installed_fits_what_the_package_asks_for() -> None:
    found = rows("dependencies")
    assert found["Python"].state == found["the package itself"].state == "ok"
    assert rows("dependencies", extras=("train",))["extra train"].state == "ok"
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        rows("dependencies", extras=("trian",))


def test_a_missing_or_old_package_and_a_conflict_are_found(tmp_path: Path) -> None:
    """Packages that stand before the installed ones on the path: an old torch-like need, and one that conflicts."""

    def package(name: str, version: str, *needs: str) -> None:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Requires-Dist: {need}" for need in needs]
        (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}",
                                                    *lines, "", ""]))  # fmt: skip

    package("msgspec", "0.1.0")
    package("rich", "14.0.0", "psutil>=99", "no-such-package-at-all>=1")
    code = (
        "from premortem.run.preflight.checks import run_checks\nfrom premortem.run.preflight.row import Asked\n"
        "rows = run_checks(['dependencies'], Asked())['dependencies']\n"
        "for row in rows: print(row.what, row.state, row.found, sep='|')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONPATH": str(tmp_path)})  # fmt: skip
    said = {line.split("|")[0]: line for line in ran.stdout.splitlines()}
    assert "not ok|msgspec 0.1.0, needs >=0.19" in said["the package itself"]
    conflicts = said["packages among themselves"]
    assert "rich needs psutil >=99, found" in conflicts
    assert "rich needs no-such-package-at-all, which is missing" in conflicts


# --- registers, runbooks, flags ------------------------------------------------------------------


def test_registers_of_the_box_bind_and_a_bad_one_says_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("schema: premortem/v1\nregister: x\n")
    found = rows("registers", register=str(tmp_path / "bad.yaml"))
    first, *others = [row.state for row in found.values()]
    assert first == "not ok"
    assert {*others} == {"ok"}
    assert "bad.yaml" in next(iter(found.values())).found


def test_a_proof_is_unknown_when_missing_ok_when_fresh_and_not_ok_when_stale(tmp_path: Path) -> None:
    place = tmp_path / "ledger.db"
    assert rows("runbooks", ledger=place)["DEF-1 proof"].state == "unknown"
    entry = load_register("default").entries[0]
    now = fingerprint_of(entry)
    fresh = {"verdict": "proven", "seeds": 3, "policy": now.policy, "files": dict(now.files)}
    old = {**fresh, "policy": "0" * 64}
    for data, state in ((old, "not ok"), (fresh, "ok"), ({**fresh, "verdict": "not proven"}, "not ok")):
        ledger = Ledger.open(place)
        ledger.append(Record("proof", "DEF-1", None, 0, 0.0, data))
        ledger.close()
        assert rows("runbooks", ledger=place)["DEF-1 proof"].state == state
    assert rows("runbooks", ledger=place)["DEF-1 runbook of train/divergence"].state == "ok"


def test_a_ledger_that_cannot_be_read_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database" * 100)
    assert rows("runbooks", ledger=tmp_path / "ledger.db")["DEF-1 proof"].state == "unknown"


def test_what_is_planned_and_what_is_not_built_is_said() -> None:
    (flags,) = run_checks(["flags"], Asked(register="ultrathink"))["flags"]
    assert flags.state == "not asked"
    planned = [row for row in rows("runbooks", register="ryzanstein").values() if "planned" in row.found]
    assert planned
    assert all(row.passes for row in planned)
