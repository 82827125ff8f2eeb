"""The page on registers is held to the code: its example loads, its errors are real, no key is missing."""

import re
from pathlib import Path

import msgspec
import pytest

from premortem.registers import schema
from premortem.registers.load import parse_register
from premortem.registers.mistake import RegisterError

PAGE = (Path(__file__).parents[2] / "docs" / "registers.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_loads() -> None:
    assert [entry.id for entry in parse_register(block("example")).entries] == ["LM-1", "LM-2"]


def test_the_errors_on_the_page_are_those_of_the_loader() -> None:
    text = block("example")
    for old, new in (
        ("owner: training", "ownr: training"),
        ("severity: high", "severity: hgih"),
        ("tries: 2", "tries: 0"),
        ("red: 7", "red: 1"),
        ("proven: [LM-1]", "proven: [LM-9]"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    with pytest.raises(RegisterError) as caught:
        parse_register(text, "mine.yaml")
    assert str(caught.value) == block("errors").strip()


def test_every_key_is_on_the_page() -> None:
    kinds = [kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    keys = {field.name for kind in kinds if kind is not msgspec.Struct for field in msgspec.structs.fields(kind)}
    assert {key for key in keys if f"`{key}`" not in PAGE} == set()
