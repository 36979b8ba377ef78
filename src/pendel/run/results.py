"""What each stage leaves: a point, draws, and the facts about it that the summary names."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pendel.base import Array
from pendel.infer.chains.nuts import Sampled
from pendel.infer.chains.smc import Tempered
from pendel.infer.guide.bound import SETTLED, UNCERTAIN, has_settled
from pendel.infer.maximum.map import MapFit, laplace_draws, laplace_evidence
from pendel.model.blocks import REFLECTION_ERROR
from pendel.run.fitting import DRAWS, Guided, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageResult:
    """What inference hands over: a point (one value per latent site), draws, and facts for the summary.

    Draws of several chains stand one after the other; `statistics` of a sampler have the same order. `laplace`: draws
    of the global sites from the Laplace approximation, for comparison; `losses` [guides steps]: of SVI, that of
    the guide that was kept first.
    """

    stage: str
    point: Mapping[str, Array]
    draws: Mapping[str, Array]
    facts: Mapping[str, Any]
    is_last: bool
    chains: int = 1
    statistics: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    laplace: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    losses: Array | None = None


def laplace_result(run: Run, fit: MapFit, *, is_last: bool) -> StageResult:
    """What MAP leaves: its point, and draws of the Laplace approximation."""
    draws = laplace_draws(fit, run.key(0), DRAWS)
    return StageResult(stage="map", point=fit.values, draws=draws, facts=map_facts(fit), is_last=is_last)


def guided_result(run: Run, fit: MapFit, guided: Guided) -> StageResult:
    """What SVI leaves: draws of the guide, and their mean as the point."""
    point = {name: np.asarray(np.mean(np.asarray(values), axis=0)) for name, values in guided.draws.items()}
    gain, error = guided.gain
    facts = {
        **map_facts(fit),
        "elbo_gain": gain,
        "elbo_gain_se": error,
        "elbo_settled": has_settled(gain, error),
        "elbo_settled_below": SETTLED,
        "elbo_uncertain_above": UNCERTAIN,
        "svi_steps": int(np.sum(~np.isnan(guided.losses[0]))),
        "elbo": guided.bounds[0],
        "elbo_other_guides": list(guided.bounds[1:]),
        "guide_pareto_k": guided.pareto_k,
        "guide_pareto_k_draws": guided.k_draws,
        "sd_over_laplace": sd_over_laplace(run, fit, guided.draws),
    }
    return StageResult(
        stage="svi",
        point=point,
        draws=guided.draws,
        facts=facts,
        is_last=True,
        laplace=global_laplace(run, fit),
        losses=guided.losses,
    )


def chains_result(run: Run, fit: MapFit, sampled: Sampled) -> StageResult:
    """What a sampler leaves: all chains, and the mean of their draws as the point."""
    chains, length = sampled.statistics["energy"].shape
    draws = {name: np.reshape(x, (chains * length, *np.shape(x)[2:])) for name, x in sampled.draws.items()}
    point = {name: np.asarray(np.mean(values, axis=0)) for name, values in draws.items()}
    statistics = {name: np.ravel(x) for name, x in sampled.statistics.items()}
    if "diverging" in statistics:
        statistics["diverging"] = statistics["diverging"].astype(bool)  # ArviZ selects with it
    counts = {"n_gradients": sampled.gradients, "n_gradients_warmup": sampled.warmup_gradients}
    return StageResult(
        stage=run.settings.infer,
        point=point,
        draws=draws,
        facts={**map_facts(fit), **counts, "sd_over_laplace": sd_over_laplace(run, fit, draws)},
        is_last=True,
        chains=chains,
        statistics=statistics,
        laplace=global_laplace(run, fit),
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


def map_facts(fit: MapFit) -> dict[str, Any]:
    """What the summary says of a maximum."""
    return {
        "converged": fit.converged,
        "map_log_density": -fit.potential,
        "log_evidence_laplace": laplace_evidence(fit),
        "map_message": fit.message,
        "n_parameters": sum(int(np.prod(s.shape)) for s in fit.layout.sites if s.name != REFLECTION_ERROR),
    }


def sd_over_laplace(run: Run, fit: MapFit, draws: Mapping[str, Array]) -> dict[str, list[float]]:
    """Smallest and largest ratio of standard deviations to those of the Laplace approximation, by global site."""
    ratios = {
        name: np.std(draws[name], axis=0) / np.std(laplace, axis=0)
        for name, laplace in global_laplace(run, fit).items()
    }
    return {name: [float(np.min(ratio)), float(np.max(ratio))] for name, ratio in ratios.items() if np.size(ratio)}


def global_laplace(run: Run, fit: MapFit) -> dict[str, Array]:
    """Laplace draws of the sites that all frames share."""
    draws = laplace_draws(fit, run.key(0), DRAWS)
    return {site.name: draws[site.name] for site in fit.layout.sites if site.plate is None}


def _thickness(tempered: Tempered) -> list[float | None]:
    """Median over frames and particles of the first crystal's T [Å] in every basin, None where no particle is left."""
    log_thickness = tempered.draws.get("log_thickness")
    if log_thickness is None:
        return [None] * len(tempered.probability)
    inside = [np.asarray(log_thickness)[tempered.basin == k] for k in range(len(tempered.probability))]
    return [float(np.exp(np.median(x))) if len(x) else None for x in inside]
