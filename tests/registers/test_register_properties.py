"""Whatever is broken in a valid register, the answer is a RegisterError with a path, and never another exception."""

import copy
import json
import re

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from premortem.registers import schema
from premortem.registers.load import builtin_names, load_register, parse_register
from premortem.registers.mistake import Path, RegisterError, spell
from premortem.registers.schema import RegisterFile

Data = dict[str, object]
LINE = re.compile(r"F:\d+: \$")
QUICK = settings(max_examples=100, deadline=None, derandomize=True)


def small_register() -> Data:
    """A valid register with every section, and the first items of what is shipped in each."""
    data: Data = msgspec.to_builtins(load_register("hrm")) | {"notes": ["one"]}
    for name in builtin_names():
        for section, items in msgspec.to_builtins(load_register(name)).items():
            if section == "rollout":
                data[section] = items
            elif isinstance(items, list) and section not in ("entries", "notes"):
                data[section] = [item | {"proven": ["HRM-9.1.1"]} if section == "gates" else item for item in items[:2]]
    return data


GOOD = small_register()


def paths(value: object, path: Path = ()) -> list[Path]:
    """The paths of all keys, those of free-form params aside."""
    found: list[Path] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            found.append((*path, key))
            found += [] if key == "params" else paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += paths(inner, (*path, index))
    return found


SITES = st.sampled_from(paths(GOOD))


def broken(path: Path) -> tuple[Data, dict[str, object], str]:
    """A copy of the good register, the mapping in it that holds the path's last key, and that key."""
    data = copy.deepcopy(GOOD)
    inner: object = data
    for step in path[:-1]:
        inner = inner[step]  # type: ignore[index]
    assert isinstance(inner, dict)
    return data, inner, str(path[-1])


def refusal(data: object) -> RegisterError | None:
    return refusal_of_text(json.dumps(data, indent=1, ensure_ascii=False))


def refusal_of_text(text: str) -> RegisterError | None:
    """The error that the text gets, or None when it loads; any other exception is the test's failure."""
    try:
        parse_register(text, "F")
    except RegisterError as error:
        return error
    return None


def has_paths(error: RegisterError) -> bool:
    return all(LINE.match(line) for line in str(error).splitlines())


def optional_keys() -> set[str]:
    kinds = [kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    fields = [field for kind in kinds if kind is not msgspec.Struct for field in msgspec.structs.fields(kind)]
    return {field.name for field in fields if not field.required}


def test_the_register_to_be_broken_is_whole() -> None:
    assert refusal(GOOD) is None
    assert set(GOOD) == {field.name for field in msgspec.structs.fields(RegisterFile)}


@QUICK
@given(SITES, st.text("abcxyz_-", min_size=1, max_size=12))
def test_a_renamed_key_is_always_refused_by_its_name(path: Path, name: str) -> None:
    data, parent, key = broken(path)
    new = f"{key}{name}x"
    parent[new] = parent.pop(key)
    error = refusal(data)
    assert error is not None
    assert spell((*path[:-1], new)) in {mistake.where for mistake in error.mistakes}


@QUICK
@given(SITES)
def test_a_deleted_key_is_missed_or_was_optional(path: Path) -> None:
    data, parent, key = broken(path)
    del parent[key]
    error = refusal(data)
    assert has_paths(error) if error else key in optional_keys()


@QUICK
@given(SITES, st.sampled_from(([["x"]], {"x": {"y": 1}}, [None], 1.5)))
def test_a_value_of_a_wrong_type_is_refused_at_its_path(path: Path, wrong: object) -> None:
    data, parent, key = broken(path)
    if wrong == 1.5 and isinstance(parent[key], int | float):
        return
    parent[key] = wrong
    error = refusal(data)
    assert error is not None or (wrong == 1.5 and key in ("by", "probability"))
    assert error is None or any(mistake.where.startswith(spell(path)) for mistake in error.mistakes)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@QUICK
@given(SITES, VALUES)
def test_any_value_anywhere_loads_or_is_refused_with_a_path(path: Path, value: object) -> None:
    data, parent, key = broken(path)
    parent[key] = value
    error = refusal(data)
    assert error is None or has_paths(error)


@QUICK
@given(st.data())
def test_text_cut_and_spliced_loads_or_is_refused_with_a_path(draw: st.DataObject) -> None:
    text = json.dumps(GOOD, indent=1)
    start = draw.draw(st.integers(0, len(text)))
    end = draw.draw(st.integers(start, min(len(text), start + 40)))
    splice = draw.draw(st.text(st.sampled_from("{}[]:,-&*!|>'\"%@`#?~ \n\t01.eaé"), max_size=12))
    error = refusal_of_text(text[:start] + splice + text[end:])
    assert error is None or has_paths(error)


@QUICK
@given(st.text(max_size=200))
def test_any_text_is_refused_with_a_path(text: str) -> None:
    error = refusal_of_text(text)
    assert error is not None
    assert LINE.match(str(error))
