"""A file of sets: what it says, and what is wrong in it."""

from pathlib import Path

import pytest

from premortem.core.errors import ConfigError
from premortem.stages.data.catalogue import CATALOGUE
from premortem.stages.data.source import Mirror, Source, read_sources

HEAD = "schema: premortem/datasets/v1\nsets:\n"
SHA = "ab" * 32


def test_a_file_of_sets(tmp_path: Path) -> None:
    file = tmp_path / "sets.yaml"
    file.write_text(
        HEAD + "- name: gsm8k\n  config: main\n  columns: [question, answer]\n  max_files: 2\n  mirrors:\n"
        f"  - {{hub: openai/gsm8k, revision: v1}}\n  - {{url: 'https://x.org/a.jsonl', sha256: {SHA}}}\n"
        "  - {folder: /backup}\n  - {hub: a/b, endpoint: 'https://mirror.example'}\n- name: owner/plain\n"
    )
    first, plain = read_sources(file)
    assert first == Source(
        name="gsm8k", config="main", columns=("question", "answer"), max_files=2,
        mirrors=(Mirror("hub", "openai/gsm8k", revision="v1"), Mirror("url", "https://x.org/a.jsonl", sha256=SHA),
                 Mirror("folder", "/backup"), Mirror("hub", "a/b", endpoint="https://mirror.example")),
    )  # fmt: skip
    assert [str(place) for place in plain.places] == ["hub owner/plain", "datasets owner/plain"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected 'schema"),
        ("[1", "cannot be read"),
        (HEAD.replace("v1", "v9") + "- name: a\n", "expected 'schema"),
        (HEAD.strip() + " []", r"\$\.sets is empty"),
        (HEAD + "- 3\n", r"\$\.sets\[0\]: found 3"),
        (HEAD + "- split: train\n", r"\$\.sets\[0\]\.name: missing"),
        (HEAD + "- {name: a, colour: [b]}\n", "unknown 'colour'"),
        (HEAD + "- {name: a, columns: b}\n", "as a list of names"),
        (HEAD + "- {name: a, max_files: many}\n", "expected a int"),
        (HEAD + "- {name: a}\n- {name: a}\n", "there twice"),
        (HEAD + "- {name: a, mirrors: [{}]}\n", "exactly one of"),
        (HEAD + "- {name: a, mirrors: [{hub: x/y, url: 'http://x'}]}\n", "exactly one of"),
        (HEAD + "- {name: a, mirrors: [{url: 'ftp://x'}]}\n", "http:// or https://"),
        (HEAD + "- {name: a, mirrors: [{hub: x/y, endpoint: mirror}]}\n", "http:// or https://"),
        (HEAD + "- {name: a, mirrors: [{url: 'http://x', sha256: abc}]}\n", "64 hex digits"),
        (HEAD + "- {name: a, mirrors: [{hub: 3}]}\n", "expected a text"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "sets.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        read_sources(file)
    assert "\n" not in str(caught.value)


def test_the_catalogue_names_each_set_once_with_columns_and_places() -> None:
    assert len({source.name for source in CATALOGUE}) == 14
    for source in CATALOGUE:
        assert source.columns
        assert {mirror.kind for mirror in source.mirrors} >= {"hub", "datasets"}
        assert all("/" in mirror.place for mirror in source.mirrors)
