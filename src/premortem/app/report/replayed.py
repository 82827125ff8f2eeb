"""A replay as a picture and as a page that stands alone: the recorded loss, and where the guard would have spoken.

``python -m premortem.app.report.replayed`` makes ``docs/img/replay.svg`` from a log that it writes itself.
"""

from __future__ import annotations

import io
import math
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jinja2

from premortem.app.report.curve import Drawing, Mark, svg_of
from premortem.app.report.gather import Curve
from premortem.app.report.picture import INK
from premortem.app.report.place import write_bytes, write_whole
from premortem.core.errors import ConfigError
from premortem.run.replay.replay import Replayed, replay
from premortem.run.replay.verdict import notes_of

DEFAULT = Path("docs/img/replay.svg")
_WORDS = 6
_MARKS = 200
_SEEN, _LATER = "#d1492e", "#b7791f"


def drawing_of(found: Replayed) -> Drawing:
    """The loss in buckets, so that a peak of one step shows in a million; a mark for each incident."""
    points = found.loss.points()
    curve = Curve([step for step, _ in points], [value for _, value in points])  # type: ignore[misc]
    opened = [alarm for alarm in found.heard.alarms if alarm.incident is not None]
    marks = [
        Mark(int(a.step), f"{a.level}: {a.watch}" if i < _WORDS else "", _SEEN if i < _WORDS else _LATER)
        for i, a in enumerate(opened[:_MARKS])
    ]
    title = f"{found.path.name}: {found.heard.num_incidents} incident{'s' * (found.heard.num_incidents != 1)}"
    return Drawing(title, "recorded loss (log scale)", {"recorded": curve}, marks, across="step of the log")


def write_picture(found: Replayed, path: Path) -> Path:
    """As SVG or, by the name's end, as PNG; raises ``ConfigError`` where the place does not take it."""
    svg = svg_of(drawing_of(found))
    if path.suffix.lower() == ".png":
        return write_bytes(path, _png(found), "picture")
    end = svg.index(">") + 1
    return write_whole(path, f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:end]}{INK}{svg[end:]}\n', "picture")


def write_page(found: Replayed, path: Path) -> Path:
    """Curve, timeline and what was not watched; raises ``ConfigError`` where the place does not take it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("replay.html.j2").render(
        found=found, curve=svg_of(drawing_of(found)), notes=notes_of(found), heard=found.heard, walk=found.walk
    )
    return write_whole(path, page, "page")


def _png(found: Replayed) -> bytes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "--picture: PNG needs matplotlib, which is missing; pip install premortem[report], or write .svg"
        ) from None
    from premortem.app.report.curve import draw

    figure = Figure(figsize=(9.6, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot(), drawing_of(found), ink="#1f2328")
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def example_log(path: Path, *, steps: int = 4000, onset: int = 2600) -> Path:
    """A recorded loss that falls, leaps for one step, and from ``onset`` climbs away and stays up; seeded."""
    draw, lines = random.Random(3), ["step,loss,grad_norm,lr,time"]
    for step in range(steps):
        wrong = math.exp(min(0.004 * (step - onset), 1.1)) if step >= onset else 1.0
        leap = 2.5 if step == 1400 else 1.0
        loss = (1.5 + 8.0 * (step + 5) ** -0.5) * math.exp(draw.gauss(0.0, 0.03)) * wrong * leap
        norm = (0.6 + abs(draw.gauss(0.4, 0.06))) * wrong**1.5 * leap
        lines.append(f"{step},{loss:.5f},{norm:.5f},{3e-4 * (1 - step / steps):.4g},{0.25 * step:.2f}")
    return write_whole(path, "\n".join(lines) + "\n", "log")


def make_picture(path: Path) -> Path:
    """Write the example, replay it, draw it."""
    with tempfile.TemporaryDirectory(prefix="premortem-replay-") as folder:
        return write_picture(replay(example_log(Path(folder) / "train.csv")), path)


def _main(arguments: list[str]) -> Iterator[Path]:
    if arguments[:1] == ["--log"]:
        yield example_log(Path(arguments[1]))
    else:
        yield make_picture(Path(arguments[0]) if arguments else DEFAULT)


if __name__ == "__main__":
    print(*_main(sys.argv[1:]))
