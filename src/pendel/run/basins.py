"""`--infer smc`: a maximum in every thickness basin, and tempered particles that say how probable each one is."""

import dataclasses
from collections.abc import Sequence

from pendel.infer.chains.smc import Tempered, sample_smc
from pendel.infer.maximum.map import MapFit, laplace_evidence
from pendel.infer.target import Target
from pendel.run.fitting import Chosen, Run, fit_structure

LOWEST = 30.0  # in log evidence below the best: not worth a particle


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
