"""`--infer smc`: a maximum in every thickness basin, and tempered particles that say how probable each one is."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pendel.base import Array
from pendel.infer.chains.smc import Tempered, sample_smc
from pendel.infer.maximum.map import MapFit, laplace_evidence
from pendel.infer.target import Target
from pendel.run.checkpoints import Chosen
from pendel.run.fitting import Run, fit_structure, global_laplace, map_facts, sd_over_laplace
from pendel.run.writing import StageResult

LOWEST = 30.0  # in log evidence below the best: not worth a particle


def widest(start: Chosen) -> Mapping[str, Array]:
    """Start values with the largest thickness of all basins in every frame: beams and tilts must do for each."""
    names = [name for name in start.values if name.startswith("log_thickness") and np.ndim(start.values[name])]
    sets = (start.values, *start.others)
    return {**start.values, **{name: np.max([values[name] for values in sets], axis=0) for name in names}}


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
    return bool(one.precision.quadratic(away) > len(away))


def temper(run: Run, target: Target, fits: Sequence[MapFit]) -> Tempered:
    """Particles over all basins."""
    return sample_smc(
        target,
        starts=fits,
        key=run.key(5),
        keeper=run.folder.keeper("smc"),
        progress=run.progress,
    )


def tempered_result(run: Run, fits: Sequence[MapFit], tempered: Tempered, *, tried: int) -> StageResult:
    """What SMC leaves: its particles, their mean in the most probable basin as the point, and probabilities.

    tried: basins of the scan that were fitted.
    """
    best = int(np.argmax(tempered.probability))
    inside = tempered.basin == best
    point = {name: np.asarray(np.mean(np.asarray(x)[inside], axis=0)) for name, x in tempered.draws.items()}
    facts = {
        "basins_tried": tried,
        "basin_probability": [float(p) for p in tempered.probability],
        "basin_thickness": _thickness(tempered),
        "basin_log_evidence_laplace": [laplace_evidence(fit) for fit in fits],
        "log_evidence_smc": tempered.log_evidence,
        "log_evidence_smc_se": tempered.log_evidence_se,
        "smc_temperatures": list(tempered.temperatures),
        "smc_acceptance": tempered.acceptance[-1],
        "n_gradients": tempered.gradients,
        "sd_over_laplace": sd_over_laplace(run, fits[best], tempered.draws),
    }
    return StageResult(
        stage="smc",
        point=point,
        draws=tempered.draws,
        facts={**map_facts(fits[best]), **facts},
        is_last=True,
        laplace=global_laplace(run, fits[best]),
    )


def _thickness(tempered: Tempered) -> list[float | None]:
    """Median over frames and particles of the first crystal's T [Å] in every basin, None where no particle is left."""
    log_thickness = tempered.draws.get("log_thickness")
    if log_thickness is None:
        return [None] * len(tempered.probability)
    inside = [np.asarray(log_thickness)[tempered.basin == k] for k in range(len(tempered.probability))]
    return [float(np.exp(np.median(x))) if len(x) else None for x in inside]
