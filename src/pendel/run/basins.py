"""Thickness basins: the most probable of those that the scan cannot separate, and all of them for `--infer smc`."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pendel.infer.chains.smc import Tempered, sample_smc
from pendel.infer.maximum.map import MapFit, laplace_evidence
from pendel.infer.maximum.optimise import APPROXIMATE, CONVERGED
from pendel.infer.target import Target
from pendel.run.fitting import ROUNDS, Chosen, Run, fit_structure

INSEPARABLE = 10.0  # nats of the scan's misfit within which another basin is fitted, too: its structure is the start's
LOWEST = 30.0  # in log evidence below the best: not worth a particle


def near_basins(start: Chosen) -> tuple[Chosen, ...]:
    """The start, and the starts in the other basins whose misfit is nearly as low."""
    others = zip(start.basins[1:], start.others, strict=False)
    near = [values for basin, values in others if basin[1] - start.basins[0][1] < INSEPARABLE]
    return start, *(dataclasses.replace(start, values=values) for values in near)


def fit_likely_basin(
    run: Run, target: Target, start: Chosen, *, rounds: int = ROUNDS, tolerance: float = CONVERGED
) -> MapFit:
    """MAP from the start; from each of several starts first roughly, then from where the evidence is largest.

    Which basins were fitted, and their Laplace evidence, goes into `basins_fitted` of the record.
    """
    starts = near_basins(start)
    if len(starts) == 1:
        return fit_structure(run, target, start, rounds=rounds, tolerance=tolerance)
    fits = [_rough(run, target, one) for one in starts]
    evidence = [-np.inf if fit is None else laplace_evidence(fit) for fit in fits]
    tried = [basin[0] for basin in start.basins[: len(starts)]]
    run.folder.update(
        basins_fitted=[
            {"angstrom": float(t), "log_evidence": e if np.isfinite(e) else None}
            for t, e in zip(tried, evidence, strict=True)
        ]
    )
    likely = int(np.argmax(evidence))
    best = fits[likely]
    if best is None:
        return fit_structure(run, target, start, rounds=rounds, tolerance=tolerance)
    if tolerance >= APPROXIMATE:
        return best
    near = dataclasses.replace(start, values={**starts[likely].values, **best.values})
    return fit_structure(run, target, near, rounds=rounds, tolerance=tolerance)


def _rough(run, target, start) -> MapFit | None:
    """The neighbourhood of a maximum; None where the start has no density."""
    try:
        return fit_structure(run, target, start, rounds=1, tolerance=APPROXIMATE)
    except FloatingPointError:
        return None


def fit_basins(run: Run, target: Target, start: Chosen, fit: MapFit) -> list[MapFit]:
    """The maximum that is known, and those that fits from the other basins of the scan end at; the best one first.

    Left out: of maxima that are the same place the lower one, maxima that are too low, and starts without a density.
    """
    fits = [fit]
    for values in start.others:
        try:
            fits.append(fit_structure(run, target, dataclasses.replace(start, values=values)))
        except FloatingPointError:
            continue
    fits.sort(key=laplace_evidence, reverse=True)
    found: list[MapFit] = []
    for one in fits:
        is_high = laplace_evidence(one) > laplace_evidence(fits[0]) - LOWEST
        if is_high and all(_is_elsewhere(other, one) for other in found):
            found.append(one)
    return found


def _is_elsewhere(one: MapFit, other: MapFit) -> bool:
    """Whether a maximum is farther from another one than draws from the approximation around that are, on average."""
    away = other.unconstrained - one.unconstrained
    return bool(away @ (one.precision @ away) > len(away))


def temper(run: Run, target: Target, fits: Sequence[MapFit]) -> Tempered:
    """Particles over all basins."""
    return sample_smc(
        target,
        starts=fits,
        key=run.key(5),
        tuning=run.tuning.smc,
        keeper=run.folder.keeper("smc"),
        progress=run.progress,
    )
