"""Tables for the terminal: the result of a refinement, and a comparison with a known truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pendel.crystal.cell import u_equivalent
from pendel.crystal.refined import Refined
from pendel.files.numbers import format_su


def closing_table(summary: Mapping[str, Any], refined: Refined) -> RenderableType:
    """R factors with their numbers of reflections, the thickness, and the sites with standard uncertainties.

    Args:
        summary: the contents of summary.json.
    """
    parts: list[RenderableType] = [_agreement(summary), _sites(refined)]
    thickness = summary.get("thickness_mean_angstrom")
    if thickness is not None:
        low, high = summary["thickness_min_angstrom"], summary["thickness_max_angstrom"]
        mean = format_su(thickness, summary["thickness_su_angstrom"], decimals=0)
        parts.append(Text(f"thickness {mean} Å, mean of the frames, which go from {low:.0f} to {high:.0f} Å"))
    return Group(*parts)


def comparison_table(rows: Sequence[tuple[str, float, float, float, float]]) -> RenderableType:
    """Truth, start, refined value with su, and z-score of every free number, and the rms z of them all.

    Args:
        rows: (name, truth, start, refined, su) with su > 0.
    """
    table = Table(title="against the truth")
    table.add_column("parameter")
    for column in ("truth", "start", "refined", "z"):
        table.add_column(column, justify="right")
    scores = z_scores(rows)
    for (name, truth, start, refined, su), z in zip(rows, scores, strict=True):
        table.add_row(name, f"{truth:.5f}", f"{start:.5f}", format_su(refined, su, decimals=5), f"{z:+.2f}")
    worst = float(np.max(np.abs(scores)))
    return Group(table, Text(f"rms z {np.sqrt(np.mean(scores**2)):.2f}, largest |z| {worst:.2f}, n = {len(rows)}"))


def z_scores(rows: Sequence[tuple[str, float, float, float, float]]) -> Float[np.ndarray, " rows"]:
    """(refined - truth) / su of every row of `comparison_table`."""
    return np.array([(refined - truth) / su for _, truth, _, refined, su in rows])


def _agreement(summary: Mapping[str, Any]) -> Table:
    caption = "R over all frames, and mean R of the frames; klar: one refitted scale a frame"
    table = Table(title=f"agreement after {summary['stage']}, model {summary['model']}", caption=caption)
    for column in ("selection", "R_obs", "wR2", "mean R", "mean wR2", "n obs", "n", "frames"):
        table.add_column(column, justify="left" if column == "selection" else "right")

    def percent(name: str) -> str:
        value = summary.get(name)
        return "-" if value is None or not np.isfinite(value) else f"{100 * value:.2f} %"

    counts = [str(summary[name]) for name in ("n_observed", "n_scored", "n_frames")]
    names = ("r_obs_pooled", "wr2_pooled", "r_obs_mean", "wr2_mean")
    table.add_row(str(summary["selection"]), *map(percent, names), *counts)
    if summary.get("r_obs_heldout") is not None:
        counts = [str(summary[name]) for name in ("n_observed_heldout", "n_heldout")]
        table.add_row("held out", percent("r_obs_heldout"), percent("wr2_heldout"), "", "", *counts, "")
    counts = [str(summary[name]) for name in ("n_observed_klar", "n_scored_klar", "n_frames_klar")]
    rule = f"klar {summary['rsg']:g}/{summary['dsg']:g}".replace("0.", ".")
    table.add_row(rule, *(percent(f"{name}_klar") for name in names), *counts)
    return table


def _sites(refined: Refined) -> Table:
    crystal = refined.crystal
    table = Table(title=f"{crystal.name}, {crystal.spacegroup}")
    for column in ("site", "x", "y", "z", "U_eq / Å²", "occupancy"):
        table.add_column(column, justify="left" if column == "site" else "right")
    spheres = np.asarray(u_equivalent(crystal.u_aniso, crystal.cell))
    for site, label in enumerate(crystal.labels):
        coordinates = zip(crystal.fract[site], refined.fract_su[site], strict=True)
        position = [format_su(float(x), float(su)) for x, su in coordinates]
        sphere = format_su(float(spheres[site]), float(refined.u_equivalent_su[site]), decimals=5)
        table.add_row(label, *position, sphere, f"{crystal.occupancy[site]:g}")
    return table
