"""The few numbers of a run that stand before everything else, and what to distrust."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import direct_matrix
from pendel.folder.reader import RunFiles
from pendel.judge.parameters import BAND, FIXED
from pendel.judge.verdicts import FAIL, WARN, Verdict, in_few_words, verdicts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thickness:
    """Mean over the frames of a data set of their mean thickness [Å]: posterior mean and 95 % interval."""

    data_set: str
    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """R factors as fractions; `position_su` [mÅ] as in `mean_position_su`; `failed` and `doubted` in few words."""

    r_obs: float | None
    r_heldout: float | None
    position_su: float | None
    thickness: tuple[Thickness, ...]
    failed: tuple[str, ...]
    doubted: tuple[str, ...]


def headline(run: RunFiles, found: list[Verdict] | None = None) -> Headline:
    """The headline of a run. found: its verdicts, where they are known already."""
    found = verdicts(run) if found is None else found
    return Headline(
        r_obs=_number(run.summary.get("r_obs_pooled")),
        r_heldout=_number(run.summary.get("r_obs_heldout")),
        position_su=mean_position_su(run),
        thickness=tuple(
            _thickness(data.name, data.of_frames["thickness"]) for data in run.data if "thickness" in data.of_frames
        ),
        failed=tuple(in_few_words(verdict) for verdict in found if verdict.level == FAIL),
        doubted=tuple(in_few_words(verdict) for verdict in found if verdict.level == WARN),
    )


def mean_position_su(run: RunFiles) -> float | None:
    """Mean over the refined atoms, hydrogen left out, of their standard uncertainty along one direction [mÅ].

        su = sqrt(trace C / n)

    with the covariance C of an atom's Cartesian coordinates over the draws and its number n of directions that the
    site symmetry leaves free. Hydrogen counts only where nothing else is refined; None where no atom is.
    """
    crystal = run.crystal
    covariance = _covariances(run.draws("fract") @ direct_matrix(crystal.cell).T)
    spread = np.linalg.eigvalsh(covariance)
    free = np.sum(spread > FIXED**2, axis=1)
    su = np.sqrt(np.sum(np.maximum(spread, 0.0), axis=1) / np.maximum(free, 1))
    heavy = np.array([element != "H" for element in crystal.elements])
    chosen = (free > 0) & heavy if np.any((free > 0) & heavy) else free > 0
    return float(1000 * su[chosen].mean()) if chosen.any() else None


def _covariances(positions: Float[Array, "draws sites 3"]) -> Float[np.ndarray, "sites 3 3"]:
    away = np.asarray(positions - positions.mean(axis=0))
    return np.einsum("dsi,dsj->sij", away, away) / (len(away) - 1)


def _thickness(name: str, draws: Float[Array, "draws frames"]) -> Thickness:
    mean = np.asarray(draws).mean(axis=1)
    low, high = np.percentile(mean, BAND)
    return Thickness(data_set=name, mean=float(mean.mean()), low=float(low), high=float(high))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
