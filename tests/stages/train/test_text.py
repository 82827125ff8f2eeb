"""The corpus is real, fixed and complete in its reports; tokenisers lose nothing; windows cover the text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from premortem.core.errors import ConfigError, StageError
from premortem.stages.train.text import (
    BpeTokeniser,
    ByteTokeniser,
    Corpus,
    Document,
    Windows,
    WindowStream,
    encode_corpus,
    read_standard_library,
    split_by_file,
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_standard_library(max_bytes=300_000)


@pytest.fixture(scope="module")
def bpe(corpus: Corpus) -> BpeTokeniser:
    return BpeTokeniser.train([document.text for document in corpus.documents], 400)


def test_the_standard_library_is_read_in_sorted_order_below_the_cap_and_the_same_twice(corpus: Corpus) -> None:
    files = list(dict.fromkeys(document.file for document in corpus.documents))
    assert files == sorted(files)
    assert 300_000 - 3 <= corpus.num_bytes <= 300_000
    assert corpus.num_files_left_out > 100
    assert not any(part in ("test", "idlelib", "site-packages") for f in files for part in f.split("/"))
    assert corpus.sha256 == read_standard_library(max_bytes=300_000).sha256
    assert corpus.sha256 != read_standard_library(max_bytes=200_000).sha256


def test_docstrings_are_text_of_their_sources_and_can_be_read_alone(corpus: Corpus) -> None:
    assert {document.kind for document in corpus.documents} == {"source", "docstring"}
    sources = {d.file: d.text for d in corpus.documents if d.kind == "source"}
    alone = read_standard_library(max_bytes=50_000, kinds=("docstring",))
    assert {document.kind for document in alone.documents} == {"docstring"}
    (future,) = [document for document in alone.documents if document.file == "__future__.py"]
    paragraphs = future.text.split("\n\n")
    assert len(paragraphs) > 5
    assert all(paragraph.splitlines()[0].strip() in sources["__future__.py"] for paragraph in paragraphs)


def test_unreadable_files_are_reported_and_skipped_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text('"""Says hello."""\n')
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\n# caf\xe9\n")
    (tmp_path / "bad_bytes.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "bad_syntax.py").write_text("def (:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_good.py").write_text("x = 1\n")
    corpus = read_standard_library(root=tmp_path)
    assert [(d.file, d.kind) for d in corpus.documents] == [
        ("good.py", "source"),
        ("good.py", "docstring"),
        ("latin.py", "source"),
    ]
    assert "café" in corpus.documents[2].text
    assert [(u.file, u.reason.split(":")[0]) for u in corpus.unreadable] == [
        ("bad_bytes.py", "SyntaxError"),
        ("bad_syntax.py", "SyntaxError"),
    ]


def test_a_folder_without_text_and_a_bad_cap_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no Python text below"):
        read_standard_library(root=tmp_path / "absent")
    with pytest.raises(ConfigError, match="max_bytes is 0"):
        read_standard_library(max_bytes=0)


def test_no_file_is_on_both_sides_of_the_split_and_a_file_stays_on_its_side(corpus: Corpus) -> None:
    training, validation = split_by_file(corpus, 0.3)
    sides = [{document.file for document in side.documents} for side in (training, validation)]
    assert not sides[0] & sides[1]
    assert len(training.documents) + len(validation.documents) == len(corpus.documents)
    smaller = Corpus(tuple(d for d in corpus.documents if d.file in sorted(sides[0] | sides[1])[:20]))
    assert {d.file for d in split_by_file(smaller, 0.3)[1].documents} <= sides[1]
    with pytest.raises(ConfigError, match="leaves one side empty"):
        split_by_file(corpus, 0.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text() | st.just("<|end|>") | st.just(" a\r\n\t b  "))
def test_tokenisers_lose_nothing_and_never_forge_an_end(bpe: BpeTokeniser, text: str) -> None:
    for tokeniser in (ByteTokeniser(), bpe):
        ids = tokeniser.encode(text)
        assert tokeniser.end_id not in ids
        assert all(0 <= i < tokeniser.vocab_size for i in ids)
        assert tokeniser.decode([*ids, tokeniser.end_id]) == text


def test_bpe_is_shorter_than_bytes_reproducible_and_kept_by_its_json(corpus: Corpus, bpe: BpeTokeniser) -> None:
    text = corpus.documents[0].text
    assert bpe.vocab_size == 400
    assert len(bpe.encode(text)) < 0.7 * len(ByteTokeniser().encode(text))
    again = BpeTokeniser.train([document.text for document in corpus.documents], 400)
    assert again.to_json() == bpe.to_json()
    assert BpeTokeniser(bpe.to_json()).encode(text) == bpe.encode(text)
    with pytest.raises(ConfigError, match="vocab_size is 256"):
        BpeTokeniser.train(["x"], 256)


def test_an_end_mark_stands_after_every_document() -> None:
    two = Corpus((Document("a.py", "source", "ab"), Document("b.py", "source", "c")))
    assert encode_corpus(two, ByteTokeniser()).tolist() == [97, 98, 256, 99, 256]


def test_windows_overlap_by_one_token_so_that_each_is_predicted_once() -> None:
    ids = torch.arange(23)
    windows = Windows(ids, context=5)
    assert len(windows) == 4
    predicted = torch.cat([windows[i][1:] for i in range(len(windows))])
    assert predicted.tolist() == list(range(1, 21))
    assert Windows(ids, context=5, stride=1)[len(Windows(ids, 5, 1)) - 1].tolist() == [17, 18, 19, 20, 21, 22]
    with pytest.raises(IndexError):
        windows[4]
    with pytest.raises(ConfigError, match="at least 24 ids"):
        Windows(ids, context=23)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_every_window_once_in_each_pass_and_every_pass_alike(workers: int) -> None:
    windows = Windows(torch.arange(53), context=4)
    loader = DataLoader(WindowStream(windows, seed=3), batch_size=2, num_workers=workers)
    first, second = ([batch.tolist() for batch in loader] for _ in range(2))
    assert first == second
    starts = [window[0] for batch in first for window in batch]
    assert sorted(starts) == list(range(0, 52, 4))
    assert starts != sorted(starts)
    in_order = DataLoader(WindowStream(windows), batch_size=None)
    assert [window[0].item() for window in in_order] == list(range(0, 52, 4))
