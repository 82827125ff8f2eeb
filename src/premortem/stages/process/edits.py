"""Edits of a user's own configuration file, JSON or YAML, kept so that the original is back at the end.

The first edit puts a copy beside the file (``NAME.premortem-original``); a supervisor that was killed finds it there
and begins from it. A YAML file loses its comments while it is edited; the copy has them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from premortem.core.errors import ConfigError

_SUFFIX = ".premortem-original"
Value = float | int | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One value of one file.

    Attributes:
        file: JSON (``.json``) or YAML.
        path: keys and list positions with dots between: ``training.batch_size``, ``stages.0.batch``.
        set_to: the new value; ``None`` where ``scale`` is given.
        scale: factor on the number that the original has; a whole number stays whole, and at least 1.
    """

    file: Path
    path: str
    set_to: Value | None = None
    scale: float | None = None

    def of(self, document: Any) -> Value:
        """The new value, given the original document; raises ``ConfigError`` where it does not fit."""
        old = find(document, self.path, str(self.file))
        if self.scale is None:
            assert self.set_to is not None
            return self.set_to
        if isinstance(old, bool) or not isinstance(old, int | float):
            raise ConfigError(f"{self.file}: found {old!r} at {self.path}, expected a number to scale")
        new = old * self.scale
        return max(1, int(new)) if isinstance(old, int) else new


def find(document: Any, path: str, file: str) -> Any:
    """The value at a path; raises ``ConfigError`` with the keys that are there."""
    for key in path.split("."):
        at = int(key) if isinstance(document, list) and key.isdigit() else key
        try:
            document = document[at]
        except (KeyError, IndexError, TypeError):
            there = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
            raise ConfigError(f"{file}: found no {key!r} of {path!r}, expected one of {there or 'nothing'}") from None
    return document


class EditedFiles:
    """The files that edits touch. Use :meth:`apply` before a start, :meth:`restore` at the end."""

    def __init__(self, edits: tuple[Edit, ...]) -> None:
        self._files = tuple(dict.fromkeys(edit.file for edit in edits))
        for file in self._files:
            with contextlib.suppress(FileNotFoundError):  # a killed supervisor left its edit
                _copy_of(file).replace(file)
        for edit in edits:  # a mistake is told before anything runs
            edit.of(_read(edit.file))

    def apply(self, edits: tuple[Edit, ...]) -> None:
        """Put exactly these edits in force; of files without any the original is put back."""
        for file in self._files:
            mine = [edit for edit in edits if edit.file == file]
            if mine:
                self._edit(file, mine)
            else:
                self._put_back(file)

    def restore(self) -> None:
        """Put every original back, byte for byte."""
        for file in self._files:
            self._put_back(file)

    def in_force(self, edits: tuple[Edit, ...]) -> bool:
        """Whether the files show these edits now."""
        return all(find(_read(e.file), e.path, str(e.file)) == e.of(_original(e.file)) for e in edits)

    def _edit(self, file: Path, edits: list[Edit]) -> None:
        copy = _copy_of(file)
        if not copy.exists():
            shutil.copy2(file, beside := copy.with_name(f".{copy.name}.{os.getpid()}"))
            beside.replace(copy)
        document = _read(copy)
        values = [(edit.path, edit.of(document)) for edit in edits]
        for path, value in values:
            parent, _, key = path.rpartition(".")
            place = find(document, parent, str(file)) if parent else document
            place[int(key) if isinstance(place, list) else key] = value
        text = json.dumps(document, indent=2) + "\n" if file.suffix == ".json" else yaml.safe_dump(document)
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        beside.write_text(text, "utf-8")
        shutil.copymode(copy, beside)
        beside.replace(file)

    @staticmethod
    def _put_back(file: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            _copy_of(file).replace(file)


def _copy_of(file: Path) -> Path:
    return file.with_name(file.name + _SUFFIX)


def _original(file: Path) -> Any:
    copy = _copy_of(file)
    return _read(copy if copy.exists() else file)


def _read(file: Path) -> Any:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ConfigError(f"{file}: cannot be read ({why}), expected a JSON or YAML file to edit") from None
    try:
        is_json = file.name.removesuffix(_SUFFIX).endswith(".json")
        return json.loads(text) if is_json else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{file}: found what is neither JSON nor YAML ({first})") from None
