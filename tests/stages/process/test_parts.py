"""Growth, sizes, settings, edits of a user's files, progress."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from premortem.core.errors import ConfigError
from premortem.stages.process.edits import Edit, EditedFiles
from premortem.stages.process.growth import Growth
from premortem.stages.process.progress import Progress
from premortem.stages.process.settings import VARIABLE, Settings, settings, write_settings
from premortem.stages.process.sizes import in_words, parse_seconds, parse_size

# --- growth --------------------------------------------------------------------------------------


def grown(values: list[float], every: float = 0.25) -> Growth:
    growth = Growth()
    for i, value in enumerate(values):
        growth.take(i * every, value)
    return growth


@given(pace=st.floats(1e3, 1e9), start=st.floats(0, 1e9))
def test_a_steady_leak_is_told_to_the_second(pace: float, start: float) -> None:
    growth = grown([start + pace * 0.25 * i for i in range(40)])
    now = start + pace * 0.25 * 39
    assert growth.seconds_to(now + 5 * pace) == pytest.approx(5 if now >= 0.5 * (now + 5 * pace) else math.inf)


@pytest.mark.parametrize(
    "values",
    [
        [100.0] * 40,
        [0.0] * 20 + [900.0] * 20,  # a model is loaded
        [float(i * 45) for i in range(20)] + [900.0] * 20,  # and then its memory is what it needs
        [500.0 + 400 * (i % 4) / 3 for i in range(40)],  # up and down with each batch
        [900.0 - i for i in range(40)],
        [900.0],
        [],
    ],
)
def test_a_level_a_jump_and_a_wave_are_no_leak(values: list[float]) -> None:
    assert grown(values).seconds_to(1000.0) == math.inf


def test_nothing_is_predicted_without_a_limit_or_far_below_it() -> None:
    growth = grown([10.0 * i for i in range(40)])
    assert growth.seconds_to(None) == math.inf
    assert growth.seconds_to(1e6) == math.inf


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "size"), [("600M", 600 << 20), ("1.5 GiB", 3 << 29), ("4096", 4096), ("2kb", 2048)])
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text, "--memory-limit") == size


@pytest.mark.parametrize("text", ["600Q", "", "-1M", "0", "M", "1e3", "nan", "6 00M"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--memory-limit: found .*600M"):
        parse_size(text, "--memory-limit")


def test_times_are_read() -> None:
    assert [parse_seconds(t, "x") for t in ("30", "30s", "10m", "2h", "250ms")] == [30, 30, 600, 7200, 0.25]
    with pytest.raises(ConfigError, match="found 'soon'"):
        parse_seconds("soon", "--heartbeat")


def test_sizes_for_people() -> None:
    assert [in_words(s) for s in (12, 2048, 600 << 20, 3 << 29)] == ["12 bytes", "2 KiB", "600 MiB", "1.5 GiB"]


# --- settings ------------------------------------------------------------------------------------


def test_what_is_handed_down_is_what_the_program_reads(tmp_path: Path) -> None:
    given_ = Settings(micro_batch=0.25, accumulate=4, recompute=True, device="cpu")
    write_settings(tmp_path / "settings.json", given_)
    assert settings({VARIABLE: str(tmp_path / "settings.json")}) == given_
    assert list(tmp_path.iterdir()) == [tmp_path / "settings.json"]


@pytest.mark.parametrize("text", ["", "{", '{"accumulate": "many", "unknown": 1}'])
def test_a_file_that_is_spoilt_asks_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    assert settings({VARIABLE: str(tmp_path / "s.json")}) == Settings()
    assert settings({VARIABLE: str(tmp_path / "none")}) == Settings()


# --- edits ---------------------------------------------------------------------------------------

CONFIG = '{"training": {"batch_size": 9, "lr": 0.1}, "stages": [{"n": 1}]}'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    path.write_text(CONFIG)
    return path


def test_a_value_is_edited_and_the_original_is_back_byte_for_byte(config: Path) -> None:
    edits = (Edit(file=config, path="training.batch_size", scale=0.5), Edit(file=config, path="stages.0.n", set_to=7))
    files = EditedFiles(edits)
    files.apply(edits)
    assert json.loads(config.read_text()) == {"training": {"batch_size": 4, "lr": 0.1}, "stages": [{"n": 7}]}
    assert files.in_force(edits)
    files.apply(edits)  # a second start: halved once, not twice
    assert json.loads(config.read_text())["training"]["batch_size"] == 4
    files.restore()
    assert config.read_text() == CONFIG
    assert not files.in_force(edits)
    assert [p.name for p in config.parent.iterdir()] == ["train.json"]


def test_a_killed_supervisors_edit_is_taken_back_by_the_next(config: Path) -> None:
    edits = (Edit(file=config, path="training.lr", scale=0.5),)
    EditedFiles(edits).apply(edits)
    assert config.read_text() != CONFIG
    EditedFiles(edits)
    assert config.read_text() == CONFIG


def test_yaml_too(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("batch_size: 8  # a comment\n")
    edits = (Edit(file=path, path="batch_size", scale=0.5),)
    files = EditedFiles(edits)
    files.apply(edits)
    assert yaml.safe_load(path.read_text()) == {"batch_size": 4}
    files.restore()
    assert "a comment" in path.read_text()


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [("training.batch", CONFIG, "expected one of batch_size, lr"), ("stages.1.n", CONFIG, "found no '1'"),
     ("training", CONFIG, "expected a number to scale"), ("a", "{", "neither JSON nor YAML")],
)  # fmt: skip
def test_a_mistake_is_told_before_anything_runs(config: Path, path: str, text: str, found: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError, match=found):
        EditedFiles((Edit(file=config, path=path, scale=0.5),))
    assert config.read_text() == text


# --- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "step"),
    [("step 120 loss 0.3", 120), ("{'loss': 1.2, 'global_step': 17}", 17), ("Epoch 3/10", 3), ("iter: 99, lr 1", 99),
     ("iteration=5", 5), ("loss 0.3", None), ("footstep 7", None), ("step by step", None)],
)  # fmt: skip
def test_a_step_is_found_in_common_lines(line: str, step: int | None) -> None:
    progress = Progress()
    progress.hear(line)
    assert progress.step == step


def test_the_same_steps_again_are_no_progress() -> None:
    progress = Progress()
    made = []
    for last in (3, 3, 4, 4):
        progress.begin()
        for step in range(last + 1):
            progress.hear(f"step {step}")
        made.append(progress.made(90.0))
    assert made == [True, False, True, False]


def test_a_file_that_grows_is_progress(tmp_path: Path) -> None:
    progress = Progress(files=(tmp_path / "log",))
    progress.begin()
    assert not progress.made(1.0)
    progress.begin()
    (tmp_path / "log").write_text("more")
    assert progress.made(1.0)


def test_one_that_lasts_much_longer_got_further() -> None:
    progress = Progress()
    lasted = [20.0, 21.0, 90.0, 90.0]
    assert [(progress.begin(), progress.made(s))[1] for s in lasted] == [False, False, True, False]
