"""A real, small file system that really fills up in mid-run.

The unguarded twin saves as most scripts do: ``torch.save`` to a new file each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from premortem.core.drill import Bounds
from premortem.faults.disk import FilledDisk, FullTmpfs
from premortem.faults.fault import Fault
from premortem.risks.case import TrainingCase
from premortem.stages.train.trainable import Trainable, small_language_model

AT = 200
SIZE = 64 << 20
LEFT = 1 << 19
"""Less than one bundle of the drill's model (1.5 MiB): the next save must fail where nothing is deleted."""
GIB = 1 << 30


@contextmanager
def small_file_system() -> Iterator[Path]:
    """A tmpfs of 64 MiB; raises ``NotPermitted`` where the user may not mount one."""
    with FullTmpfs(SIZE, leave_bytes=None) as place:
        yield place.folder


def filled(run: Trainable, folder: Path) -> Fault:
    """Someone else's data takes what is free, but for half a MiB."""
    return FilledDisk(folder, leave_bytes=LEFT)


CASES = (
    TrainingCase(
        name="file system full", build=small_language_model, fault=filled, at=AT, lasts=math.inf,
        bounds=Bounds(detect_within=16), place=small_file_system, plain_saves=10,
        options={"save_every": 10, "prune_by_hand": True},
        params={"train/storage-full": {"prune_below_gb": 4 * 2**20 / GIB, "stop_below_gb": 0.5 * 2**20 / GIB}},
    ),
)  # fmt: skip
