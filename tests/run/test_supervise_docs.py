"""The page on the supervisor is run: its files are written, its commands give the exit codes that it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from premortem.run.supervise.options import hands_of, read_config
from premortem.stages.process.handing import Handing, settings_of

PAGE = (Path(__file__).parents[2] / "docs" / "supervise.md").read_text("utf-8")
STEP = re.compile(r"<!-- (file|run): (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


def test_every_example_does_what_the_page_says(tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python").symlink_to(sys.executable)
    (bin_ / "premortem").write_text(f'#!/bin/sh\nexec {sys.executable} -m premortem.app.cli.main "$@"\n')
    (bin_ / "premortem").chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
    environment.pop("PREMORTEM_LEDGER", None)
    said: dict[str, str] = {}
    for kind, name, text in STEP.findall(PAGE):
        if kind == "file":
            (tmp_path / name).write_text(text)
            continue
        ran = subprocess.run(["sh", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True,
                             check=False, timeout=120)  # fmt: skip
        assert ran.returncode == int(name), (text, ran.stderr)
        said[text.split()[-1]] = ran.stdout + ran.stderr
    assert len(said) == 3
    assert "step 90" in said["leak.py"]
    assert "rung: start it again" in said["leak.py"]
    assert "started 3 times" in said["loop.py"]
    assert (tmp_path / "train.json").read_text() == '{"batch_size": 8}\n'


def test_the_table_of_settings_is_the_one_in_the_code(tmp_path: Path) -> None:
    handing = Handing({}, tmp_path, {})
    told = set(re.findall(r"`([A-Z_]{5,})", PAGE))
    for levels in ({"less-memory": 2}, {"offline": 1}, {"cpu": 1}):
        handed = set(handing.environment(levels)) - {"PREMORTEM_SETTINGS", "PYTORCH_ALLOC_CONF"}
        assert handed <= told, handed - told
    assert (settings_of({"less-memory": 2}).micro_batch, settings_of({"less-memory": 2}).accumulate) == (0.25, 4)


def test_the_config_of_the_page_is_read(tmp_path: Path) -> None:
    text = next(text for kind, name, text in STEP.findall(PAGE) if name == "supervise.yaml")
    (tmp_path / "supervise.yaml").write_text(text)
    config = read_config(tmp_path / "supervise.yaml")
    (edit,) = hands_of(config, tmp_path)["less-memory"].edits
    assert (edit.path, edit.scale) == ("batch_size", 0.5)
