"""How a command is supervised, and the user's own file with what a restart may change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from premortem.core.errors import ConfigError
from premortem.registers.schema import Scalar
from premortem.stages.process.edits import Edit, Value
from premortem.stages.process.handing import Hand
from premortem.stages.process.progress import STEPS
from premortem.stages.process.sizes import parse_size

LimitBy = Literal["auto", "group", "watching"]
Less = Literal["less-memory", "offline", "cpu"]
_LEAST = 1 << 20
"""Bytes. Under a lower limit the kernel kills in the middle of exec and counts no kill for memory."""


class EditRow(msgspec.Struct, forbid_unknown_fields=True):
    """One edit as the file has it."""

    file: str
    path: str
    set: Value | None = None
    scale: Annotated[float, msgspec.Meta(gt=0)] | None = None


class HandRow(msgspec.Struct, forbid_unknown_fields=True):
    """What a restart of one kind hands down beside premortem's own table."""

    environment: dict[str, str | int | float] = {}
    edits: list[EditRow] = []


class ConfigRow(msgspec.Struct, forbid_unknown_fields=True):
    """The file of ``--config``."""

    progress: str | None = None
    settings: dict[Less, HandRow] = {}
    params: dict[str, dict[str, Scalar]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a command is supervised.

    Attributes:
        memory_limit: bytes for the whole tree; ``None``: only the machine's and the control group's own limits.
        limit_by: ``group`` insists on a control group of the command's own, ``watching`` does without.
        restarts: starts beyond the first, at most.
        same_crashes: so many equal endings in a row without progress are a loop.
        heartbeat_s: silence after which something is done; ``None``: it is recorded only.
        heartbeat_file: a file whose change is the sign of life, instead of output and processor time.
        watch_disk: the folder whose file system is watched.
        disk_free: bytes below which the command is paused.
        grace_s: seconds between SIGTERM and SIGKILL.
        backoff_s: seconds before the second restart; doubled for each that makes no progress.
        every_s: seconds between two looks.
        progress, progress_files: what counts as progress.
        hands: what the user adds to a restart, by kind.
        params: of risks, by risk id.
    """

    memory_limit: int | None = None
    limit_by: LimitBy = "auto"
    restarts: int = 10
    same_crashes: int = 3
    heartbeat_s: float | None = None
    heartbeat_file: Path | None = None
    watch_disk: Path = Path()
    disk_free: int = 1 << 28
    grace_s: float = 10.0
    backoff_s: float = 1.0
    every_s: float = 0.25
    progress: re.Pattern[str] = STEPS
    progress_files: tuple[Path, ...] = ()
    hands: Mapping[str, Hand] = field(default_factory=dict)
    params: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.restarts < 0:
            raise ConfigError(f"--restarts: found {self.restarts}, expected 0 or more")
        if self.memory_limit is not None and self.memory_limit < _LEAST:
            raise ConfigError(f"--memory-limit: found {self.memory_limit} bytes, expected at least 1M: "
                              "in less no program can be started")  # fmt: skip
        if not self.watch_disk.is_dir():
            raise ConfigError(f"--watch-disk: found {str(self.watch_disk)!r}, which is no folder here; expected one")


def read_pattern(text: str, where: str) -> re.Pattern[str]:
    """A pattern whose first group is the step number; raises ``ConfigError``."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"{where}: found {text!r}, which is no regular expression ({error})") from None
    if pattern.groups < 1:
        raise ConfigError(f"{where}: found {text!r}, expected a group around the step number, such as 'step=(\\d+)'")
    return pattern


def read_config(path: Path) -> ConfigRow:
    """The user's file.

    Raises:
        ConfigError: it cannot be read, or has a mistake; the message has the path inside the file.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ConfigError(f"--config: {path} cannot be read ({why}); name a readable YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(f"--config: {path}{at}: found what is no YAML ({getattr(error, 'problem', error)})") from None
    try:
        found = msgspec.convert({} if document is None else document, ConfigRow)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--config: {path}: {error}; see docs/supervise.md for its form") from None
    for kind, row in found.settings.items():
        for i, edit in enumerate(row.edits):
            if (edit.set is None) == (edit.scale is None):
                where = f"--config: {path}: $.settings.{kind}.edits[{i}]"
                raise ConfigError(f"{where}: found {edit.set!r} and {edit.scale!r}, expected one of set and scale")
    return found


def hands_of(config: ConfigRow, folder: Path) -> dict[str, Hand]:
    """What the file adds, its paths taken from its own folder."""
    return {
        kind: Hand(
            {name: str(value) for name, value in row.environment.items()},
            tuple(Edit(file=folder / e.file, path=e.path, set_to=e.set, scale=e.scale) for e in row.edits),
        )
        for kind, row in config.settings.items()
    }


def read_share_or_size(text: str, total: int, where: str) -> int:
    """A size, or a share of ``total`` bytes such as ``80%``; raises ``ConfigError``."""
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if share is None:
        return parse_size(text, where)
    if not 0 < float(share[1]) <= 100:
        raise ConfigError(f"{where}: found {text!r}, expected a share above 0 % and at most 100 %")
    return int(total * float(share[1]) / 100)
