"""The board's own workload and premortem's script, in this environment: the figures of the table are of these."""

import subprocess
import sys
from pathlib import Path

from benchmarks.board.cells import run_rows
from benchmarks.board.judge import RECOVERED, Cell, judge, verdict
from benchmarks.board.peer import PEERS


def test_premortem_recovers_where_plain_torch_is_harmed() -> None:
    rows = ["healthy", "nan gradient", "killed"]
    ours = run_rows(Path(sys.executable), "premortem", rows)
    plain = run_rows(Path(sys.executable), "torch", ["nan gradient"])
    premortem, torch = PEERS[0], PEERS[2]
    for row in rows[1:]:
        cell = judge(premortem, row, ours[row], ours["healthy"], ours["healthy"])
        assert cell.word == RECOVERED, (cell.text, ours[row])
    assert ours["killed"]["digest"] == ours["healthy"]["digest"]
    harmed = judge(torch, "nan gradient", plain["nan gradient"], ours["healthy"], ours["healthy"])
    assert harmed.word == "harmed"
    assert "not seen" in harmed.text


def test_the_last_column_says_who_is_ahead_and_by_what() -> None:
    cells = {
        "premortem": Cell("stopped in time", "", 1.1, 1.1, "× 1.100"),
        "A": Cell("recovered", "", 1.0, 1.0, "× 1.000"),
        "B": Cell("not run", "", None, 0.0, ""),
    }
    assert verdict("shift", cells) == "behind A: stopped in time × 1.100 against recovered × 1.000"
    level = {"premortem": cells["A"], "A": cells["A"]}
    assert verdict("shift", level) == "level with A: recovered × 1.000 and recovered × 1.000"
    assert verdict("shift", {"premortem": cells["A"], "B": cells["premortem"]}) == "ahead"
    worse = cells | {"premortem": cells["A"], "premortem_default": cells["premortem"]}
    assert verdict("shift", worse) == verdict("shift", cells)
    assert verdict("shift", worse | {"premortem_default": cells["B"]}) == verdict("shift", level)


def test_an_unknown_row_is_a_line_and_exit_2() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.board", "--rows", "earthquake"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert found.returncode == 2
    assert "found earthquake, expected some of" in found.stderr
    assert "Traceback" not in found.stderr
