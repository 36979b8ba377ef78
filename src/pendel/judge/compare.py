"""Runs on the same measurements against each other: what predicts better, and which hand is right."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pendel.base import InputError
from pendel.crystal.hand import are_opposite_hands
from pendel.crystal.structure import Crystal
from pendel.folder.reader import read_run_files
from pendel.judge.loo import Loo, by_frame, by_measurement, held_out

EVIDENCES = {"log_evidence_smc": "SMC", "log_evidence_laplace": "Laplace"}  # the better first
COLUMNS = ("run", "model", "stage", "elpd", "se", "difference", "unreliable", "by frame", "held out")
SAME_FIT = ("model", "thickness_shape", "selection")  # or evidences say more of these than of the hand


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder says that can be compared."""

    path: Path
    summary: dict[str, Any]
    crystal: Crystal
    calculated: dict[tuple, tuple[float, float]]  # (data set, frame, hkl) -> (I_obs, I_calc)
    measurement: Loo
    frame: Loo
    heldout: Loo | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Expected log predictive density of one run minus that of another, with its standard error."""

    value: float
    se: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hand:
    """Two refinements of opposite hand.

    `probability`: of the first one, from the evidences (of SMC where both runs have them, else of Laplace), both hands
    being equally likely before. `z`: of a count of the reflections that each hand fits better,
    (n_1 - n_2) / sqrt(n_1 + n_2).
    """

    first: Path
    second: Path
    log_evidence: float  # of the first minus that of the second
    source: str  # of the evidences
    probability: float
    z: float
    n_first: int
    n_second: int
    converged: bool  # both fits


def read_run(path: Path) -> Run:
    """A finished run; raises InputError for a folder that is none."""
    run = read_run_files(path)
    calculated = {
        (data.name, frame, hkl): (measured, mean)
        for data in run.data
        for frame, hkl, measured, mean in zip(
            data.frame_id[data.frame].tolist(),
            data.hkl,
            data.intensity.tolist(),
            data.calculated.mean(axis=0).tolist(),
            strict=True,
        )
    }
    return Run(
        path=path,
        summary=run.summary,
        crystal=run.crystal,
        calculated=calculated,
        measurement=by_measurement(run.tree),
        frame=by_frame(run.tree),
        heldout=held_out(run.tree),
    )


def difference(one: Loo, other: Loo) -> Difference:
    """elpd of `one` minus that of `other`, paired unit by unit; raises InputError when their units differ."""
    if one.units != other.units:
        shared = len(set(one.units) & set(other.units))
        raise InputError(
            found=f"the runs have {len(one.units)} and {len(other.units)} measurements or frames, and share {shared}",
            expected="runs on the same measurements",
            do="give both runs the same data, --select, --frames, --holdout and --seed",
        )
    each = np.asarray(one.pointwise) - np.asarray(other.pointwise)
    return Difference(value=float(each.sum()), se=float(np.sqrt(len(each) * np.var(each))))


def have_same_measurements(runs: Sequence[Run]) -> bool:
    """Whether all runs were fitted to the same measurements, so that `comparison` can compare their predictions."""
    first = runs[0]
    return all(
        run.measurement.units == first.measurement.units and run.frame.units == first.frame.units for run in runs
    )


def hand(one: Run, other: Run) -> Hand | None:
    """Comparison of two hands, None when the structures are not each other's inverse or sites or SAME_FIT differ.

    Source: Klar et al. (2023), Nature Chemistry 15, 848, with the count of Le Page, Gabe & Gainsford (1990), J. Appl.
    Cryst. 23, 406.
    """
    alike = one.crystal.labels == other.crystal.labels
    alike &= all(one.summary.get(name) == other.summary.get(name) for name in SAME_FIT)
    alike &= set(one.summary.get("scalars", ())) == set(other.summary.get("scalars", ()))  # the same physics
    if not (alike and are_opposite_hands(one.crystal, other.crystal)):
        return None
    shared = one.calculated.keys() & other.calculated.keys()
    observed = np.array([one.calculated[key][0] for key in shared])
    misfits = [np.abs(np.array([run.calculated[key][1] for key in shared]) - observed) for run in (one, other)]
    n_first, n_second = int(np.sum(misfits[0] < misfits[1])), int(np.sum(misfits[1] < misfits[0]))
    both = one.summary, other.summary
    source = next(name for name in EVIDENCES if all(summary.get(name) is not None for summary in both))
    gain = float(one.summary[source] - other.summary[source])
    return Hand(
        first=one.path,
        second=other.path,
        log_evidence=gain,
        source=EVIDENCES[source],
        probability=float(1 / (1 + np.exp(-np.clip(gain, -700, 700)))),
        z=(n_first - n_second) / max(np.sqrt(n_first + n_second), 1.0),
        n_first=n_first,
        n_second=n_second,
        converged=all(summary.get("converged", True) for summary in both),
    )


def hands(runs: Sequence[Run]) -> list[Hand]:
    """Every two runs of opposite hand."""
    return [found for pair in itertools.combinations(runs, 2) if (found := hand(*pair))]


def comparison(runs: Sequence[Run]) -> dict[str, list]:
    """Rows of text for the runs, best first, with differences to the best; and hands where two runs differ by it.

    `unreliable`, and in brackets behind the frames: units whose Pareto k says that leaving them out changes too much.
    """
    ordered = sorted(runs, key=lambda run: -run.measurement.elpd)
    best = ordered[0]
    rows = [
        [
            str(run.path),
            str(run.summary["model"]),
            str(run.summary["stage"]),
            f"{run.measurement.elpd:.1f}",
            f"{run.measurement.se:.1f}",
            _against(run.measurement, best.measurement),
            _unreliable(run.measurement),
            f"{_against(run.frame, best.frame)} ({_unreliable(run.frame)})",
            _against(run.heldout, best.heldout) if run.heldout and best.heldout else "-",
        ]
        for run in ordered
    ]
    return {"columns": list(COLUMNS), "rows": rows, "hands": [_hand_line(found) for found in hands(ordered)]}


def _against(one: Loo, best: Loo) -> str:
    if one is best:
        return "0"
    found = difference(one, best)
    return f"{found.value:+.1f} ± {found.se:.1f}"


def _unreliable(loo: Loo) -> str:
    return f"{loo.n_unreliable} of {len(loo.units)}"


def _hand_line(found: Hand) -> str:
    is_first = found.log_evidence > 0
    right, share = (found.first, found.probability) if is_first else (found.second, 1 - found.probability)
    z = found.z if is_first else -found.z
    gain = f"log evidence {abs(found.log_evidence):.1f} higher, {found.source}"
    return (
        f"hand: {right} with probability {share:.6g} ({gain}); "
        f"z = {z:+.1f} from {found.n_first} reflections for {found.first} and {found.n_second} for "
        f"{found.second}" + ("" if found.converged else "; not to be trusted: a fit did not converge")
    )
