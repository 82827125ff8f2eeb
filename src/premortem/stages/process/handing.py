"""What each kind of restart hands down: a small table with real effect on programs that know nothing of premortem.

``less-memory`` has two levels, ``offline`` and ``cpu`` one. A variable that the user has set stays as it is, except
where the kind would mean nothing then. All of it acts at the next start only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from premortem.stages.process.edits import Edit, EditedFiles
from premortem.stages.process.settings import VARIABLE, Settings, write_settings

Levels = Mapping[str, int]
KINDS = ("less-memory", "offline", "cpu")

_SAVE_MEMORY = {
    "MALLOC_ARENA_MAX": "2",  # glibc keeps an arena for each thread otherwise
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # less fragmentation on the device
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # its name from torch 2.9 on
}
_SAVE_MORE = {"MALLOC_TRIM_THRESHOLD_": "131072", "TOKENIZERS_PARALLELISM": "false"}
_OFFLINE = {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_NO_DEVICE = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


@dataclass(frozen=True, slots=True)
class Hand:
    """What the user adds to a restart of one kind."""

    environment: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()


class Handing:
    """Makes the environment, the settings file and the edits of a start.

    Args:
        base: the environment that the supervisor was started with.
        folder: where the settings file goes.
        hands: what the user adds, by kind.
    """

    def __init__(self, base: Mapping[str, str], folder: Path, hands: Mapping[str, Hand]) -> None:
        self._base, self._hands = dict(base), hands
        self.path = folder / "settings.json"
        self._files = EditedFiles(tuple(edit for hand in hands.values() for edit in hand.edits))

    def environment(self, levels: Levels) -> dict[str, str]:
        """All of the environment at these levels."""
        own: dict[str, str] = {}
        if levels.get("less-memory", 0) >= 1:
            own.update(_SAVE_MEMORY)
        if levels.get("less-memory", 0) >= 2:
            own.update(_SAVE_MORE)
        found = {**own, **self._base}
        if levels.get("offline"):
            found.update(_OFFLINE)
        if levels.get("cpu"):
            found.update(_NO_DEVICE)
        for kind, hand in self._hands.items():
            if levels.get(kind, 0):
                found.update(hand.environment)
        if settings_of(levels) != Settings():
            found[VARIABLE] = str(self.path)
        return found

    def put(self, levels: Levels) -> dict[str, str]:
        """Write file and edits for a start at these levels; returns its environment."""
        settings = settings_of(levels)
        if settings == Settings():
            self.path.unlink(missing_ok=True)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_settings(self.path.absolute(), settings)
        self._files.apply(self.edits(levels))
        return self.environment(levels)

    def is_put(self, levels: Levels) -> bool:
        """Whether the user's files show the edits of these levels."""
        return self._files.in_force(self.edits(levels))

    def edits(self, levels: Levels) -> tuple[Edit, ...]:
        """The user's edits at these levels: a factor is taken once for each level."""
        found: list[Edit] = []
        for kind, hand in self._hands.items():
            level = levels.get(kind, 0)
            for edit in hand.edits if level else ():
                scale = None if edit.scale is None else edit.scale**level
                found.append(dataclasses.replace(edit, scale=scale))
        return tuple(found)

    def take_back(self) -> None:
        """At the end: the user's files as they were, no settings file."""
        self._files.restore()
        self.path.unlink(missing_ok=True)


def settings_of(levels: Levels) -> Settings:
    """What ``premortem.settings()`` reads at these levels."""
    saving = levels.get("less-memory", 0)
    return Settings(
        micro_batch=0.5**saving, accumulate=2**saving, recompute=saving >= 2, workers=0 if saving >= 2 else -1,
        offline=bool(levels.get("offline")), device="cpu" if levels.get("cpu") else "",
    )  # fmt: skip
