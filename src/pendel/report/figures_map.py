"""Sections through a difference potential."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pendel.report.style import BLUE, INK, MUTED, ORANGE, axes

STEP = 2.0  # contours at this many rms, and multiples
MOST_LEVELS = 8


def section(plane: dict[str, Any], rms: float) -> Figure:
    """Contours (blue where the structure lacks potential, orange and dashed where it has too much) and atoms."""
    values, offset = np.array(plane["values"]), np.array(plane["offset"])
    figure, ax = axes(height=4.0, xlabel="distance from the peak / Å", ylabel="Å")
    step = max(STEP * rms, np.abs(values).max() / MOST_LEVELS)
    levels = step * np.arange(1, MOST_LEVELS + 1)
    for sign, colour, style in ((1, BLUE, "solid"), (-1, ORANGE, "dashed")):
        if (sign * values).max() > step:
            ax.contour(offset, offset, sign * values, levels=levels, colors=colour, linestyles=style, linewidths=0.9)
    for (x, y), label in zip(plane["atoms"], plane["labels"], strict=True):
        ax.plot(x, y, "+", color=INK, markersize=6)
        ax.annotate(label, (x, y), xytext=(3, 3), textcoords="offset points", color=INK)
    ax.plot(0, 0, "o", mfc="none", color=MUTED, markersize=7)
    ax.set_aspect("equal")
    ax.set(xlim=(offset[0], offset[-1]), ylim=(offset[0], offset[-1]))
    return figure
