"""The refinement of a structure against one or several measured crystals, from files to a run folder."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pendel.coarse import Coarse, coarse_problem, fitted_crystal, fitted_values, handed_over
from pendel.compile_clock import CompileClock
from pendel.constants import Array
from pendel.estimate import within_memory
from pendel.evaluate import suffix
from pendel.experiment import Experiment
from pendel.infer.hmc import Sampled, sample_nuts
from pendel.infer.layout import fixed_values, inspect_model
from pendel.infer.map import MapFit, fit_map, laplace_draws
from pendel.infer.svi import fit_svi
from pendel.load_model import load_model, model_file, with_thickness
from pendel.outputs import DRAWS, Refined, StageResult, Summary, write_stage
from pendel.plans import describe_plans, final_plans, first_plans
from pendel.problem import Problem, Settings, read_problem
from pendel.processes import is_first, wait_for_all
from pendel.run_folder import Key, RunFolder, check_folder, claim_folder, run_key
from pendel.simulate import Plan
from pendel.simulate.shard import shard_plan
from pendel.stages import (
    Chosen,
    Guided,
    pack_guided,
    pack_map,
    pack_sampled,
    pack_start,
    unpack_guided,
    unpack_map,
    unpack_sampled,
    unpack_start,
)
from pendel.start import find_start, tilt_moves

Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run: its folder, what summary.json says, the refined structure, and notes on the input."""

    folder: Path
    summary: Summary
    refined: Refined
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What every stage needs."""

    folder: RunFolder
    model: Callable
    problem: Problem
    settings: Settings
    progress: Progress | None
    clock: Callable[[], Mapping[str, float]]

    def datasets(self, plans: Sequence[Plan]) -> tuple[tuple[Experiment, Plan], ...]:
        return tuple(zip(self.problem.experiments, plans, strict=True))

    def observations(self) -> dict[str, Any]:
        intensities = tuple(experiment.intensity for experiment in self.problem.experiments)
        return {"intensities": intensities, "mask": self.problem.used}

    def key(self, number: int) -> Array:
        return jax.random.fold_in(jax.random.key(self.settings.seed), number)


def refine(
    structure: Path | str,
    data: Sequence[Path | str],
    out: Path | str,
    settings: Settings | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Refine a structure: start values, MAP with Laplace uncertainties, then SVI; every stage leaves its results.

    The folder `out` may be new, empty, or that of the same run (same inputs, settings and code), which is resumed after
    its last completed stage. Interrupting leaves the last completed stage readable.

    Args:
        structure: CIF of the start structure.
        data: `.cif_pets` files, one per measured crystal.
        out: the run folder.
        settings: see `Settings`; defaults where not given.
        force: overwrite pendel's files in any folder.
        progress: called as progress(stage, step, total, info).

    Raises:
        InputError: unusable input, or an `out` that cannot be written; nothing half-written is left.
    """
    settings = settings or Settings()
    structure, data, out = Path(structure), [Path(path) for path in data], Path(out)
    clock = CompileClock()
    problem = read_problem(structure, data, settings)
    model = with_thickness(load_model(settings.model), settings.thickness)
    inputs = {"structure": structure, "model": model_file(settings.model)}
    inputs |= {f"data{suffix(number)}": path for number, path in enumerate(data)}
    key = run_key(inputs, dataclasses.asdict(settings))
    check_folder(out, key, force=force)
    plans = within_memory(problem.crystal, first_plans(problem, settings), settings.memory)
    folder = _claim(out, key, force=force, seed=settings.seed)
    with clock:
        run = _Run(folder=folder, model=model, problem=problem, settings=settings, progress=progress, clock=clock.read)
        summary, refined = _stages(run, plans, clock)
    return Outcome(folder=out, summary=summary, refined=refined, notes=problem.notes)


def _claim(out: Path, key: Key, *, force: bool, seed: int) -> RunFolder:
    """The run folder, claimed by the first of several processes before the others look into it."""
    if not is_first():
        wait_for_all("claimed")
        return RunFolder(out, writes=False)
    folder = claim_folder(out, key, force=force, seed=seed)
    wait_for_all("claimed")
    return folder


def _stages(run: _Run, plans: tuple[Plan, ...], clock: CompileClock) -> tuple[Summary, Refined]:
    """Coarse fit where it pays, start, MAP and SVI; completed ones come from the folder."""
    coarse = coarse_problem(run.problem, plans, run.settings)
    rough = None
    if coarse is not None:
        rough = _resumed(run, "coarse", lambda: _fit_coarse(run, coarse), pack_start, unpack_start, clock)
        run.folder.update(coarse={"every": coarse.every, "sg_max": coarse.settings.sg_max})
    start = _resumed(run, "start", lambda: _find_start(run, plans, rough, coarse), pack_start, unpack_start, clock)
    plans = final_plans(run.problem, run.settings, start.values)
    plans = within_memory(run.problem.crystal, plans, run.settings.memory)
    derived = {"notes": list(run.problem.notes), "thickness_basins_angstrom": start.basins.tolist()}
    run.folder.update(derived={**derived, **describe_plans(plans)})
    plans = tuple(map(shard_plan, plans))
    args = (run.problem.crystal, run.datasets(plans))
    fit = _resumed(
        run,
        "map",
        lambda: _fit_map(run, args, start, near=coarse is not None),
        pack_map,
        lambda arrays: unpack_map(arrays, run.model, args, run.observations()),
        clock,
    )
    if run.settings.infer == "map":
        return _write(run, plans, _laplace(run, fit, is_last=True))
    if run.folder.record().get("results_of") is None:
        _write(run, plans, _laplace(run, fit, is_last=False))
    if run.settings.infer == "nuts":
        sampled = _resumed(run, "nuts", lambda: _sample(run, args, fit), pack_sampled, unpack_sampled, clock)
        return _write(run, plans, _chains(fit, sampled))
    guided = _resumed(run, "svi", lambda: _fit_svi(run, args, fit), pack_guided, unpack_guided, clock)
    return _write(run, plans, _guided(run, fit, guided))


def _resumed(run: _Run, stage: str, make: Callable, pack: Callable, unpack: Callable, clock: CompileClock) -> Any:
    """A stage from its checkpoint, or made now and kept."""
    if stage in run.folder.completed():
        clock.add_elapsed(run.folder.record()["stages"][stage]["seconds"])
        return unpack(run.folder.load_stage(stage))
    began = time.monotonic()
    value = make()
    run.folder.save_stage(stage, pack(value), time.monotonic() - began)
    return value


def _fit_coarse(run: _Run, coarse: Coarse) -> Chosen:
    """Start and MAP of the coarse problem: values of its sites and the structure it found."""
    few = dataclasses.replace(run, problem=coarse.problem, settings=coarse.settings)
    memory = coarse.settings.memory
    plans = within_memory(few.problem.crystal, first_plans(few.problem, few.settings), memory)
    start = _find_start(few, plans)
    plans = within_memory(few.problem.crystal, final_plans(few.problem, few.settings, start.values), memory)
    args = (few.problem.crystal, few.datasets(tuple(map(shard_plan, plans))))
    fit = _fit_map(few, args, start)
    return Chosen(values=fitted_values(run.model, *args, fit), basins=start.basins)


def _find_start(
    run: _Run, plans: tuple[Plan, ...], rough: Chosen | None = None, coarse: Coarse | None = None
) -> Chosen:
    """A scan; after a coarse fit with the structure that it found."""
    if rough is None or coarse is None:
        found = find_start(run.problem.crystal, run.datasets(plans), progress=run.progress)
        return Chosen(values=dict(found.values[0]), basins=np.asarray(found.basins))
    crystal = fitted_crystal(run.problem.crystal, rough.values)
    found = find_start(crystal, run.datasets(plans), progress=run.progress)
    return Chosen(values=handed_over(rough.values, found.values[0], coarse.every), basins=np.asarray(found.basins))


def _fit_map(run: _Run, args: tuple, start: Chosen, *, near: bool = False) -> MapFit:
    """MAP from the start values; where the model has one number for all frames, it starts at their mean."""
    layout = inspect_model(run.model, args, run.observations(), with_fixed=False)
    shapes = {site.name: site.shape for site in layout.sites}
    values = {
        name: value if np.shape(value) == shapes[name] else np.asarray(np.mean(value))
        for name, value in start.values.items()
        if name in shapes and shapes[name] in (np.shape(value), ())
    }
    spreads = fixed_values(run.model, args, run.observations())
    spreads = {name: start.values.get(name, value) for name, value in spreads.items()}
    moves = tilt_moves(args[1])
    return fit_map(
        run.model,
        *args,
        start=values,
        spreads=spreads,
        moves=moves[-1:] if near else moves,
        near=near,
        spread_rounds=1 if near else 3,
        progress=run.progress,
        **run.observations(),
    )


def _fit_svi(run: _Run, args: tuple, fit: MapFit) -> Guided:
    angles = {f"frames{suffix(n)}": experiment.alpha for n, experiment in enumerate(run.problem.experiments)}
    found = fit_svi(
        run.model,
        *args,
        start=fit,
        key=run.key(1),
        angles=angles,
        progress=run.progress,
        **run.observations(),
    )
    return Guided(draws=dict(found.draw(run.key(2), DRAWS)), losses=np.asarray(found.losses))


def _sample(run: _Run, args: tuple, fit: MapFit) -> Sampled:
    return sample_nuts(
        run.model,
        *args,
        start=fit,
        key=run.key(3),
        keeper=run.folder.keeper("nuts"),
        progress=run.progress,
        **run.observations(),
    )


def _laplace(run: _Run, fit: MapFit, *, is_last: bool) -> StageResult:
    draws = laplace_draws(fit, run.key(0), DRAWS)
    return StageResult(stage="map", point=fit.values, draws=draws, facts=_map_facts(fit), is_last=is_last)


def _guided(run: _Run, fit: MapFit, guided: Guided) -> StageResult:
    point = {name: np.mean(np.asarray(values), axis=0) for name, values in guided.draws.items()}
    facts = {**_map_facts(fit), "svi_steps": len(guided.losses), "elbo": -float(np.mean(guided.losses[-50:]))}
    return StageResult(stage="svi", point=point, draws=guided.draws, facts=facts, is_last=True)


def _chains(fit: MapFit, sampled: Sampled) -> StageResult:
    chains, length = sampled.statistics["energy"].shape
    draws = {name: np.reshape(x, (chains * length, *np.shape(x)[2:])) for name, x in sampled.draws.items()}
    point = {name: np.mean(values, axis=0) for name, values in draws.items()}
    counts = {"n_gradients": sampled.gradients, "n_gradients_warmup": sampled.warmup_gradients}
    return StageResult(
        stage="nuts",
        point=point,
        draws=draws,
        facts={**_map_facts(fit), **counts},
        is_last=True,
        chains=chains,
        statistics={name: np.ravel(x) for name, x in sampled.statistics.items()},
    )


def _write(run: _Run, plans: tuple[Plan, ...], result: StageResult) -> tuple[Summary, Refined]:
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
    return written


def _map_facts(fit: MapFit) -> dict[str, Any]:
    return {
        "converged": fit.converged,
        "map_log_density": -fit.potential,
        "map_message": fit.message,
        "n_parameters": int(fit.layout.size),
    }
