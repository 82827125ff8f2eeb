"""Register files into memory: pass one of binding, with every mistake of a file shown at once.

Imports no risk and no tensor library. Reading all built-in registers takes about 50 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path as FilePath
from typing import TypeVar

import msgspec
from yaml.nodes import Node, SequenceNode

from premortem.core.errors import ConfigError
from premortem.registers.mistake import Mistake, Path, RegisterError, closest
from premortem.registers.rules import Found, Parts, broken_rules
from premortem.registers.schema import (
    Band,
    Checklist,
    Criterion,
    Entry,
    Escalation,
    Flag,
    Gate,
    RegisterFile,
    Response,
    Rollback,
)
from premortem.registers.shape import Shape
from premortem.registers.source import MAX_BYTES, BlemishError, compose, is_text, locate, pairs, plain

_FOLDER = FilePath(__file__).parent
_BUILTIN = ("hrm", "ultrathink", "agent-forge", "ryzanstein", "default", "supervise")
T = TypeVar("T")
_ENTER = "expected a register: a YAML file, or one of " + ", ".join(_BUILTIN)


def builtin_names() -> tuple[str, ...]:
    """The registers in the box: four from their sources, and ``default`` for any training run."""
    return _BUILTIN


def load_all() -> dict[str, RegisterFile]:
    """All built-in registers under their names."""
    return {name: load_register(name) for name in _BUILTIN}


def load_register(path_or_name: str | FilePath) -> RegisterFile:
    """Read one register.

    Args:
        path_or_name: a file, or the name of a built-in register. A name wins over a file of that name;
            write ``./hrm`` for the file.

    Raises:
        ConfigError: as `RegisterError`, one line ``FILE:LINE: PATH: found …, expected …`` for each mistake;
            plain when there is no file to read.
    """
    if isinstance(path_or_name, str) and path_or_name in _BUILTIN:
        file = _FOLDER / f"{path_or_name}.yaml"
        return parse_register(_read(file), file.name)
    return parse_register(_read(FilePath(path_or_name)), str(path_or_name))


def parse_register(text: str, file: str = "<text>") -> RegisterFile:
    """Read a register from text; ``file`` is its name in messages.

    Raises:
        RegisterError: with every mistake of the text.
    """
    root = compose(text, file)
    if root is None:
        raise RegisterError(file, [Mistake(1, 1, (), "found an empty file, expected a mapping; write a register")])
    try:
        register = msgspec.convert(plain(root), RegisterFile)
    except (BlemishError, msgspec.ValidationError) as error:
        raise RegisterError(file, _diagnose(root, error)) from None
    broken = list(broken_rules(Parts.of(register)))
    if broken:
        raise RegisterError(file, _located(root, broken))
    return register


def _read(file: FilePath) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{file}: found no such file, {_ENTER}{closest(file.stem, _BUILTIN)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{file}: cannot be read ({reason}), {_ENTER}; mend the path or its rights") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{file}: found more than {MAX_BYTES} bytes, expected a register; split the file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"found byte 0x{content[error.start]:02x}, expected UTF-8 text; save the file as UTF-8"
        raise RegisterError(str(file), [Mistake(line, 1, (), text)]) from None


def _diagnose(root: Node, error: Exception) -> list[Mistake]:
    """All mistakes of a file that does not load: of shape, and of rules in what has the right shape."""
    mistakes = Shape().check(root)
    mistakes += _located(root, broken_rules(_sound_parts(root, {found.path[:2] for found in mistakes})))
    return mistakes or [Mistake(1, 1, (), f"found a file that does not load ({error}), expected a register")]


def _located(root: Node, broken: Iterable[Found]) -> list[Mistake]:
    return [Mistake(*locate(root, path), path, text) for path, text in broken]


def _sound_parts(root: Node, bad: Set[Path]) -> Parts:
    """What of a file has no mistake of shape; ``bad`` holds the paths of the other items."""
    return Parts(
        ids=_raw_ids(root),
        entries=_sound(root, "entries", Entry, bad),
        escalation=_sound(root, "escalation", Escalation, bad),
        responses=_sound(root, "responses", Response, bad),
        bands=_sound(root, "bands", Band, bad),
        gates=_sound(root, "gates", Gate, bad),
        criteria=_sound(root, "criteria", Criterion, bad),
        flags=_sound(root, "flags", Flag, bad),
        rollbacks=_sound(root, "rollbacks", Rollback, bad),
        checklists=_sound(root, "checklists", Checklist, bad),
    )


def _sound(root: Node, section: str, kind: type[T], bad: Set[Path]) -> dict[int, T]:
    items = [] if (section,) in bad else _items(root, section)
    return {i: msgspec.convert(plain(item), kind) for i, item in enumerate(items) if (section, i) not in bad}


def _raw_ids(root: Node) -> set[str]:
    """The ids of all entries, those with a mistake too: a gate may name them."""
    found = (value for item in _items(root, "entries") for key, value in pairs(item) if key.value == "id")
    return {value.value for value in found if is_text(value)}


def _items(root: Node, section: str) -> list[Node]:
    lists = (value for key, value in pairs(root) if is_text(key) and key.value == section)
    return next((value.value for value in lists if isinstance(value, SequenceNode)), [])
