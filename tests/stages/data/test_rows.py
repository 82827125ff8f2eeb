"""The first rows, really decoded: every format, and what is wrong with each."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from data_world import ROWS, write_lines, write_parquet

from premortem.stages.data.refusal import Refused
from premortem.stages.data.rows import check_rows, decode_all, first_rows, format_of
from premortem.stages.data.source import Source


def write(path: Path, rows: list[dict]) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        write_parquet(path, rows)
    elif name.endswith(".arrow"):
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    elif name.endswith(".jsonl"):
        write_lines(path, rows)
    else:
        text = json.dumps({"version": 1, "data": rows})
        if name.endswith(".csv"):
            text = "question,answer\n" + "".join(f'"{row["question"]}",{row["answer"]}\n' for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


FORMATS = ["a.parquet", "a.arrow", "a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.json"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_first_ten_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert first_rows([path]) == ROWS[:10]
    assert decode_all([path]) == len(ROWS)
    assert format_of(path)


def test_rows_go_on_in_the_next_file(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.jsonl", ROWS[4 * i : 4 * i + 4]) for i in range(4)]
    assert first_rows(paths) == ROWS[:10]


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("a.csv", "a.jsonl")])
def test_a_file_cut_in_the_middle_is_damage(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Refused, match="cannot be decoded") as caught:
        decode_all([path])
    assert caught.value.symptom == "damaged"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_lines_cut_within_a_row_are_damage(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    body = path.read_bytes()
    path.write_bytes(body[: body.index(b"what is 30") + 4])
    assert len(first_rows([path])) == 10
    with pytest.raises(Refused):
        decode_all([path])


@pytest.mark.parametrize("name", FORMATS)
def test_garbage_is_damage(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(range(128, 256)) * 20)
    with pytest.raises(Refused):
        decode_all([path])


def test_an_unknown_suffix_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(Refused, match=r"no reader for its suffix \.xlsx"):
        first_rows([tmp_path / "a.xlsx"])


def test_rows_are_held_against_their_columns() -> None:
    wanted = Source(name="x", columns=("question", "answer"))
    check_rows(ROWS[:10], wanted)
    check_rows([{"question": "", "answer": 0}, {"question": "q", "answer": 0}], wanted)
    for rows, why in (
        ([], "no rows"),
        ([{"question": "q", "answer": "a"}, {"question": "q"}], "row 1 has no column 'answer'"),
        ([{"question": "q", "answer": None}, {"question": "q", "answer": ""}], "'answer' is empty"),
    ):
        with pytest.raises(Refused, match=why):
            check_rows(rows, wanted)
