"""Curves as inline SVG: by matplotlib where it is installed, else drawn by hand; readable on light and on dark.

No colour of text or axes is fixed: they take the page's own (``currentColor``).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from premortem.app.report.gather import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"guarded": "#2f81f7", "unguarded": "#d1492e", "recorded": "#2f81f7"}
_INK = "#7f7f01"
"""A stand-in for the page's colour: matplotlib wants one, and it is replaced in its SVG."""
_WIDTH, _HEIGHT = 860, 360
_STRIP, _LINE, _LINES = 0.36, 0.066, 6
"""Of the height, for the words of the marks; and for each of their lines."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line with a word at a tick."""

    tick: int
    word: str
    colour: str = "#8250df"


@dataclass(frozen=True, slots=True)
class Drawing:
    """What to draw: arms by name, on a log scale."""

    title: str
    unit: str
    arms: Mapping[str, Curve]
    marks: Sequence[Mark] = ()
    across: str = "optimiser steps tried"


def svg_of(drawing: Drawing) -> str:
    """One ``<svg>`` element without external resources."""
    try:
        return _by_matplotlib(drawing)
    except ImportError:
        return _by_hand(drawing)


def _by_matplotlib(drawing: Drawing) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "premortem", "font.family": "sans-serif", "font.size": 11,
        "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
        "ytick.color": _INK,
    }  # fmt: skip
    with mpl.rc_context(style):  # type: ignore[arg-type]
        figure = Figure(figsize=(_WIDTH / 90, _HEIGHT / 90), dpi=90, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot(), drawing, _INK)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), drawing)


def draw(axes: Axes, drawing: Drawing, ink: str) -> None:
    """Draw on any axes of matplotlib's."""
    axes.set_yscale("log")
    for name, curve in sorted(drawing.arms.items(), reverse=True):
        axes.plot(curve.ticks, _drawable(curve.values), color=COLOURS[name], linewidth=1.6, label=name)
    _mark_by_matplotlib(axes, drawing)
    axes.set_title(drawing.title.replace("$", r"\$"), loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(drawing.across)
    axes.set_ylabel(drawing.unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.18, color=ink, linewidth=0.6)
    axes.margins(x=0.01)
    axes.legend(frameon=False, loc="lower left")


def _mark_by_matplotlib(axes: Axes, drawing: Drawing) -> None:
    """A line for each mark; its word stands in a strip above the curves, so that neither hides the other."""
    last = max((tick for curve in drawing.arms.values() for tick in curve.ticks), default=1)
    low, high = (math.log10(limit) for limit in axes.get_ylim())
    if any(mark.word for mark in drawing.marks):
        axes.set_ylim(top=10 ** (high + _STRIP * (high - low) / (1 - _STRIP)))
    for level, mark in enumerate(drawing.marks):
        top = 1 - _LINE * (level % _LINES) if mark.word else 1.0  # below the words of the marks before it
        axes.axvline(mark.tick, ymax=top, color=mark.colour, linewidth=1, linestyle=(0, (4, 3)))
        left = mark.tick < 0.72 * last
        axes.annotate(
            mark.word, (mark.tick, top), xycoords=("data", "axes fraction"),
            xytext=(5 if left else -5, -1), textcoords="offset points", va="top", ha="left" if left else "right",
            color=mark.colour, fontsize=9.5,
        )  # fmt: skip


def _inline(text: str, drawing: Drawing) -> str:
    """Only the element, in the page's colour, with a name that a screen reader says."""
    svg = text[text.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(drawing.title)}"', 1)


def _drawable(values: Sequence[float]) -> list[float]:
    """A log scale knows no zero, and a line has a gap where a value is not finite."""
    return [v if math.isfinite(v) and v > 0 else math.nan for v in values]


# --- without matplotlib ------------------------------------------------------------------------

_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 16.0, 34.0, 40.0


@dataclass(frozen=True, slots=True)
class _Scale:
    last: float
    low: float
    high: float

    def x(self, tick: float) -> float:
        return _LEFT + (tick / self.last) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _by_hand(drawing: Drawing) -> str:
    values = [v for curve in drawing.arms.values() for v in _drawable(curve.values) if not math.isnan(v)]
    last = max((tick for curve in drawing.arms.values() for tick in curve.ticks), default=1)
    low, high = (math.log10(min(values)), math.log10(max(values))) if values else (-1.0, 1.0)
    high = max(high, low + 0.1) + 0.05
    strip = _STRIP * (high - low) / (1 - _STRIP) if any(mark.word for mark in drawing.marks) else 0.0
    scale = _Scale(max(last, 1), low - 0.05, high + strip)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(drawing.title)}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="currentColor">',
        f'<text x="{_LEFT}" y="18" font-weight="bold">{escape(drawing.title)}</text>',
        *_axes(scale, drawing.across),
    ]
    for level, mark in enumerate(drawing.marks):
        x, y = scale.x(mark.tick), _TOP + 12 + 15 * (level % _LINES)
        parts.append(
            f'<path d="M{x:.1f} {y - 11:.1f}V{_HEIGHT - _BOTTOM}" stroke="{mark.colour}" stroke-dasharray="4 3"/>'
        )
        parts.append(f'<text x="{x + 4:.1f}" y="{y}" fill="{mark.colour}">{mark.word}</text>')
    for i, (name, curve) in enumerate(sorted(drawing.arms.items(), reverse=True)):
        parts.append(f'<path d="{_path(curve, scale)}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.6"/>')
        y = _HEIGHT - _BOTTOM - 10 - 16 * i
        parts.append(f'<text x="{_LEFT + 10}" y="{y}" fill="{COLOURS[name]}">{name}</text>')
    return "".join([*parts, "</svg>"])


def _axes(scale: _Scale, across: str) -> list[str]:
    parts = []
    for power in range(math.ceil(scale.low), math.floor(scale.high) + 1):
        y = scale.y(10.0**power)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".2"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for share in range(5):
        tick = round(scale.last * share / 4)
        parts.append(f'<text x="{scale.x(tick):.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 5}" text-anchor="middle">{across}</text>')
    return parts


def _path(curve: Curve, scale: _Scale) -> str:
    drawn, pen = [], "M"
    for tick, value in zip(curve.ticks, _drawable(curve.values), strict=True):
        if math.isnan(value):
            pen = "M"
            continue
        drawn.append(f"{pen}{scale.x(tick):.1f} {scale.y(value):.1f}")
        pen = "L"
    return "".join(drawn)
