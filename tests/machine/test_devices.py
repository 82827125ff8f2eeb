"""Devices by the driver's tool: the real one where there is one, and programs that answer in its form or fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from premortem.machine.devices import Device, Devices, devices

MIB = 1 << 20


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(script: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return write


def test_without_a_driver_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices() == Devices()


def test_the_driver_of_this_machine_answers_or_is_not_there() -> None:
    found = devices()
    assert found.trouble == "" or not found.found
    assert all(device.total is None or device.total > 0 for device in found.found)


def test_memory_users_and_errors_are_read(tool) -> None:
    tool(
        'case "$1" in *compute-apps*) echo "GPU-b, 4711, 1024"; echo "GPU-b, 4712, [N/A]";;\n'
        '*) echo "0, GPU-a, NVIDIA A100-SXM4-80GB, 81920, 81000, 920, 0, No, No";\n'
        '   echo "1, GPU-b, NVIDIA A100-SXM4-80GB, 81920, 1000, 80920, 3, Yes, No";\n'
        '   echo "2, GPU-c, NVIDIA GeForce GTX 1080, 8192, [N/A], 10, [N/A], [N/A], [N/A]";; esac'
    )
    healthy, ill, old = devices().found
    assert healthy == Device(0, "NVIDIA A100-SXM4-80GB", 81920 * MIB, 81000 * MIB, 920 * MIB)
    assert ill.used_by == {4711: 1024 * MIB, 4712: None}
    assert len(ill.errors) == 2
    assert (old.free, old.errors) == (None, ())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
            "could not comm",
        ),
        ("exec sleep 30", "hangs"),
        ("echo something else", "form"),
    ],
)
def test_a_driver_that_is_broken_is_said(tool, script: str, said: str) -> None:
    tool(script)
    found = devices(timeout_s=0.5)
    assert found.found == ()
    assert said in found.trouble


def test_a_driver_without_devices_is_no_trouble(tool) -> None:
    tool("echo 'No devices were found'; exit 6")
    assert devices() == Devices()
