"""One look for all figures of the report: SVG whose colours are the page's own, light or dark."""

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from pendel.base import Array

# Colours that no figure would use stand for variables of the page's style sheet. The palette is Okabe and Ito's
# (2008), which colour-blind readers tell apart; its lightness differs in grey, too.
INK, MUTED, GRID, BLUE, ORANGE, GREEN = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange", GREEN: "green"}
WIDTH, HEIGHT = 4.6, 3.1  # inches; text stays readable on a phone
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "pendel",  # the same figure gives the same file
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, MUTED]),
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.0,
    "path.simplify": False,  # it would drop the strokes of `dots`
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Figures made inside have the report's style."""
    with matplotlib.rc_context(STYLE):
        yield


def axes(*, width: float = WIDTH, height: float = HEIGHT, xlabel: str = "", ylabel: str = "") -> tuple[Figure, Axes]:
    """A figure with one pair of labelled axes; not known to pyplot, so that nothing has to be closed."""
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.add_subplot()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure, ax


def dots(ax: Axes, x: Array, y: Array, *, size: float = 2.5, **style: Any) -> None:
    """Points as strokes without length, whose round ends are the dots: one element where markers are thousands."""
    strokes(ax, x, x, y, y, linewidth=size, solid_capstyle="round", **style)


def strokes(ax: Axes, x: Array, x_end: Array, y: Array, y_end: Array, **style: Any) -> None:
    """Straight strokes from (x, y) to (x_end, y_end) as one line with gaps."""
    gap = np.full(len(x), np.nan)
    ax.plot(*(np.stack([start, end, gap], axis=1).ravel() for start, end in ((x, x_end), (y, y_end))), **style)


def as_svg(figure: Figure, *, name: str, description: str) -> str:
    """An SVG element for a page. name: unique on the page; description: for those who cannot see it."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"font: ([^;'\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    size = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', text)
    text = re.sub(r"<svg[^>]*>", "", text, count=1)
    box = f"0 0 {size[1]} {size[2]}" if size else "0 0 331 223"
    label = html.escape(description)
    return f'<svg role="img" aria-label="{label}" viewBox="{box}" xmlns:xlink="http://www.w3.org/1999/xlink">{text}'
