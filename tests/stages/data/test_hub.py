"""Which files are a split's, and loading by name: real requests to a small hub."""

from pathlib import Path

import pytest
from data_world import QUICK, ROWS, write_lines, write_parquet

from premortem.faults.hub import LocalHub
from premortem.faults.network import BadNetwork, TcpProxy
from premortem.faults.web import Trouble
from premortem.stages.data.cache import Cache
from premortem.stages.data.hub import find_files
from premortem.stages.data.obtain import obtain
from premortem.stages.data.refusal import Refused
from premortem.stages.data.source import Mirror, Source
from premortem.stages.data.transport import Patience


def names(place: str, config: str = "", split: str = "train", **options) -> list[str]:
    source = Source(name="x", config=config, split=split, **options)
    return [remote.name for remote in find_files(source, Mirror("hub", place), QUICK, print)]


def test_the_card_says_which_files_are_a_split(hub: LocalHub) -> None:
    both = ["main/train-00000-of-00002.parquet", "main/train-00001-of-00002.parquet"]
    assert names("openai/gsm8k", "main") == both
    assert names("openai/gsm8k", "main", "test") == ["main/test-00000-of-00001.parquet"]
    assert names("openai/gsm8k", "socratic") == ["socratic/train-00000-of-00001.parquet"]
    assert names("openai/gsm8k") == both, "the first configuration is the default"
    assert names("openai/gsm8k", "main", max_files=1) == both[:1]


def test_every_file_comes_with_the_hash_that_the_hub_names(hub: LocalHub) -> None:
    source = Source(name="x", config="main")
    for remote in find_files(source, Mirror("hub", "openai/gsm8k"), QUICK, print):
        assert len(remote.sha256) == 64
        assert remote.size == (hub.folder / "openai/gsm8k" / remote.name).stat().st_size
    (small,) = find_files(Source(name="x"), Mirror("hub", "owner/small"), QUICK, print)
    assert len(small.git_blob) == 40
    assert not small.sha256


@pytest.mark.parametrize(
    ("files", "config", "split", "expected"),
    [
        (["train.csv", "test.csv"], "", "test", ["test.csv"]),
        (["data/train-0.parquet", "data/train-1.parquet", "train.csv"], "", "train",
         ["data/train-0.parquet", "data/train-1.parquet"]),
        (["a/dev.jsonl", "a/train.jsonl", "b/train.jsonl"], "a", "validation", ["a/dev.jsonl"]),
        (["everything.jsonl"], "", "train", ["everything.jsonl"]),
        (["trained_on.jsonl", "sub/training/x.jsonl.gz"], "", "train", ["sub/training/x.jsonl.gz"]),
        (["contest.jsonl", "train.jsonl"], "", "train", ["train.jsonl"]),
    ],
)  # fmt: skip
def test_without_a_card_paths_say_it(hub: LocalHub, files, config: str, split: str, expected) -> None:
    for file in files:
        path = hub.folder / "owner/bare" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    assert names("owner/bare", config, split) == expected


def test_a_set_with_a_script_alone_is_read_from_the_hubs_own_export(hub: LocalHub) -> None:
    (hub.folder / "owner/script").mkdir()
    (hub.folder / "owner/script/script.py").write_text("raise SystemExit")
    with pytest.raises(Refused, match="no file that can be read as rows"):
        names("owner/script")

    class WithExport(LocalHub):
        def answer(self, path: str, body: bytes = b""):
            return super().answer(path.replace("owner/script/revision/refs/convert/parquet", "export"), body)

    write_parquet(hub.folder / "export/default/train/0000.parquet", ROWS)
    write_parquet(hub.folder / "export/default/partial-test/0000.parquet", ROWS)
    with WithExport(hub.folder) as other:
        mirror = Mirror("hub", "owner/script", endpoint=other.url)
        (found,) = find_files(Source(name="x"), mirror, QUICK, print)
        assert found.name == "default/train/0000.parquet"
        with pytest.raises(Refused, match="split test"):
            find_files(Source(name="x", split="test"), mirror, QUICK, print)


def test_what_is_not_there_says_what_is(hub: LocalHub) -> None:
    for config, split in (("algebra", "train"), ("main", "validation")):
        with pytest.raises(Refused, match="it has main/") as caught:
            names("openai/gsm8k", config, split)
        assert caught.value.symptom == "not there"
    with pytest.raises(Refused, match="404") as caught:
        names("owner/absent")
    assert caught.value.symptom == "not there"


def test_an_answer_that_is_no_description_is_damage(hub: LocalHub) -> None:
    hub.put(1, Trouble(cut=0.5, pattern="/api/*"))
    with pytest.raises(Refused) as caught:
        names("openai/gsm8k")
    assert caught.value.symptom == "damaged"


def test_a_token_goes_to_the_hub_and_never_to_another_endpoint(hub: LocalHub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (own,) = find_files(Source(name="x"), Mirror("hub", "owner/small"), QUICK, print)
    (other,) = find_files(Source(name="x"), Mirror("hub", "owner/small", endpoint=hub.url), QUICK, print)
    assert (own.token, other.token) == ("hf_secret", "")


# --- by name, through datasets.load_dataset ---------------------------------------------------


def by_name(place: str, cache: Path, config: str = "", patience: Patience = QUICK):
    source = Source(name="x", config=config, columns=("question",))
    return obtain(source, Mirror("datasets", place), Cache(cache), patience, print)


def test_the_real_library_loads_by_name_from_the_endpoint(hub: LocalHub, tmp_path: Path) -> None:
    ready = by_name("openai/gsm8k", tmp_path, "main")
    assert ready.dataset().to_list() == ROWS
    assert not ready.entry.is_verified, "the library checks no hash"
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [], "nothing is left behind"


def test_by_name_what_is_not_there_is_told_from_what_is_unreachable(hub: LocalHub, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(Refused, match="DatasetNotFoundError") as caught:
        by_name("owner/absent", tmp_path)
    assert caught.value.symptom == "not there"
    with TcpProxy(hub.port) as proxy, BadNetwork(proxy, "refuse"):
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Refused) as caught:
            by_name("owner/lines", tmp_path, patience=Patience(attempts=1, total_s=4, read_s=1))
    assert caught.value.symptom == "unreachable"


def test_by_name_a_hanging_hub_ends_with_its_bound_and_its_process(hub: LocalHub, tmp_path: Path, monkeypatch) -> None:
    with TcpProxy(hub.port) as proxy, BadNetwork(proxy, "hang"):
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Refused, match="not whole within 2 s"):
            by_name("owner/lines", tmp_path, patience=Patience(attempts=1, total_s=2, read_s=1))


def test_by_name_rows_that_cannot_be_read_are_damage(hub: LocalHub, tmp_path: Path) -> None:
    write_lines(hub.folder / "owner/odd/train.jsonl", ROWS)
    path = hub.folder / "owner/odd/train.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(Refused) as caught:
        by_name("owner/odd", tmp_path, patience=Patience(attempts=1, total_s=30))
    assert caught.value.symptom == "damaged"
