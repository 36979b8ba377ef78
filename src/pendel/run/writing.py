"""What a stage leaves in the run folder: summary.json, posterior.nc, refined.cif and reflections.csv."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array, suffix
from pendel.crystal.structure import Crystal, u_equivalent
from pendel.files.cif_reflections import Calculated
from pendel.files.ensemble_cif import write_ensemble_cif
from pendel.files.refined_cif import write_refined_cif
from pendel.files.reflections_csv import write_reflections
from pendel.folder.posterior_file import Posterior, by_chain
from pendel.folder.run_folder import RunFolder, attempt
from pendel.infer.predict import Predicted, derive, predict, prior_draws
from pendel.judge.agreement import Agreement
from pendel.judge.chains import chain_quality
from pendel.model.dataset import data_sets
from pendel.model.load import diffraction_theory, model_options
from pendel.model.thickness_prior import thickness_facts
from pendel.run.evaluate import klar_agreement, own_agreement
from pendel.run.inputs import Problem
from pendel.run.plans import largest_step
from pendel.run.posterior_groups import posterior_tree
from pendel.run.rocking import rocking_curves
from pendel.run.settings import Settings
from pendel.simulate import Plan
from pendel.simulate.cost import affordable_draws

DRAWS = 1000  # of the parameters: cheap
INTERIM_DRAWS = 16  # of them, those at which every intensity is calculated when another stage follows
PRIOR_DRAWS = 200
CURVE_DRAWS = 20  # of the rocking curves
ROUNDING = 1e-10  # numbers and deviations below it are zero
HEAVY = ("calculated", "intensity")  # sites that need the simulator

type Summary = dict[str, Any]


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refined:
    """The refined structure and the standard uncertainties of its numbers; zero where symmetry fixes them."""

    crystal: Crystal
    fract_su: Float[Array, "sites 3"]
    u_aniso_su: Float[Array, "sites 3 3"]
    u_equivalent_su: Float[Array, "sites"]
    occupancy_su: Float[Array, "sites"]


def write_stage(
    folder: RunFolder,
    model: Callable,
    problem: Problem,
    plans: tuple[Plan, ...],
    settings: Settings,
    result: StageResult,
    *,
    clock: Callable[[], Mapping[str, float]],
    progress: Callable | None = None,
) -> tuple[Summary, Refined]:
    """Derive, judge and write; summary.json comes last, so that it speaks of files that are there.

    clock: gives elapsed_s and compile_s when called. Raises InputError when a file cannot be written.
    """
    args = (problem.crystal, data_sets(problem.experiments, plans))
    everything = derive(model, args, _stacked(result, slice(None)), leave_out=HEAVY)
    centre = {name: values[0] for name, values in everything.items()}
    derived = {name: values[1:] for name, values in everything.items()}
    draws = len(next(iter(result.draws.values())))
    length = draws // result.chains
    count = -(-(affordable_draws(plans) if result.is_last else INTERIM_DRAWS) // result.chains)
    rows = np.linspace(0, length - 1, min(count, length)).astype(int)
    everywhere = np.add.outer(length * np.arange(result.chains), rows).ravel()
    at_point, predicted = _predict(model, args, problem, result, everywhere, settings.seed, progress)
    calculated = [at_point[f"calculated{suffix(n)}"] for n in range(len(plans))]
    refined = refined_structure(problem.crystal, centre, derived)
    klar, missing = klar_agreement(model, problem, plans, settings, result.point, calculated)
    summary = {
        **_agreements(problem, calculated, klar, missing),
        **_thickness(derived, len(plans)),
        **largest_step(problem, plans, result.point),
        **_sampling(result),
        **thickness_facts(model_options(model).get("thickness")),
        **{"theory": diffraction_theory(settings.model)},
        **{"stage": result.stage, "model": settings.model, "seed": settings.seed, "selection": settings.select},
        **{"rsg": settings.rsg, "dsg": settings.dsg, "n_draws": draws, "n_chains": result.chains},
        **result.facts,
        **_scalars(result.draws),
    }
    prior = prior_draws(model, args, key=jax.random.key(settings.seed), draws=PRIOR_DRAWS, leave_out=HEAVY)
    tree = posterior_tree(
        problem,
        {**result.draws, **derived},
        predicted,
        prior,
        rows,
        summary,
        chains=result.chains,
        statistics=result.statistics,
        further=_further(model, problem, plans, result),
    )
    if not folder.writes:
        return {**summary, **clock()}, refined
    target = folder.path / "posterior.nc"
    attempt(target, lambda: Posterior(tree).save(target))
    write_refined_cif(
        folder.path / "refined.cif",
        refined.crystal,
        fract_su=refined.fract_su,
        u_aniso_su=refined.u_aniso_su,
        u_equivalent_su=refined.u_equivalent_su,
        occupancy_su=refined.occupancy_su,
        experiments=problem.experiments,
        results=summary,
        fract_draws=np.asarray(derived["fract"]),
        calculated=_for_cif(problem, centre, calculated, predicted),
    )
    structures = [np.asarray(derived[name]) for name in ("fract", "U_aniso", "occupancy") if name in derived]
    write_ensemble_cif(folder.path / "ensemble.cif", refined.crystal, *structures)
    _write_reflections(folder, problem, predicted)
    summary |= clock()
    folder.write("summary.json", (json.dumps(_plain(summary), indent=2) + "\n").encode())
    return summary, refined


def _for_cif(problem: Problem, centre, calculated, predicted: Predicted) -> Calculated:
    """What the reflection loops of a CIF hold: intensities at the point, so that R is that of the summary."""
    numbers = range(len(calculated))
    scales = [np.asarray(centre.get(f"scale{suffix(n)}", 0.0)) for n in numbers]
    are_of_frames = all(s.shape == e.frame_id.shape for s, e in zip(scales, problem.experiments, strict=True))
    return Calculated(
        intensity=calculated,
        su=[predicted.deterministic[f"calculated{suffix(n)}"].std(axis=0, ddof=1) for n in numbers],
        used=problem.used,
        scale=scales if are_of_frames else None,
    )


def _further(model, problem, plans, result: StageResult) -> dict[str, dict[str, Array]]:
    """Groups of the posterior file beyond ArviZ' schema: what the report compares and draws."""
    found: dict[str, dict[str, Array]] = {}
    if result.laplace:
        found["laplace"] = dict(result.laplace)
    if result.losses is not None:
        found["svi_data"] = {"loss": result.losses}
    if result.is_last:
        count = len(next(iter(result.draws.values())))
        rows = np.linspace(0, count - 1, min(CURVE_DRAWS, count)).astype(int)
        some = {name: np.asarray(values)[rows] for name, values in result.draws.items()}
        found["rocking_data"] = rocking_curves(model, problem, plans, some)
    return {name: group for name, group in found.items() if group}


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


def _predict(model, args, problem, result, rows, seed, progress) -> tuple[dict[str, np.ndarray], Predicted]:
    """Everything calculated at the point, and at some of the draws."""
    intensities = tuple(experiment.intensity for experiment in problem.experiments)
    found = predict(
        model, args, _stacked(result, rows), intensities=intensities, key=jax.random.key(seed), progress=progress
    )
    at_point = {name: values[0] for name, values in found.deterministic.items()}
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return at_point, Predicted(**jax.tree.map(lambda values: values[1:], fields))


def _agreements(problem: Problem, calculated, klar: Agreement | None, missing: int) -> Summary:
    own = own_agreement(problem, calculated, used=True)
    held_out = own_agreement(problem, calculated, used=False) if problem.used else None
    nothing = float("nan")
    return {
        "r_obs_pooled": own.r_obs_pooled,
        "wr2_pooled": own.wr2_pooled,
        "r_obs_mean": own.r_obs_mean,
        "wr2_mean": own.wr2_mean,
        "r_obs_heldout": held_out.r_obs_pooled if held_out else None,
        "wr2_heldout": held_out.wr2_pooled if held_out else None,
        "r_obs_mean_klar": klar.r_obs_mean if klar else nothing,
        "wr2_mean_klar": klar.wr2_mean if klar else nothing,
        "r_obs_pooled_klar": klar.r_obs_pooled if klar else nothing,
        "wr2_pooled_klar": klar.wr2_pooled if klar else nothing,
        "n_frames": own.n_frames,
        "n_scored": own.n_scored,
        "n_observed": own.n_observed,
        "n_heldout": held_out.n_scored if held_out else 0,
        "n_observed_heldout": held_out.n_observed if held_out else 0,
        "n_scored_klar": klar.n_scored if klar else 0,
        "n_observed_klar": klar.n_observed if klar else 0,
        "n_frames_klar": klar.n_frames if klar else 0,
        "n_frames_only_klar": missing,
    }


def _sampling(result: StageResult) -> Summary:
    """Convergence of the chains over every number that was sampled; nothing where the draws are independent."""
    if result.chains == 1:
        return {"max_r_hat": None, "min_ess_bulk": None, "n_divergent": None}
    quality = chain_quality({name: by_chain(x, result.chains) for name, x in result.draws.items()})
    divergent = int(np.sum(result.statistics["diverging"])) if "diverging" in result.statistics else None
    return {**quality, "n_divergent": divergent}


def _thickness(derived: Mapping[str, Array], datasets: int) -> Summary:
    """Mean over frames of the mean thickness [Å], its standard uncertainty, and its range over the frames."""
    curves = [
        np.asarray(derived[f"thickness{suffix(n)}"]) for n in range(datasets) if f"thickness{suffix(n)}" in derived
    ]
    if not curves:
        return {"thickness_mean_angstrom": None}
    profile = np.concatenate(curves, axis=1)
    return {
        "thickness_mean_angstrom": float(profile.mean()),
        "thickness_su_angstrom": float(profile.mean(axis=1).std(ddof=1)),
        "thickness_min_angstrom": float(profile.mean(axis=0).min()),
        "thickness_max_angstrom": float(profile.mean(axis=0).max()),
    }


def _scalars(draws: Mapping[str, Array]) -> Summary:
    """Mean and standard deviation of every latent site that is one number."""
    values = {name: np.asarray(value) for name, value in draws.items() if np.ndim(value) == 1}
    return {"scalars": {name: {"mean": float(x.mean()), "sd": float(x.std(ddof=1))} for name, x in values.items()}}


def _write_reflections(folder: RunFolder, problem: Problem, predicted: Predicted) -> None:
    numbers = range(len(problem.experiments))
    calculated = [predicted.deterministic[f"calculated{suffix(n)}"] for n in numbers]
    write_reflections(
        folder.path / "reflections.csv",
        problem.experiments,
        mean=[values.mean(axis=0) for values in calculated],
        sd=[values.std(axis=0, ddof=1) for values in calculated],
        scatter=[np.sqrt(np.mean(predicted.scale[f"intensity{suffix(n)}"] ** 2, axis=0)) for n in numbers],
        used=problem.used,
    )


def _plain(value: Any) -> Any:
    """Values JSON knows: NaN becomes null, NumPy scalars become numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
