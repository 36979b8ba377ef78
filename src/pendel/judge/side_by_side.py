"""Several runs beside each other: their coordinates against those of the first one, and settings that differ."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pendel.crystal.hand import are_opposite_hands
from pendel.crystal.structure import Crystal
from pendel.folder.reader import RunFiles
from pendel.folder.structure_group import AXES, GROUP
from pendel.judge.parameters import FIXED

OTHER_GROUP, OTHER_SITES, OTHER_HAND = "another space group", "other sites", "the inverted structure"
MILLI = 1000.0  # mÅ in an Å


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One coordinate in one run; `difference` and `difference_su` [mÅ] are those to the first run, along the axis.

    Both are zero for a site that the first run does not have.
    """

    label: str
    value: float
    su: float
    difference: float = 0.0
    difference_su: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coordinates:
    """All coordinates of one run, or `reason`: why they cannot be compared with those of the first one.

    `rms_z`: root mean square of differences over their uncertainties; None for the first run.
    """

    values: tuple[Coordinate, ...] = ()
    reason: str = ""
    rms_z: float | None = None


def coordinates(run: RunFiles, first: RunFiles) -> Coordinates:
    """Coordinates of a run, with differences to those of the first run for the sites that have the same label there.

    The su of a difference is sqrt(su_1² + su_2²), which holds for independent measurements. Two fits to the same
    measurements have correlated errors, so it is an upper bound there. Whole cells are taken off; no other origin.
    """
    reason = _reason(run.crystal, first.crystal)
    if reason:
        return Coordinates(reason=reason)
    lengths = MILLI * np.array(first.crystal.cell[:3])
    found, z = [], []
    (value, su), (before, before_su) = _numbers(run), _numbers(first)
    for site, label in enumerate(run.crystal.labels):
        away, away_su = np.zeros(3), np.zeros(3)
        if label in first.crystal.labels:
            own = first.crystal.labels.index(label)
            fraction = value[site] - before[own]
            away, away_su = (fraction - np.round(fraction)) * lengths, np.hypot(su[site], before_su[own]) * lengths
        for axis, name in enumerate(AXES):
            one = {"value": float(value[site, axis]), "su": float(su[site, axis])}
            one |= {"difference": float(away[axis]), "difference_su": float(away_su[axis])}
            found.append(Coordinate(label=f"{label} {name}", **one))
            if away_su[axis] > FIXED * lengths[axis]:
                z.append(away[axis] / away_su[axis])
    rms = float(np.sqrt(np.mean(np.square(z)))) if z and run is not first else None
    return Coordinates(values=tuple(found), rms_z=rms)


def _numbers(run: RunFiles) -> tuple[np.ndarray, np.ndarray]:
    """Fractional coordinates of the refined structure and their standard uncertainties, [sites 3] each."""
    return np.asarray(run.crystal.fract), run.tree[GROUP]["fract_su"].values


def _reason(one: Crystal, other: Crystal) -> str:
    if not set(one.labels) & set(other.labels):
        return OTHER_SITES
    if one is not other and are_opposite_hands(one, other):
        return OTHER_HAND
    return OTHER_GROUP if one.spacegroup.replace(" ", "") != other.spacegroup.replace(" ", "") else ""


def different_settings(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """Name and values, run by run, of inputs, settings and versions that are not the same in all runs."""
    described = [_described(run.record) for run in runs]
    names = dict.fromkeys(name for one in described for name in one)
    rows = [(name, [one.get(name, "") for one in described]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _described(record: dict[str, Any]) -> dict[str, str]:
    inputs = {
        role: f"{Path(entry['path']).name} ({entry['sha256'][:8]}…)" for role, entry in record.get("inputs", {}).items()
    }
    settings = {
        name: "default" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in record.get("settings", {}).items()
    }
    versions = {f"version of {name}": str(value) for name, value in record.get("versions", {}).items()}
    return {**inputs, **settings, **versions, "code": record.get("code_sha256", "")[:8] + "…"}
