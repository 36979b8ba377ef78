"""What the stages of a refinement give to inference, and what they get from it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pendel.base import Array, suffix
from pendel.crystal.structure import Crystal
from pendel.folder.run_folder import RunFolder
from pendel.infer.chains.mclmc import sample_mclmc
from pendel.infer.chains.nuts import Sampled, sample_nuts
from pendel.infer.guide.bound import bound_gain, mean_bound, pareto_k
from pendel.infer.guide.svi import SviFit, fit_svi
from pendel.infer.maximum.map import MapFit, fit_map
from pendel.infer.maximum.optimise import CONVERGED, MapTuning
from pendel.infer.target import Target, make_target
from pendel.model.dataset import DataSet, data_sets
from pendel.run.clock import CompileClock
from pendel.run.coarse import fitted_crystal, is_costly
from pendel.run.inputs import Problem
from pendel.run.scan import find_start, tilt_moves
from pendel.run.settings import Settings
from pendel.run.tuning import Tuning
from pendel.simulate import Plan
from pendel.simulate.cost import affordable_draws
from pendel.simulate.shard import shard_plan

ROUNDS = 3  # of a fit that begins at a scan
DRAWS = 1000  # of the parameters: cheap
K_DRAWS = 200  # of the guide, for its Pareto k
SAMPLERS = {"nuts": sample_nuts, "mclmc": sample_mclmc}
Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """Start values that were chosen: site values, and (thickness [Å], misfit) of all basins that were found.

    `others`: site values of the basins that were not chosen.
    """

    values: dict[str, Array]
    basins: Array
    others: tuple[dict[str, Array], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """Draws from a fitted guide, the loss on the way, and the tail of posterior over guide.

    `losses`: [guides steps] of the guides from all seeds, the kept one first; NaN after the end of the shorter ones.
    `bounds`: their evidence bounds [nats]; `gain`: of the kept one in its last cycle, and its standard error.
    """

    draws: dict[str, Array]
    losses: Array
    bounds: tuple[float, ...]
    gain: tuple[float, float]
    pareto_k: float
    k_draws: int  # that it was found from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage needs."""

    folder: RunFolder
    model: Callable
    problem: Problem
    settings: Settings
    progress: Progress | None
    clock: CompileClock
    tuning: Tuning

    def datasets(self, plans: Sequence[Plan]) -> tuple[DataSet, ...]:
        """The data sets, as models take them."""
        return data_sets(self.problem.experiments, plans)

    def args(self, plans: Sequence[Plan]) -> tuple[Crystal, tuple[DataSet, ...]]:
        """The arguments of the model."""
        return self.problem.crystal, self.datasets(plans)

    def observations(self) -> dict[str, Any]:
        """The keyword arguments of a model: intensities and which of them count."""
        intensities = tuple(experiment.intensity for experiment in self.problem.experiments)
        return {"intensities": intensities, "mask": self.problem.used}

    def target(self, plans: Sequence[Plan]) -> Target:
        """The model with these plans, spread over the devices, and with the measurements that count."""
        datasets = self.datasets(tuple(map(shard_plan, plans)))
        return make_target(self.model, self.problem.crystal, datasets, **self.observations())

    def tell(self, stage: str, step: int, total: int, info: Mapping[str, float] | None = None) -> None:
        """Progress, where someone wants to know."""
        if self.progress is not None:
            self.progress(stage, step, total, info or {})

    def key(self, number: int) -> Array:
        """A random key of this run; every use has its own number."""
        return jax.random.fold_in(jax.random.key(self.settings.seed), number)


def scan_start(run: Run, plans: tuple[Plan, ...], fitted: Mapping[str, Array] | None = None) -> Chosen:
    """A scan, with the structure in `fitted` values where there are some."""
    crystal = fitted_crystal(run.problem.crystal, fitted or {})
    found = find_start(crystal, run.datasets(plans), progress=run.progress)
    values, *others = map(dict, found.values)
    return Chosen(values=values, basins=np.asarray(found.basins), others=tuple(others))


def fit_structure(
    run: Run, target: Target, start: Chosen, *, rounds: int = ROUNDS, tolerance: float = CONVERGED
) -> MapFit:
    """MAP from the start values.

    rounds: of larger moves of the frames and of the spreads; none where the start is near the maximum.
    """
    values, spreads = site_values(target, start)
    return fit_map(
        target,
        start=values,
        spreads=spreads,
        moves=tilt_moves(target.data[0][1])[:rounds],
        globals_fitted=rounds == 0,
        tuning=MapTuning(rounds=rounds, tolerance=tolerance),
        progress=run.progress,
    )


def site_values(target: Target, start: Chosen) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """Start values of the model's sites and of its spreads; one number for all frames starts at their mean."""
    shapes = {site.name: site.shape for site in target.layout.sites}
    values = {
        name: value if np.shape(value) == shapes[name] else np.asarray(np.mean(value))
        for name, value in start.values.items()
        if name in shapes and shapes[name] in (np.shape(value), ())
    }
    return values, {name: start.values.get(name, value) for name, value in target.spreads.items()}


def fit_guide(run: Run, target: Target, fit: MapFit) -> Guided:
    """SVI from the Laplace approximation, draws of the fitted guide, and how well they cover the posterior.

    Where one simulation is costly, a step simulates a batch of the frames, and cycles are short; not on graphics cards,
    where many frames take as long as few.
    """
    datasets: tuple[DataSet, ...] = target.data[0][1]
    angles = {data.frames: data.experiment.alpha for data in datasets}
    plans = [data.plan for data in datasets]
    costly = is_costly(plans, run.tuning.coarse) and jax.default_backend() == "cpu"
    few, usual = run.tuning.batching, run.tuning.svi
    batches, steps = (few.batches, few.steps) if costly else (usual.batches, usual.steps)
    way = run.folder.decided("svi", run.folder.keys["svi"], lambda: {"batches": batches, "steps": steps})

    def one(number: int) -> SviFit:
        return fit_svi(
            target,
            start=fit,
            key=jax.random.fold_in(run.key(1), number),
            angles=angles,
            tuning=dataclasses.replace(usual, steps=way["steps"], batches=way["batches"]),
            keeper=run.folder.keeper("svi", suffix(number)),
            progress=run.progress,
        )

    fits = sorted(map(one, range(run.settings.guides)), key=_bound, reverse=True)
    losses = np.full((len(fits), max(len(found.losses) for found in fits)), np.nan)
    for row, found in zip(losses, fits, strict=True):
        row[: len(found.losses)] = found.losses
    draws = K_DRAWS if jax.default_backend() != "cpu" else min(K_DRAWS, affordable_draws(plans))
    k = pareto_k(target, fit=fits[0], key=run.key(4), draws=draws)
    return Guided(
        draws=dict(fits[0].draw(run.key(2), DRAWS)),
        losses=losses,
        bounds=tuple(map(_bound, fits)),
        gain=bound_gain(fits[0].bounds),
        pareto_k=k,
        k_draws=draws,
    )


def _bound(fit: SviFit) -> float:
    """Of the cycle that a guide was taken from."""
    return max(map(mean_bound, fit.bounds))


def sample_chains(run: Run, target: Target, fit: MapFit) -> Sampled:
    """Markov chains from the Laplace approximation."""
    sample = SAMPLERS[run.settings.infer]
    return sample(
        target,
        start=fit,
        key=run.key(3),
        tuning=getattr(run.tuning, run.settings.infer),
        keeper=run.folder.keeper(run.settings.infer),
        progress=run.progress,
    )
