"""The picture of a rescued run: ``python -m premortem.app.report.picture`` makes ``docs/img/rescued.svg``.

It runs the main job anew in a temporary folder: real training, real fault, guarded and unguarded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from premortem.app.report.curve import svg_of
from premortem.app.report.gather import Gathered, gather
from premortem.app.report.place import write_whole
from premortem.app.report.story import loss_drawing
from premortem.core.errors import ConfigError
from premortem.ledger.ledger import Ledger

DEFAULT = Path("docs/img/rescued.svg")
INK = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"


def write_picture(found: Gathered, path: Path) -> Path:
    """The last run's loss, as an SVG that is readable on light and on dark.

    Raises:
        ConfigError: the ledger holds no curve; the place cannot be written.
    """
    drawing = loss_drawing(found)
    if drawing is None:
        raise ConfigError("picture: found no curve in the ledger, expected a run's; run `premortem run` first")
    svg = svg_of(drawing)
    end_of_tag = svg.index(">") + 1
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return write_whole(path, f"{head}{svg[:end_of_tag]}{INK}{svg[end_of_tag:]}\n", "picture")


def make_picture(path: Path) -> Path:
    """Run the main job and draw it."""
    from premortem.run.job import Audience, Job, run_job

    with tempfile.TemporaryDirectory(prefix="premortem-picture-") as folder:
        place = Path(folder) / "ledger.db"
        run_job(Job(folder=Path(folder)), place, Audience(lambda moment: None, lambda record: None))
        ledger = Ledger.open(place)
        try:
            return write_picture(gather(ledger), path)
        finally:
            ledger.close()


if __name__ == "__main__":
    print(make_picture(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT))
