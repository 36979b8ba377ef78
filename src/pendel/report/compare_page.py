"""A page that shows several runs side by side."""

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pendel.files.numbers import format_su
from pendel.files.whole_file import write_text
from pendel.folder.reader import RunFiles
from pendel.judge.headline import Headline, headline
from pendel.judge.parameters import BAND, FIXED
from pendel.judge.side_by_side import Coordinates, coordinates, different_settings
from pendel.report.page import rendered, with_captions
from pendel.report.parameter_tables import percent
from pendel.report.style import BLUE, GREEN, MUTED, ORANGE, axes, drawing

LINES = ("-", "--", ":")
DENSITIES = {"elpd": "log predictive density", "difference": "difference to the best"}
FURTHER = {"unreliable": "measurements with unreliable weights", "by frame": "by frame (unreliable)"}


def write_comparison(path: Path, runs: Sequence[RunFiles], found: dict[str, list] | None) -> None:
    """Write a page that compares runs, one column for each; the first one is what coordinates are compared with.

    Args:
        found: predictive densities and hands, see `pendel.judge.compare.comparison`; None for different measurements.

    Raises InputError when the file cannot be written.
    """
    write_text(path, comparison_page(runs, found))


def comparison_page(runs: Sequence[RunFiles], found: dict[str, list] | None) -> str:
    """The page as HTML; every text that comes from files is escaped."""
    conclusions = [headline(run) for run in runs]
    compared = [coordinates(run, runs[0]) for run in runs]
    names = _names(runs)
    content = {
        "runs": [(_letter(number), name) for number, name in enumerate(names)],
        "headline": _headline_rows(runs, conclusions, compared),
        "densities": _density_rows(runs, found) if found else [],
        "hands": [_with_letters(line, runs) for line in found["hands"]] if found else [],
        "distrust": _distrust(conclusions),
        "coordinates": _coordinate_rows(runs, compared),
        "settings": different_settings(runs),
    }
    with drawing():
        figure = _thickness(runs)
        drawn = [] if figure is None else [("mean thickness along the angle; band: 95 % of the draws", figure)]
        content["thickness"] = with_captions("thickness", iter(drawn))
    return rendered("compare.html", content)


def _letter(number: int) -> str:
    """A, B, ... Z, then A2, B2, ..."""
    turn, place = divmod(number, len(string.ascii_uppercase))
    return string.ascii_uppercase[place] + (str(turn + 1) if turn else "")


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """Folder names, with the folder above where two are the same."""
    short = [run.path.resolve().name for run in runs]
    return [
        "/".join(run.path.resolve().parts[-2:]) if short.count(name) > 1 else name
        for run, name in zip(runs, short, strict=True)
    ]


def _with_letters(line: str, runs: Sequence[RunFiles]) -> str:
    """A line with the letter of every run for its folder; longer paths first, because one may begin like another."""
    for number in sorted(range(len(runs)), key=lambda n: -len(str(runs[n].path))):
        line = re.sub(re.escape(str(runs[number].path)) + r"(?=[\s,;]|$)", lambda _, n=number: _letter(n), line)
    return line


def _distrust(conclusions: Sequence[Headline]) -> list[tuple[str, list[str], list[str]]]:
    """Run, what failed and what is doubted; first what all of them share."""
    shared = [
        [text for text in getattr(conclusions[0], name) if all(text in getattr(one, name) for one in conclusions)]
        for name in ("failed", "doubted")
    ]
    rows = [("all", shared[0], shared[1])] if any(shared) else []
    for number, one in enumerate(conclusions):
        own = [
            [x for x in texts if x not in known] for texts, known in zip((one.failed, one.doubted), shared, strict=True)
        ]
        rows += [(_letter(number), own[0], own[1])] if any(own) else []
    return rows


def _headline_rows(
    runs: Sequence[RunFiles], conclusions: Sequence[Headline], compared: Sequence[Coordinates]
) -> list[tuple[str, list[str]]]:
    thickness = [
        "; ".join(f"{one.mean:.0f} ({one.low:.0f} to {one.high:.0f})" for one in found.thickness)
        for found in conclusions
    ]
    return [
        ("model", [str(run.summary["model"]) for run in runs]),
        ("uncertainties from", [str(run.summary["stage"]) for run in runs]),
        ("R_obs", [percent(found.r_obs) for found in conclusions]),
        ("held-out R_obs", [percent(found.r_heldout) or "–" for found in conclusions]),
        ("observed reflections", [str(run.summary.get("n_observed", "–")) for run in runs]),
        ("mean su of positions / mÅ", [_decimal(found.position_su) for found in conclusions]),
        (
            "rms z of coordinates against the first",
            [_z(run, runs[0], one) for run, one in zip(runs, compared, strict=True)],
        ),
        ("mean thickness / Å, 95 %", [text or "–" for text in thickness]),
        ("model error b", [_scalar(run, "b") for run in runs]),
    ]


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _z(run: RunFiles, first: RunFiles, one: Coordinates) -> str:
    if run is first:
        return "first"
    return one.reason or ("–" if one.rms_z is None else f"{one.rms_z:.2f}")


def _scalar(run: RunFiles, name: str) -> str:
    found = run.summary.get("scalars", {}).get(name)
    return "–" if found is None else format_su(found["mean"], found["sd"], decimals=3)


def _density_rows(runs: Sequence[RunFiles], found: dict[str, list]) -> list[tuple[str, list[str]]]:
    of_run = {row[0]: dict(zip(found["columns"], row, strict=True)) for row in found["rows"]}
    ordered = [of_run[str(run.path)] for run in runs]
    rows = [(words, [row[name] for row in ordered]) for name, words in {**DENSITIES, **FURTHER}.items()]
    held_out = [row["held out"] for row in ordered]
    return [*rows, ("held out", held_out)] if set(held_out) != {"-"} else rows


def _coordinate_rows(runs: Sequence[RunFiles], compared: Sequence[Coordinates]) -> list[dict[str, Any]]:
    """For every coordinate that some run refines: value(su), difference to the first run, and whether it is large.

    Nothing where no run has the structure of the first one.
    """
    rows: list[dict[str, Any]] = []
    if not any(found.values for found in compared[1:]):
        return rows
    by_label = [{one.label: one for one in found.values} for found in compared]
    for label in dict.fromkeys(label for found in by_label for label in found):
        cells = [found.get(label) for found in by_label]
        if not any(cell and cell.su > FIXED for cell in cells):
            continue
        rows.append({"label": label, "cells": [_cell(cell, is_first=not k) for k, cell in enumerate(cells)]})
    return rows


def _cell(cell: Any, *, is_first: bool) -> dict[str, Any]:
    if cell is None:
        return {"value": "–", "difference": "", "large": False}
    value = format_su(cell.value, cell.su, decimals=5)
    if is_first or cell.difference_su <= FIXED:
        return {"value": value, "difference": "", "large": False}
    difference = f"{cell.difference:+.1f} ± {cell.difference_su:.1f} mÅ"
    return {"value": value, "difference": difference, "large": abs(cell.difference) > 3 * cell.difference_su}


def _thickness(runs: Sequence[RunFiles]) -> Figure | None:
    """Thickness curves of all data sets of all runs; None where no run has any."""
    curves = [(n, data) for n, run in enumerate(runs) for data in run.data if "thickness" in data.of_frames]
    if not curves:
        return None
    figure, ax = axes(width=7.5, height=3.6, xlabel="goniometer angle / deg", ylabel="mean thickness / Å")
    colours = (BLUE, ORANGE, GREEN, MUTED)
    labelled: set[int] = set()
    for number, data in curves:
        order = np.argsort(data.alpha)
        low, middle, high = np.percentile(data.of_frames["thickness"], (BAND[0], 50, BAND[1]), axis=0)[:, order]
        colour, line = colours[number % len(colours)], LINES[number // len(colours) % len(LINES)]
        label = None if number in labelled else _letter(number)
        labelled.add(number)
        ax.plot(data.alpha[order], middle, line, color=colour, label=label)
        ax.fill_between(data.alpha[order], low, high, color=colour, alpha=0.1, linewidth=0)
    ax.legend(loc="lower center", ncols=min(len(runs), 8), bbox_to_anchor=(0.5, 1.0))
    return figure
