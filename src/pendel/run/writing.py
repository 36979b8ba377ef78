"""What a stage leaves in the run folder: summary.json, posterior.nc, CIFs, parameters.csv and reflections.csv."""

import dataclasses
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array, suffix
from pendel.crystal.refined import Refined
from pendel.crystal.structure import Crystal, u_equivalent
from pendel.files.cif_reflections import Calculated
from pendel.files.ensemble_cif import write_ensemble_cif
from pendel.files.parameters_csv import write_parameters
from pendel.files.refined_cif import write_refined_cif
from pendel.files.reflections_csv import write_reflections
from pendel.folder.posterior_file import Posterior, posterior_tree
from pendel.infer.predict import Predicted, derive, log_prior, predict, prior_draws
from pendel.judge.parameters import parameter_facts
from pendel.judge.restraints import restraint_facts
from pendel.model.load import diffraction_theory, model_options
from pendel.model.thickness_prior import thickness_facts
from pendel.run.evaluate import klar_agreement, of_data_sets
from pendel.run.fitting import Run
from pendel.run.inputs import Problem
from pendel.run.plans import largest_step
from pendel.run.results import StageResult
from pendel.run.rocking import rocking_curves
from pendel.run.summary import (
    Summary,
    agreement_numbers,
    plain,
    sampling_numbers,
    scalar_numbers,
    thickness_numbers,
)
from pendel.simulate import Plan
from pendel.simulate.cost import affordable_draws

INTERIM_DRAWS = 16  # those at which every intensity is calculated when another stage follows
PRIOR_DRAWS = 200
CURVE_DRAWS, FOR_EACH = 20, 5  # of the rocking curves, at most, and one for so many at which all is calculated
WRITING = 4  # steps: what follows from a result, its numbers, the posterior, the files
ROUNDING = 1e-10  # numbers and deviations below it are zero
HEAVY = ("calculated", "intensity")  # sites that need the simulator

type Plans = tuple[Plan, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Derived:
    """What follows from a result.

    `centre`, `draws`: cheap deterministic sites at the point and at every draw; `at_point`: all deterministic sites at
    the point; `predicted`: everything at the draws `rows` of every chain.
    """

    centre: Mapping[str, Array]
    draws: Mapping[str, Array]
    at_point: Mapping[str, Array]
    predicted: Predicted
    rows: Array
    refined: Refined

    def calculated(self) -> list[np.ndarray]:
        """Intensities at the point, data set by data set."""
        return of_data_sets(self.at_point, "calculated")


def write_stage(run: Run, plans: Plans, result: StageResult) -> tuple[Summary, Refined]:
    """Derive, judge and write; summary.json comes last, so that it speaks of files that are there.

    Raises InputError when a file cannot be written.
    """
    run.tell("write", 0, WRITING)
    found = _derive(run, plans, result)
    run.tell("write", 1, WRITING)
    summary = _summary(run, plans, result, found)
    run.tell("write", 2, WRITING)
    tree = _tree(run, plans, result, found, summary)
    run.tell("write", 3, WRITING)
    refined = found.refined
    if not run.folder.writes:
        return {**summary, **run.clock.read()}, refined
    folder = run.folder.path
    Posterior(tree).save(folder / "posterior.nc")
    write_parameters(folder / "parameters.csv", parameter_facts(tree))
    write_refined_cif(
        folder / "refined.cif",
        refined,
        experiments=run.problem.experiments,
        summary=summary,
        fract_draws=np.asarray(found.draws["fract"]),
        calculated=_for_cif(run.problem, found),
    )
    structures = [np.asarray(found.draws[name]) for name in ("fract", "U_aniso", "occupancy") if name in found.draws]
    write_ensemble_cif(folder / "ensemble.cif", refined.crystal, *structures)
    _write_reflections(run, found)
    summary |= run.clock.read()
    run.folder.write("summary.json", (json.dumps(plain(summary), indent=2) + "\n").encode())
    run.tell("write", WRITING, WRITING)
    return summary, refined


def _derive(run: Run, plans: Plans, result: StageResult) -> _Derived:
    """Everything that the model says at the point and at the draws."""
    args = run.args(plans)
    everything = derive(run.model, args, _stacked(result, slice(None)), leave_out=HEAVY)
    centre = {name: values[0] for name, values in everything.items()}
    draws = {name: values[1:] for name, values in everything.items()}
    length = _count(result) // result.chains
    count = -(-(affordable_draws(plans) if result.is_last else INTERIM_DRAWS) // result.chains)
    rows = np.linspace(0, length - 1, min(count, length)).astype(int)
    everywhere = np.add.outer(length * np.arange(result.chains), rows).ravel()
    both = predict(
        run.model,
        args,
        _stacked(result, everywhere),
        intensities=tuple(experiment.intensity for experiment in run.problem.experiments),
        key=jax.random.key(run.settings.seed),
        progress=run.progress,
    )
    fields = {field.name: getattr(both, field.name) for field in dataclasses.fields(both)}
    return _Derived(
        centre=centre,
        draws=draws,
        at_point={name: values[0] for name, values in both.deterministic.items()},
        predicted=Predicted(**jax.tree.map(lambda values: values[1:], fields)),
        rows=rows,
        refined=refined_structure(run.problem.crystal, centre, draws),
    )


def _summary(run: Run, plans: Plans, result: StageResult, found: _Derived) -> Summary:
    """The contents of summary.json but for the times."""
    problem, settings, calculated = run.problem, run.settings, found.calculated()
    structures = (np.asarray(found.draws[name]) for name in ("fract", "U_aniso"))
    klar, missing = klar_agreement(run.model, problem, plans, settings, result.point, found.at_point)
    return {
        **agreement_numbers(problem, calculated, klar, missing),
        **thickness_numbers(found.draws, len(plans)),
        **{"restraints": restraint_facts(problem.crystal, *structures)},
        **largest_step(problem, plans, result.point),
        **sampling_numbers(result),
        **thickness_facts(model_options(run.model).get("thickness")),
        **{"theory": diffraction_theory(settings.model)},
        **{"stage": result.stage, "model": settings.model, "seed": settings.seed, "selection": settings.select},
        **{"rsg": settings.rsg, "dsg": settings.dsg, "n_draws": _count(result), "n_chains": result.chains},
        **result.facts,
        **scalar_numbers(result.draws),
    }


def _tree(run: Run, plans: Plans, result: StageResult, found: _Derived, summary: Summary):
    """The contents of posterior.nc."""
    key = jax.random.key(run.settings.seed)
    prior = prior_draws(run.model, run.args(plans), key=key, draws=PRIOR_DRAWS, leave_out=HEAVY)
    predicted = found.predicted
    names = [f"calculated{suffix(number)}" for number in range(len(plans))]
    calculated = {name: predicted.deterministic[name] for name in names if name in predicted.deterministic}
    groups = {
        "posterior": {**result.draws, **found.draws},
        "sample_stats": dict(result.statistics or {"lp": predicted.log_density}),
        "posterior_predictive": {**predicted.replicated, **calculated},
        "prior": prior,
        "log_prior": log_prior(run.model, run.args(plans), result.draws),
        "log_likelihood": predicted.log_likelihood,
        **_further(run, plans, result),
    }
    experiments, intensity = run.problem.experiments, found.calculated()
    z = [
        (experiment.intensity - mean) / scatter
        for experiment, mean, scatter in zip(experiments, _mean(predicted), _scatter(predicted), strict=True)
    ]
    return posterior_tree(
        found.refined,
        experiments,
        groups,
        used=run.problem.used,
        rows=found.rows,
        at_point=[{"calculated_at_point": x, "z": score} for x, score in zip(intensity, z, strict=True)],
        summary=summary,
        chains=result.chains,
    )


def refined_structure(crystal: Crystal, centre: Mapping[str, Array], derived: Mapping[str, Array]) -> Refined:
    """Sites as they are at one point; standard uncertainties are standard deviations of the draws.

    Args:
        centre: `fract`, `U_aniso` [Å²] and perhaps `occupancy` at the point. derived: the same at every draw.
    """
    spheres = np.asarray(u_equivalent(jnp.asarray(derived["U_aniso"]), crystal.cell))
    fract = np.where(np.abs(centre["fract"]) < ROUNDING, 0.0, centre["fract"])
    return Refined(
        crystal=dataclasses.replace(
            crystal, fract=fract, u_aniso=centre["U_aniso"], occupancy=centre.get("occupancy", crystal.occupancy)
        ),
        fract_su=_deviation(derived["fract"]),
        u_aniso_su=_deviation(derived["U_aniso"]),
        u_equivalent_su=_deviation(spheres),
        occupancy_su=_deviation(derived["occupancy"]) if "occupancy" in derived else np.zeros(len(crystal.labels)),
    )


def _for_cif(problem: Problem, found: _Derived) -> Calculated:
    """What the reflection loops of a CIF hold: intensities at the point, so that R is that of the summary."""
    calculated = found.calculated()
    scales = [np.asarray(found.centre.get(f"scale{suffix(n)}", 0.0)) for n in range(len(calculated))]
    are_of_frames = all(s.shape == e.frame_id.shape for s, e in zip(scales, problem.experiments, strict=True))
    return Calculated(
        intensity=calculated,
        su=[x.std(axis=0, ddof=1) for x in of_data_sets(found.predicted.deterministic, "calculated")],
        used=problem.used,
        scale=scales if are_of_frames else None,
    )


def _further(run: Run, plans: Plans, result: StageResult) -> dict[str, dict[str, Array]]:
    """Groups of the posterior file beyond ArviZ' schema: what the report compares and draws."""
    found: dict[str, dict[str, Array]] = {}
    if result.laplace:
        found["laplace"] = dict(result.laplace)
    if result.losses is not None:
        found["svi_data"] = {"loss": result.losses}
    if result.is_last:
        count = _count(result)
        draws = min(CURVE_DRAWS, affordable_draws(plans) // FOR_EACH, count)
        rows = np.linspace(0, count - 1, draws).astype(int)
        some = {name: np.asarray(values)[rows] for name, values in result.draws.items()}
        found["rocking_data"] = rocking_curves(run.model, run.problem, plans, some)
    return {name: group for name, group in found.items() if group}


def _stacked(result: StageResult, rows: slice | Array) -> dict[str, Array]:
    """The point, and some of the draws behind it."""
    return {
        name: np.concatenate([np.asarray(result.point[name])[None], np.asarray(values)[rows]])
        for name, values in result.draws.items()
    }


def _deviation(draws: Float[Array, "draws *shape"]) -> Float[Array, "*shape"]:
    """Standard deviation over draws, exactly zero where only rounding varies."""
    spread = np.std(np.asarray(draws), axis=0, ddof=1)
    return np.where(spread < ROUNDING, 0.0, spread)


def _write_reflections(run: Run, found: _Derived) -> None:
    predicted = found.predicted
    write_reflections(
        run.folder.path / "reflections.csv",
        run.problem.experiments,
        mean=_mean(predicted),
        sd=[x.std(axis=0, ddof=1) for x in of_data_sets(predicted.deterministic, "calculated")],
        scatter=_scatter(predicted),
        used=run.problem.used,
    )


def _mean(predicted: Predicted) -> list[np.ndarray]:
    """Posterior mean of I_calc, data set by data set."""
    return [values.mean(axis=0) for values in of_data_sets(predicted.deterministic, "calculated")]


def _scatter(predicted: Predicted) -> list[np.ndarray]:
    """Scale of the error distribution of every measurement, root mean square over the draws.

    With the errors that equivalent reflections have in common.
    """
    scales, common = (
        [np.mean(values**2, axis=0) for values in of_data_sets(sites, name)]
        for sites, name in ((predicted.scale, "intensity"), (predicted.deterministic, "calculated_common"))
    )
    return [np.sqrt(own + both) for own, both in zip(scales, common or [0.0] * len(scales), strict=True)]


def _count(result: StageResult) -> int:
    """Draws of all chains."""
    return len(next(iter(result.draws.values())))
