"""What a data set is and where it can be had: plain data, and a YAML file of one's own.

::

    schema: premortem/datasets/v1
    sets:
      - name: gsm8k
        config: main
        columns: [question, answer]
        mirrors:
          - hub: openai/gsm8k
          - url: https://example.org/gsm8k/train.jsonl
            sha256: 0f3c…
          - folder: /backup/gsm8k
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from premortem.core.errors import ConfigError

SCHEMA = "premortem/datasets/v1"
MirrorKind = Literal["hub", "datasets", "url", "folder"]
KINDS: tuple[MirrorKind, ...] = ("hub", "datasets", "url", "folder")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Mirror:
    """One place that has a set.

    Attributes:
        kind: `hub`: by name from the hub's API, every file held against the hash that it names; `datasets`: by
            name through `datasets.load_dataset`, in a process of its own; `url`: one file; `folder`: local files.
        place: owner/name, address or folder.
        revision: of a hub's set: a branch, tag or commit.
        sha256: of the one file there; a hub names its own. Without it a first fetch can only be checked for
            length and form.
        config: another name of the configuration at this place; the set's own when empty.
        endpoint: another hub than the one of `HF_ENDPOINT`, such as a mirror of it; no token is ever sent there.
    """

    kind: MirrorKind
    place: str
    revision: str = "main"
    sha256: str = ""
    config: str = ""
    endpoint: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}{f' at {self.endpoint}' if self.endpoint else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A set that a run needs.

    Attributes:
        name: what it is called here, unique among the sets of a run.
        config, split: which part of it.
        columns: that each of the first rows must have; at least one value of each must not be empty.
        mirrors: in the order in which they are tried; empty: the hub, by `name`.
        max_files: only so many files of the split, in the order of their names; 0 takes all.
        note: for people.
    """

    name: str
    config: str = ""
    split: str = "train"
    columns: tuple[str, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    max_files: int = 0
    note: str = ""

    @property
    def places(self) -> tuple[Mirror, ...]:
        """The mirrors, or the hub by name where none was given."""
        return self.mirrors or (Mirror("hub", self.name), Mirror("datasets", self.name))

    def __str__(self) -> str:
        part = f"{self.config}, {self.split}" if self.config else self.split
        return f"{self.name} ({part})"


def read_sources(path: str | Path) -> tuple[Source, ...]:
    """The sets of a YAML file.

    Raises:
        ConfigError: a file that cannot be read, or anything in it that is not as the module's text says.
    """
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as a list of data sets: {said}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("sets"), list):
        raise ConfigError(f"{path}: expected 'schema: {SCHEMA}' and a list 'sets'; see docs/data.md")
    sources = tuple(_source(row, f"{path}: $.sets[{i}]") for i, row in enumerate(content["sets"]))
    for i, source in enumerate(sources):
        if source.name in {other.name for other in sources[:i]}:
            raise ConfigError(f"{path}: $.sets[{i}].name: {source.name!r} is there twice; give each its own name")
    if not sources:
        raise ConfigError(f"{path}: $.sets is empty, expected at least one set")
    return sources


def _source(row: object, where: str) -> Source:
    given = dict(_mapping(row, {f.name for f in fields(Source)}, where))
    columns, mirrors = given.pop("columns", []), given.pop("mirrors", [])
    for name, value in given.items():
        expected = int if name == "max_files" else str
        if type(value) is not expected:
            raise ConfigError(f"{where}.{name}: found {value!r}, expected a {expected.__name__}")
    if not given.get("name"):
        raise ConfigError(f"{where}.name: missing; name the set")
    if not (isinstance(columns, list) and all(isinstance(c, str) for c in columns) and isinstance(mirrors, list)):
        raise ConfigError(f"{where}: expected 'columns' as a list of names and 'mirrors' as a list")
    places = tuple(_mirror(m, f"{where}.mirrors[{i}]") for i, m in enumerate(mirrors))
    return Source(columns=tuple(columns), mirrors=places, **given)


def _mirror(row: object, where: str) -> Mirror:
    given = dict(_mapping(row, {*KINDS, "revision", "sha256", "config", "endpoint"}, where))
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: expected exactly one of {', '.join(KINDS)}, found {', '.join(kinds) or 'none'}")
    for name, value in given.items():
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}.{name}: found {value!r}, expected a text")
    if given.get("sha256") and not _SHA256.fullmatch(given["sha256"]):
        raise ConfigError(f"{where}.sha256: found {given['sha256']!r}, expected 64 hex digits in lower case")
    place = given.pop(kinds[0])
    for name, address in ((kinds[0], place if kinds[0] == "url" else ""), ("endpoint", given.get("endpoint", ""))):
        if address and not address.startswith(("http://", "https://")):
            raise ConfigError(f"{where}.{name}: found {address!r}, expected an address with http:// or https://")
    return Mirror(kinds[0], place, **given)


def _mapping(row: object, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: found {row!r}, expected a mapping with a name")
    unknown = [str(key) for key in row if key not in known]
    if unknown:
        raise ConfigError(f"{where}: found the unknown {unknown[0]!r}, expected one of {', '.join(sorted(known))}")
    return row
