"""The report as one page that stands alone: no script, no external resource."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from premortem.app.report.curve import svg_of
from premortem.app.report.place import write_whole
from premortem.app.report.story import drawings

if TYPE_CHECKING:
    from premortem.app.report.gather import Gathered


def write_page(found: Gathered, path: Path) -> Path:
    """Write the page whole or not at all; raises ``ConfigError`` where the place does not take it."""
    return write_whole(path, render(found), "report")


def render(found: Gathered) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(when=_when, figure=_figure, tone=_tone, name=lambda run: Path(run).name)
    curves = [svg_of(drawing) for drawing in drawings(found)]
    watched = [proof for proof in found.proofs if proof.state != "planned"]
    planned = [proof for proof in found.proofs if proof.state == "planned"]
    return environment.get_template("report.html.j2").render(
        found=found, last=found.last, curves=curves, watched=watched, planned=planned, made=time.time(),
        rows=found.verified.num_rows,
    )  # fmt: skip


def _when(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall))


def _figure(value: object) -> str:
    if value is None:
        return "lost"
    if isinstance(value, int | float):
        return f"{value:.4g}" if math.isfinite(value) else "lost"
    return str(value)


_TONES = {
    "good": ("recovered", "proven", "helped", "recovered (held)"),
    "bad": ("handed over", "not proven", "failed", "RED", "CRITICAL", "stale"),
    "hm": ("open", "inconclusive", "missing", "YELLOW"),
}


def _tone(word: str) -> str:
    return next((tone for tone, words in _TONES.items() if word in words), "calm")
