"""The JSON schema that editors read is the one that the types give, and the shipped files obey it."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml

import premortem.registers
from premortem.registers.load import builtin_names, load_register
from premortem.registers.schema import RegisterFile, json_schema, schema_text

FOLDER = Path(premortem.registers.__file__).parent


def test_the_shipped_schema_is_current() -> None:
    shipped = (FOLDER / "register.schema.json").read_text(encoding="utf-8")
    assert shipped == schema_text(), (
        "run: python -m premortem.registers.schema > src/premortem/registers/register.schema.json"
    )


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", builtin_names())
def test_a_shipped_register_obeys_the_schema(name: str) -> None:
    schema = json.loads((FOLDER / "register.schema.json").read_text(encoding="utf-8"))
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(data)


def test_the_schema_refuses_an_unknown_key() -> None:
    data = msgspec.to_builtins(load_register("hrm")) | {"titlle": "x"}
    with pytest.raises(jsonschema.ValidationError, match="titlle"):
        jsonschema.Draft202012Validator(json_schema()).validate(data)


@pytest.mark.parametrize("name", builtin_names())
def test_a_register_survives_writing_and_reading(name: str) -> None:
    register = load_register(name)
    assert msgspec.json.decode(msgspec.json.encode(register), type=RegisterFile) == register
