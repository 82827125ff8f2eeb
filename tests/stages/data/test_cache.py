"""The cache: what it hands out is what was fetched, whoever damaged it meanwhile."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from data_world import QUICK, ROWS, write_lines

from premortem.core.errors import StageError
from premortem.faults.hub import LocalHub
from premortem.stages.data.cache import Cache, sha256_of
from premortem.stages.data.obtain import from_cache, obtain, take_over
from premortem.stages.data.refusal import Refused
from premortem.stages.data.source import Mirror, Source

LINES = Source(name="lines", columns=("question", "answer"), mirrors=(Mirror("hub", "owner/lines"),))


def fetched(tmp_path: Path) -> tuple[Cache, Path]:
    cache = Cache(tmp_path / "cache")
    ready = obtain(LINES, LINES.mirrors[0], cache, QUICK, print)
    return cache, ready.paths[0]


def spoil(path: Path, how: str) -> None:
    body = bytearray(path.read_bytes())
    path.chmod(0o644)
    if how == "one bit":
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
    elif how == "cut":
        path.write_bytes(body[:-1])
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()


def test_what_was_fetched_is_read_back_by_its_hash(hub: LocalHub, tmp_path: Path) -> None:
    cache, blob = fetched(tmp_path)
    entry = cache.read(LINES)
    assert entry is not None
    assert entry.is_verified
    assert entry.files[0].sha256 == sha256_of(blob) == sha256_of(hub.folder / "owner/lines/train.jsonl.gz")
    assert blob.name.endswith(".jsonl.gz")
    assert blob.stat().st_mode & 0o222 == 0, "nobody writes to it by mistake"


@pytest.mark.parametrize("how", ["one bit", "cut", "emptied", "deleted"])
def test_a_damaged_file_is_never_handed_out_but_moved_aside_and_fetched_again(
    hub: LocalHub, tmp_path: Path, how: str
) -> None:  # fmt: skip
    cache, blob = fetched(tmp_path)
    spoil(blob, how)
    assert cache.read(LINES) is None
    with pytest.raises(Refused, match="no whole copy"):
        from_cache(LINES, cache)
    assert len(list((cache.folder / "aside").glob("*"))) == (how != "deleted")
    assert obtain(LINES, LINES.mirrors[0], cache, QUICK, print).is_whole()
    assert cache.read(LINES) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": "0", "entry": {}}'])
def test_a_damaged_manifest_counts_as_absent(hub: LocalHub, tmp_path: Path, text: str) -> None:
    cache, _ = fetched(tmp_path)
    (manifest,) = (cache.folder / "sets").glob("*.json")
    manifest.write_text(text)
    assert cache.read(LINES) is None
    assert not manifest.exists()


def test_a_manifest_that_names_other_hashes_is_found_out(hub: LocalHub, tmp_path: Path) -> None:
    cache, _ = fetched(tmp_path)
    (manifest,) = (cache.folder / "sets").glob("*.json")
    row = json.loads(manifest.read_text())
    row["entry"]["files"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(row))
    assert cache.read(LINES) is None


def test_a_dataset_of_a_file_damaged_since_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    ready = obtain(LINES, LINES.mirrors[0], cache, QUICK, print)
    assert ready.dataset()[49] == ROWS[49]
    spoil(ready.paths[0], "one bit")
    with pytest.raises(StageError, match="damaged since"):
        ready.dataset()


def test_nothing_is_downloaded_twice_where_the_hash_is_known(hub: LocalHub, tmp_path: Path) -> None:
    cache, _ = fetched(tmp_path)
    obtain(LINES, LINES.mirrors[0], cache, QUICK, print)
    assert sum(n for path, n in hub.requests.items() if "/resolve/" in path) == 1


TWO_AT_ONCE = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_cache import LINES
from data_world import QUICK
from premortem.stages.data.cache import Cache
from premortem.stages.data.obtain import obtain
sys.stdin.readline()
ready = obtain(LINES, LINES.mirrors[0], Cache({folder!r}), QUICK, print)
print(len(ready.first), ready.is_whole())
"""


def test_two_processes_at_once_both_get_it_whole_and_fetch_it_once(hub: LocalHub, tmp_path: Path) -> None:
    code = TWO_AT_ONCE.format(here=str(Path(__file__).parent), folder=str(tmp_path / "cache"))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONWARNINGS": ""},
        )
        for _ in range(2)
    ]  # fmt: skip
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60)[0].strip() for child in children]
    assert said == ["10 True", "10 True"]
    assert sum(n for path, n in hub.requests.items() if "/resolve/" in path) == 1


def test_a_set_held_for_too_long_is_said(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.lock(LINES, 1), pytest.raises(StageError, match="another process has held it"), cache.lock(LINES, 0.1):
        pass


def test_a_folder_that_cannot_be_used_is_one_line(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be used"):
        obtain(LINES, LINES.mirrors[0], Cache(tmp_path / "file"), QUICK, print)


def test_a_file_of_the_users_own_is_held_against_the_hash_that_the_source_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    write_lines(file, ROWS)
    pinned = Source(name="mine", mirrors=(Mirror("url", "http://127.0.0.1:9/x.jsonl", sha256=sha256_of(file)),))
    assert take_over(pinned, file, Cache(tmp_path / "cache")).entry.is_verified
    file.write_bytes(file.read_bytes() + b"{}\n")
    with pytest.raises(Refused, match="none of those"):
        take_over(pinned, file, Cache(tmp_path / "cache"))


def test_the_user_keeps_the_file_that_was_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    write_lines(file, ROWS)
    ready = obtain(Source(name="mine"), Mirror("folder", str(tmp_path)), Cache(tmp_path / "c"), QUICK, print)
    assert file.exists()
    assert ready.paths[0] != file
    assert not ready.entry.is_verified
