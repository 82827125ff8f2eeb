"""A replay: logs of every kind, read as they are, through the very kernel of the live path."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from premortem.app.report.replayed import drawing_of, example_log, make_picture
from premortem.core.engine import Engine
from premortem.core.errors import ConfigError
from premortem.run.bind import bind
from premortem.run.guard import Guard
from premortem.run.replay.columns import normal, resolve
from premortem.run.replay.replay import Replayed, replay
from premortem.run.replay.rewind import Rewind
from premortem.run.replay.sketch import Sketch
from premortem.run.replay.verdict import delay, notes_of, poisson_upper, rate, to_json
from premortem.run.replay.workload import ReplayWorkload, offered_signals

ONSET = 700


def losses(steps: int = 1000, *, diverges: bool = True, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [
        (1.5 + 8.0 * (i + 5) ** -0.5) * math.exp(draw.gauss(0.0, 0.03)) * (3.0 if diverges and i >= ONSET else 1.0)
        for i in range(steps)
    ]


def sheet(path: Path, values: list[float], header: str = "step,loss", sep: str = ",") -> Path:
    path.write_text(header.replace(",", sep) + "\n" + "".join(f"{i}{sep}{v}\n" for i, v in enumerate(values)))
    return path


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    return sheet(tmp_path / "ill.csv", losses())


def test_a_divergence_is_found_within_steps_of_its_onset_and_nothing_before(ill: Path) -> None:
    found = replay(ill)
    first = found.heard.alarms[0]
    assert ONSET <= first.step <= ONSET + 10
    assert (first.entry, first.symptom, first.incident) == ("DEF-1", "divergence", 1)
    assert first.rung == "cut the learning rate"  # the entry's order; skipping a batch cannot mend a divergence
    assert delay(found, ONSET).steps == first.step - ONSET


def test_a_healthy_log_has_no_alarm(tmp_path: Path) -> None:
    found = replay(sheet(tmp_path / "well.csv", losses(diverges=False)))
    assert (found.heard.num_alarms, found.heard.num_incidents) == (0, 0)
    assert delay(found, ONSET).seen is None


def test_a_replay_says_what_the_live_kernel_says(ill: Path) -> None:
    """The same rows given to a kernel by hand: every incident at the same observation."""
    guard = Guard()
    workload = ReplayWorkload(offered_signals(guard.active, "x"), ["loss"])
    engine = Engine(bind(guard.active, workload, "x"))
    width = len(workload.signals)
    opened = []
    for tick, value in enumerate(losses(), 1):
        commands = engine.observe([value] + [None] * (width - 1), tick, float(tick))
        opened += [tick for command in commands if command.record.event == "opened"]
    assert [a.tick for a in replay(ill).heard.alarms if a.incident] == opened


def test_no_verdict_claims_that_anything_helped(ill: Path) -> None:
    plain = to_json(replay(ill), healthy=True, onset=None)
    assert plain["nothing_was_turned"] is True
    assert not {"recovered", "helped"} & set(json.dumps(plain).replace('"', " ").split())


# --- readers -------------------------------------------------------------------------------------


def write_jsonl(path: Path, values: list[float]) -> Path:
    path.write_text("".join(json.dumps({"step": i, "train/loss": v}) + "\n" for i, v in enumerate(values)))
    return path


def write_state(path: Path, values: list[float]) -> Path:
    history: list[dict[str, float]] = [{"loss": v, "epoch": 0.1, "step": i} for i, v in enumerate(values)]
    history.insert(501, {"eval_loss": 2.0, "step": 500})
    history.append({"train_runtime": 9.0, "train_samples_per_second": 3.0, "train_loss": 99.0, "step": len(values)})
    path.write_text(json.dumps({"global_step": len(values), "log_history": history}, indent=1))
    return path


def write_events(folder: Path, values: list[float]) -> Path:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for i, v in enumerate(values):
        summary = Summary(value=[Summary.Value(tag="train/loss", simple_value=v)])
        writer.add_event(Event(wall_time=1.7e9 + i, step=i, summary=summary))
    writer.close()
    return folder


def test_every_format_of_one_run_gives_the_same_findings(tmp_path: Path, ill: Path) -> None:
    values = losses()
    packed = tmp_path / "ill.csv.gz"
    packed.write_bytes(gzip.compress(ill.read_bytes()))
    folder = tmp_path / "checkpoint-1000"
    folder.mkdir()
    write_state(folder / "trainer_state.json", values)
    logs = [
        packed, write_jsonl(tmp_path / "ill.jsonl", values), folder, folder / "trainer_state.json",
        write_events(tmp_path / "runs", values), sheet(tmp_path / "ill.tsv", values, "Iteration,Train Loss", "\t"),
        sheet(tmp_path / "semi.csv", values, "global_step,lm loss", ";"),
    ]  # fmt: skip
    expected = [(a.step, a.watch, a.until) for a in replay(ill).heard.alarms]
    kinds = set()
    for log in logs:
        found = replay(log)
        assert [(a.step, a.watch, a.until) for a in found.heard.alarms] == expected, log
        assert found.walk.num_rows == len(values), log
        kinds.add(found.kind)
    assert kinds == {"CSV", "JSON lines", "trainer state", "TensorBoard"}


def test_columns_written_apart_are_one_observation(tmp_path: Path) -> None:
    lines = []
    for i, v in enumerate(losses(300, diverges=False)):
        lines += [{"step": i, "loss": v}, {"step": i, "grad_norm": 1.0}]
        lines += [{"step": i, "val_loss": v}] if i % 50 == 0 else []
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = replay(tmp_path / "log.jsonl")
    assert found.walk.num_rows == 300
    assert found.columns.signals == {"loss": "loss", "grad_norm": "grad_norm"}
    assert found.columns.unread == ["val_loss"]


def test_missing_is_missing_and_nan_is_not_finite(tmp_path: Path) -> None:
    text = [f"{v}" for v in losses(100, diverges=False)]
    gone, lost = list(text), list(text)
    gone[60], lost[60] = "", "nan"
    for name, cells in (("gone", gone), ("lost", lost)):
        (tmp_path / name).write_text("step,loss\n" + "".join(f"{i},{c}\n" for i, c in enumerate(cells)))
    assert replay(tmp_path / "gone").heard.num_alarms == 0
    (alarm,) = [a for a in replay(tmp_path / "lost").heard.alarms if a.symptom == "not finite"]
    assert (alarm.step, alarm.level, alarm.until, alarm.rung) == (60, "CRITICAL", 61, "skip the offending batch")
    (tmp_path / "json").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n{"step": 3, "loss": null}\n')
    assert replay(tmp_path / "json").heard.num_alarms == 1


def test_a_restart_goes_on_and_a_new_run_begins_anew(tmp_path: Path) -> None:
    first, second = losses(400, diverges=False), losses(400, diverges=False, seed=1)
    steps = [*range(400), *range(300, 400), *range(400)]
    values = first + first[300:] + second
    (tmp_path / "log").write_text("step,loss\n" + "".join(f"{s},{v}\n" for s, v in zip(steps, values, strict=True)))
    found = replay(tmp_path / "log")
    assert found.num_runs == 2
    assert found.heard.num_alarms == 0  # the second run's high first losses are no divergence of the first
    told = " ".join(notes_of(found))
    assert "399 is followed by 300" in told
    assert "a restart" in told
    assert "another run begins" in told


def test_a_healthy_restart_far_back_is_no_divergence(tmp_path: Path) -> None:
    draw = random.Random(1)
    steps = [*range(800), *range(500, 1500)]
    values = [2.0 * math.exp(-step / 300) + 1.5 + draw.gauss(0.0, 0.03) for step in steps]
    (tmp_path / "log").write_text("step,loss\n" + "".join(f"{s},{v}\n" for s, v in zip(steps, values, strict=True)))
    found = replay(tmp_path / "log")
    assert (found.walk.num_restarts, found.heard.num_alarms) == (1, 0)


def test_what_goes_wrong_after_a_restart_is_found(tmp_path: Path) -> None:
    values = losses(900)
    steps = [*range(650), *range(500, 900)]
    (tmp_path / "log").write_text("step,loss\n" + "".join(f"{s},{values[s]}\n" for s in steps))
    found = replay(tmp_path / "log")
    assert found.heard.num_alarms > 0
    assert ONSET <= found.heard.alarms[0].step <= ONSET + 50


def test_a_rewind_keeps_few_states_and_forgets_an_abandoned_future() -> None:
    guard = Guard("default")
    signals = offered_signals(guard.active[:1], guard.file.register)
    engine = Engine(bind(guard.active[:1], ReplayWorkload(signals, ["loss"]), guard.file.register))
    rewind, wanted = Rewind(), {}
    row: list[float | None] = [None] * len(engine.plan.signals)
    slot = [signal.name for signal in engine.plan.signals].index("loss")
    for tick in range(1, 3001):
        row[slot] = 1.0 + 1.0 / tick
        engine.observe(row, tick, float(tick))
        wanted[tick] = engine.observer.state()
        if tick == rewind.due:
            rewind.take(float(tick), engine.observer)
    rewind.back(1500.0, engine.observer)
    assert len(rewind._kept) <= 64
    at = int(rewind._kept[-1][0])
    assert 1400 < at < 1500
    assert engine.observer.state() == wanted[at] != wanted[3000]


def test_gaps_strides_and_a_clock_that_goes_back_are_told(tmp_path: Path) -> None:
    steps = [i * 10 for i in range(50)] + [i * 10 for i in range(80, 120)]
    rows = [f"{s},{2.0 + 0.01 * (i % 7)},{i if i != 70 else 3}" for i, s in enumerate(steps)]
    (tmp_path / "log").write_text("step,loss,time\n" + "\n".join(rows) + "\n")
    told = " ".join(notes_of(replay(tmp_path / "log")))
    assert "every 10 steps" in told
    assert "1 gap in the steps, the longest of 310 after step 490" in told
    assert "the time goes back 1 time:" in told


def test_steps_that_stand_still_or_are_missing_are_told(tmp_path: Path) -> None:
    (tmp_path / "still").write_text("step,loss\n" + "7,2.0\n" * 50)
    (tmp_path / "none").write_text("step,loss\n1,2.0\n,2.0\n3,2.0\n")
    (tmp_path / "no column").write_text("loss\n2.0\n2.0\n")
    assert "at the step of the row before" in " ".join(notes_of(replay(tmp_path / "still")))
    assert replay(tmp_path / "still").walk.num_rows == 50
    assert "1 row without a step" in " ".join(notes_of(replay(tmp_path / "none")))
    assert "rows are counted from 0" in " ".join(notes_of(replay(tmp_path / "no column")))


def test_one_run_of_several_is_chosen_by_a_column(tmp_path: Path) -> None:
    rows = [f"{run},{i},{v}" for run in (1, 2) for i, v in enumerate(losses(diverges=run == 2))]
    (tmp_path / "log").write_text("run,step,loss\n" + "\n".join(rows) + "\n")
    assert replay(tmp_path / "log", only=("run", "1")).heard.num_alarms == 0
    assert replay(tmp_path / "log", only=("run", "2")).heard.num_alarms > 0
    with pytest.raises(ConfigError, match="no row with run=3"):
        replay(tmp_path / "log", only=("run", "3"))


def test_times_may_be_dates_and_milliseconds(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("step,loss,timestamp\n1,2.0,2026-01-01T00:00:00\n2,2.0,2026-01-01T00:01:00+00:00\n")
    (tmp_path / "b").write_text("step,loss,train_time_ms\n1,2.0,1000\n2,2.0,61000\n")
    assert [replay(tmp_path / name).clock.seconds for name in "ab"] == [60.0, 60.0]


def test_a_short_log_is_not_called_healthy(tmp_path: Path) -> None:
    found = replay(sheet(tmp_path / "short.csv", losses(20)))
    assert "DEF-1: loss shift" in found.inconclusive
    assert "DEF-1: loss not finite" not in found.inconclusive
    assert "inconclusive in the end" in " ".join(notes_of(found))
    assert replay(sheet(tmp_path / "long.csv", losses())).inconclusive == []


# --- columns -------------------------------------------------------------------------------------

NAMES = ["loss", "grad_norm", "step_time", "skipped"]


@pytest.mark.parametrize(
    ("names", "signals"),
    [
        (["Step", "Train/Loss", "Gradient Norm"], {"Train/Loss": "loss", "Gradient Norm": "grad_norm"}),
        (["_step", "train_loss", "loss"], {"loss": "loss"}),
        (["iteration", "lm_loss", "optim/total_grad_norm"], {"lm_loss": "loss", "optim/total_grad_norm": "grad_norm"}),
        (["loss", "iter_time_ms"], {"loss": "loss", "iter_time_ms": "step_time"}),
    ],
)
def test_known_names_are_found_in_any_case(names, signals) -> None:
    assert resolve(names, {}, NAMES).signals == signals


def test_the_users_word_goes_first_and_what_is_not_read_is_told() -> None:
    columns = resolve(["step", "loss", "ce", "foo"], {"ce": "loss"}, NAMES)
    assert columns.signals == {"ce": "loss"}
    assert columns.unread == ["loss", "foo"]
    assert "'loss' could be the loss too" in columns.notes[0]


@pytest.mark.parametrize(
    ("names", "given", "told"),
    [
        (["step", "acc"], {}, "no training loss"),
        (["step", "loss", "Loss"], {}, "choose with --columns"),
        (["step", "loss"], {"los": "loss"}, "did you mean 'loss'"),
        (["step", "loss"], {"loss": "losss"}, "did you mean 'loss'"),
        (["a", "b"], {"a": "loss", "b": "loss"}, "for two columns"),
    ],
)
def test_a_mistake_about_columns_is_one_line(names, given, told) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        resolve(names, given, NAMES)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_a_name_without_case_and_separators_is_stable(name: str) -> None:
    assert normal(normal(name)) == normal(name)


# --- bad input -----------------------------------------------------------------------------------

BAD = {
    "empty": (b"", "empty file"),
    "blank lines": (b"\n\n", "no line of text|no training loss"),
    "binary": (bytes(range(256)) * 20, "binary data|no training loss|UTF-8"),
    "latin": ("step,loss,größe\n1,2.0,3\n".encode("latin-1"), "UTF-8"),
    "only a header": (b"step,loss\n", "no row"),
    "no header": (b"1,2.0\n2,2.1\n", "line 1: found numbers"),
    "no loss": (b"step,accuracy\n1,0.5\n", "no training loss"),
    "a word": (b"step,loss\n1,2.0\n2,high\n3,2.0\n", "line 3, column 'loss': found 'high'"),
    "surplus cells of figures": (b"step,loss\n1,2.0\n2,2.0,9,9\n", "line 3: found 4 cells, expected 2"),
    "never a figure": (b"step,loss\n1,n/a\n2,\n3,n/a\n", "no figure under 'loss' in 3 rows"),
    "too many cells": (b"step,loss\n1,2.0\n2,,2.1\n3,2.0\n", "line 3: found 3 cells"),
    "broken JSON": (b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n{"step": 3, "loss": 2.0}\n', "line 2"),
    "no object": (b'{"step": 1, "loss": 2.0}\n[1, 2]\n', "line 2: found '\\[1, 2\\]'"),
    "JSON without history": (b'{\n "a": 1\n}', "without a log_history"),
    "broken document": (b'{\n "log_history": [\n', "line 3|line 2"),
    "twice": (b"step,loss,loss\n1,2,3\n", "twice|choose with"),
    "cut gzip": (gzip.compress(b"step,loss\n" + b"1,2.0\n" * 5000)[:-20], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_log_is_one_clear_line(name: str, tmp_path: Path) -> None:
    content, told = BAD[name]
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(ConfigError, match=told) as error:
        replay(tmp_path / "log")
    assert str(error.value).startswith(f"{tmp_path / 'log'}:")
    assert "\n" not in str(error.value)


def test_a_folder_a_missing_file_and_broken_events_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without event files"):
        replay(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        replay(tmp_path / "nothing.csv")
    (tmp_path / "events.out.tfevents.1").write_bytes(b"garbage" * 100)
    with pytest.raises(ConfigError, match=r"no event in 700 bytes|cannot be read|no scalar"):
        replay(tmp_path)
    for run in ("a", "b"):
        write_events(tmp_path / "many" / run, [1.0])
    with pytest.raises(ConfigError, match="of 2 runs"):
        replay(tmp_path / "many")


def test_a_line_that_was_cut_off_in_writing_is_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    (tmp_path / "log.csv").write_text("step,loss,lr\n1,2.0,0.1\n2")
    for name in ("log.jsonl", "log.csv"):
        found = replay(tmp_path / name)
        assert found.walk.num_rows == 1
        assert "cut off" in " ".join(notes_of(found))


def test_a_register_that_watches_no_training_run_is_a_mistake(ill: Path) -> None:
    with pytest.raises(ConfigError, match="no active entry that watches a training run"):
        replay(ill, "ryzanstein")


# --- figures -------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5000))
def test_a_sketch_keeps_every_peak_in_bounded_memory(values: list[float]) -> None:
    sketch = Sketch()
    for i, value in enumerate(values):
        sketch.add(float(i), value)
    drawn = [value for _, value in sketch.points()]
    assert (min(drawn), max(drawn)) == (min(values), max(values))
    assert len(sketch.buckets) < 640


@pytest.mark.parametrize(("events", "limit"), [(0, 2.996), (1, 4.744), (5, 10.513), (100, 118.08)])
def test_the_upper_limit_of_a_rate_is_poissons(events: int, limit: float) -> None:
    assert poisson_upper(events) == pytest.approx(limit, rel=1e-3)
    assert rate(events, 1000).at_most == pytest.approx(limit, rel=1e-3)


def test_the_picture_of_the_documentation_shows_where_it_was_found(tmp_path: Path) -> None:
    found: Replayed = replay(example_log(tmp_path / "train.csv"))
    marks = [mark for mark in drawing_of(found).marks if mark.word]
    assert marks
    assert 2600 <= marks[0].tick <= 2650
    assert "RED: loss shift" in make_picture(tmp_path / "replay.svg").read_text("utf-8")
