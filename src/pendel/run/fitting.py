"""The stages of a refinement: what each is given, and what it leaves for the next one and for the run folder."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pendel.base import Array, suffix
from pendel.folder.run_folder import RunFolder
from pendel.infer.chains.mclmc import sample_mclmc
from pendel.infer.chains.nuts import Sampled, sample_nuts
from pendel.infer.guide.svi import STEPS, SviFit, bound_gain, end_bound, fit_svi, pareto_k
from pendel.infer.layout import fixed_values, inspect_model
from pendel.infer.maximum.map import MapFit, climb_frames, fit_map, laplace_draws, laplace_evidence
from pendel.infer.maximum.optimise import CONVERGED, ROUGH
from pendel.model.dataset import DataSet, data_sets
from pendel.run.checkpoints import Chosen, Guided
from pendel.run.coarse import Coarse, fitted_crystal, fitted_values, handed_over, is_costly
from pendel.run.inputs import Problem
from pendel.run.plans import final_plans, first_plans
from pendel.run.scan import find_start, tilt_moves
from pendel.run.settings import Settings
from pendel.run.writing import DRAWS, Refined, StageResult, Summary, write_stage
from pendel.simulate import Plan
from pendel.simulate.cost import affordable_draws, within_memory
from pendel.simulate.shard import shard_plan

ROUNDS = 3  # of a fit that begins at a scan
K_DRAWS = 200  # of the guide, for its Pareto k
BATCHES, SHORT_CYCLE = 8, 100  # of SVI where one simulation is costly
SAMPLERS = {"nuts": sample_nuts, "mclmc": sample_mclmc}
Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage needs."""

    folder: RunFolder
    model: Callable
    problem: Problem
    settings: Settings
    progress: Progress | None
    clock: Callable[[], Mapping[str, float]]

    def datasets(self, plans: Sequence[Plan]) -> tuple[DataSet, ...]:
        """The data sets, as models take them."""
        return data_sets(self.problem.experiments, plans)

    def observations(self) -> dict[str, Any]:
        """The keyword arguments of a model: intensities and which of them count."""
        intensities = tuple(experiment.intensity for experiment in self.problem.experiments)
        return {"intensities": intensities, "mask": self.problem.used}

    def key(self, number: int) -> Array:
        """A random key of this run; every use has its own number."""
        return jax.random.fold_in(jax.random.key(self.settings.seed), number)


def fit_coarse(run: Run, coarse: Coarse) -> Chosen:
    """Start and MAP of the coarse problem, then, if it leaves frames out, with all beams: sites and structure."""
    few = dataclasses.replace(run, problem=coarse.problem, settings=coarse.settings)
    start = scan_start(few, _within(few, first_plans(few.problem, few.settings)))
    plans = _within(few, final_plans(few.problem, few.settings, start.values))
    args = (few.problem.crystal, few.datasets(tuple(map(shard_plan, plans))))
    fit = fit_structure(few, args, start, rounds=1, tolerance=ROUGH)

    near = Chosen(values={**start.values, **fit.values}, basins=start.basins)
    if coarse.every == 1:
        return near
    all_beams = dataclasses.replace(few, settings=run.settings)
    plans = _within(all_beams, final_plans(few.problem, run.settings, near.values))
    args = (few.problem.crystal, few.datasets(tuple(map(shard_plan, plans))))
    fit = fit_structure(all_beams, args, near, rounds=0, tolerance=ROUGH)
    return Chosen(values=fitted_values(run.model, *args, fit), basins=start.basins)


def _within(run: Run, plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
    return within_memory(run.problem.crystal, plans, run.settings.memory)


def scan_start(run: Run, plans: tuple[Plan, ...], fitted: Mapping[str, Array] | None = None) -> Chosen:
    """A scan, with the structure in `fitted` values where there are some."""
    crystal = fitted_crystal(run.problem.crystal, fitted or {})
    found = find_start(crystal, run.datasets(plans), progress=run.progress)
    values, *others = map(dict, found.values)
    return Chosen(values=values, basins=np.asarray(found.basins), others=tuple(others))


def scan_again(run: Run, coarse: Coarse, rough: Chosen) -> Chosen:
    """Start of all frames after a coarse fit, with its beams: a scan, then every frame climbs by itself."""
    few_beams = dataclasses.replace(run, settings=coarse.settings)
    start = scan_start(few_beams, _within(run, first_plans(run.problem, coarse.settings)), rough.values)
    start = dataclasses.replace(start, values=handed_over(rough.values, start.values, coarse.every), others=())
    plans = _within(run, final_plans(run.problem, coarse.settings, start.values))
    args = (run.problem.crystal, run.datasets(tuple(map(shard_plan, plans))))
    values, spreads = _site_values(run, args, start)
    observations = run.observations()
    found = climb_frames(run.model, *args, start=values, spreads=spreads, progress=run.progress, **observations)
    return dataclasses.replace(start, values={**start.values, **found})


def fit_structure(
    run: Run, args: tuple, start: Chosen, *, rounds: int = ROUNDS, tolerance: float = CONVERGED
) -> MapFit:
    """MAP from the start values.

    rounds: of larger moves of the frames and of the spreads; none where the start is near the maximum.
    """
    values, spreads = _site_values(run, args, start)
    return fit_map(
        run.model,
        *args,
        start=values,
        spreads=spreads,
        moves=tilt_moves(args[1])[:rounds],
        near=rounds == 0,
        spread_rounds=rounds,
        tolerance=tolerance,
        progress=run.progress,
        **run.observations(),
    )


def _site_values(run: Run, args: tuple, start: Chosen) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """Start values of the model's sites and of its spreads; one number for all frames starts at their mean."""
    layout = inspect_model(run.model, args, run.observations(), with_fixed=False)
    shapes = {site.name: site.shape for site in layout.sites}
    values = {
        name: value if np.shape(value) == shapes[name] else np.asarray(np.mean(value))
        for name, value in start.values.items()
        if name in shapes and shapes[name] in (np.shape(value), ())
    }
    spreads = fixed_values(run.model, args, run.observations())
    return values, {name: start.values.get(name, value) for name, value in spreads.items()}


def fit_guide(run: Run, args: tuple, fit: MapFit) -> Guided:
    """SVI from the Laplace approximation, draws of the fitted guide, and how well they cover the posterior.

    Where one simulation is costly, a step simulates a batch of the frames, and cycles are short; not on graphics cards,
    where many frames take as long as few.
    """
    angles = {data.frames: data.experiment.alpha for data in args[1]}
    costly = is_costly([data.plan for data in args[1]]) and jax.default_backend() == "cpu"
    batches, steps = (BATCHES, SHORT_CYCLE) if costly else (1, STEPS)
    way = run.folder.record().get("svi") or {"batches": batches, "steps": steps}  # as where the run began
    run.folder.update(svi=way)

    def one(number: int) -> SviFit:
        return fit_svi(
            run.model,
            *args,
            start=fit,
            key=jax.random.fold_in(run.key(1), number),
            angles=angles,
            steps=way["steps"],
            batches=way["batches"],
            keeper=run.folder.keeper(f"svi{suffix(number)}"),
            progress=run.progress,
            **run.observations(),
        )

    fits = sorted(map(one, range(run.settings.guides)), key=lambda found: -end_bound(found.losses, way["steps"]))
    losses = np.full((len(fits), max(len(found.losses) for found in fits)), np.nan)
    for row, found in zip(losses, fits, strict=True):
        row[: len(found.losses)] = found.losses
    draws = K_DRAWS if jax.default_backend() != "cpu" else min(K_DRAWS, affordable_draws(data.plan for data in args[1]))
    k = pareto_k(run.model, *args, fit=fits[0], key=run.key(4), draws=draws, **run.observations())
    return Guided(
        draws=dict(fits[0].draw(run.key(2), DRAWS)), losses=losses, cycle=way["steps"], pareto_k=k, k_draws=draws
    )


def sample_chains(run: Run, args: tuple, fit: MapFit) -> Sampled:
    """Markov chains from the Laplace approximation."""
    sample = SAMPLERS[run.settings.infer]
    return sample(
        run.model,
        *args,
        start=fit,
        key=run.key(3),
        keeper=run.folder.keeper(run.settings.infer),
        progress=run.progress,
        **run.observations(),
    )


def laplace_result(run: Run, fit: MapFit, *, is_last: bool) -> StageResult:
    """What MAP leaves: its point, and draws of the Laplace approximation."""
    draws = laplace_draws(fit, run.key(0), DRAWS)
    return StageResult(stage="map", point=fit.values, draws=draws, facts=map_facts(fit), is_last=is_last)


def guided_result(run: Run, fit: MapFit, guided: Guided) -> StageResult:
    """What SVI leaves: draws of the guide, and their mean as the point."""
    point = {name: np.asarray(np.mean(np.asarray(values), axis=0)) for name, values in guided.draws.items()}
    kept, *others = map(_without_padding, guided.losses)
    gain, error = bound_gain(kept, guided.cycle)
    facts = {
        **map_facts(fit),
        "elbo_gain": gain,
        "elbo_gain_se": error,
        "svi_steps": len(kept),
        "elbo": end_bound(kept, guided.cycle),
        "elbo_other_guides": [end_bound(losses, guided.cycle) for losses in others],
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


def _without_padding(losses: Array) -> Array:
    return losses[: 1 + np.flatnonzero(~np.isnan(losses))[-1]]


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


def write_result(run: Run, plans: tuple[Plan, ...], result: StageResult) -> tuple[Summary, Refined]:
    """Everything about a result into the run folder."""
    written = write_stage(
        run.folder,
        run.model,
        run.problem,
        plans,
        run.settings,
        result,
        clock=run.clock,
        progress=run.progress,
    )
    run.folder.update(results_of=result.stage)
    if run.progress is not None:
        found = {name: written[0][name] for name in ("r_obs_pooled", "wr2_pooled")}
        run.progress(f"{result.stage} done", 1, 1, found)
    return written


def map_facts(fit: MapFit) -> dict[str, Any]:
    """What the summary says of a maximum."""
    return {
        "converged": fit.converged,
        "map_log_density": -fit.potential,
        "log_evidence_laplace": laplace_evidence(fit),
        "map_message": fit.message,
        "n_parameters": int(fit.layout.size),
    }
