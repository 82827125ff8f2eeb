"""A hub on loopback with small sets."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from premortem.faults.hub import LocalHub

sys.path.insert(0, str(Path(__file__).parent))

from data_world import ROWS, write_lines, write_parquet


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    root = tmp_path / "hub"
    write_parquet(root / "openai/gsm8k/main/train-00000-of-00002.parquet", ROWS[:30])
    write_parquet(root / "openai/gsm8k/main/train-00001-of-00002.parquet", ROWS[30:])
    write_parquet(root / "openai/gsm8k/main/test-00000-of-00001.parquet", ROWS[:5])
    write_parquet(root / "openai/gsm8k/socratic/train-00000-of-00001.parquet", ROWS[:7])
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        f"  - split: test\n    path: {name}/test-*\n"
        for name in ("main", "socratic")
    )
    (root / "openai/gsm8k/README.md").write_text(f"---\nconfigs:\n{configs}---\n# arithmetic\n")
    write_lines(root / "owner/lines/train.jsonl.gz", ROWS)
    write_lines(root / "owner/small/train.json", ROWS)
    with LocalHub(root) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield running
