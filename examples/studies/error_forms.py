"""Which form of background and of the errors of weak reflections real crystals want: several, fitted and compared.

Run by hand: python examples/studies/error_forms.py OUT --data FOLDER --crystal quartz [--forms plain,offset] [--lock
FILE]. FOLDER holds one folder for every crystal and references.json (PENDEL_SHARED/data when not given). All forms of
one crystal share frames, beams, tilts and the held-out tenth of the unique hkl. The plain form starts from a scan, the
others from its fit, offset_mosaic (with a spread of the orientation) from that of offset. OUT/CRYSTAL_FORM.json has the
numbers of one fit as soon as it is done.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import pickle
import time
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import xarray as xr
from against_references import against_reference
from scipy.stats import kstest

import pendel
from pendel.experiment.frames import central_vectors
from pendel.infer.maximum.map import laplace_evidence
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.predict import derive, predict
from pendel.judge.agreement import agreement
from pendel.model import Spread, observe, sample_errors, sample_frames, sample_mosaicity, sample_structure, simulate
from pendel.model.dataset import data_sets
from pendel.run.inputs import read_problem
from pendel.run.plans import final_plans, first_plans
from pendel.run.scan import find_start, tilt_moves
from pendel.simulate.cost import affordable_draws

# Thinned so that a fit takes minutes on two cores.
CRYSTALS = {
    "quartz": ("quartz_dynamical.cif", "quartz.cif_pets", {"frames": "::6"}),
    "albite": ("albite_kinematical.cif", "albite.cif_pets", {"frames": "::4", "sg_max": 0.006, "tilts": 48}),
    "urea": ("urea_jana.cif", "urea.cif_pets", {"frames": "::8", "tilts": 120, "hydrogen": "ride"}),
    "cspbbr3": ("cspbbr3.cif", "CsPbBr_P67-crot-050_dyn.cif_pets", {"frames": "::15", "sg_max": 0.006, "tilts": 60}),
    "paracetamol": (
        "paracetamol.cif",
        "paracetamol.cif_pets",
        {"frames": "::14", "sg_max": 0.005, "tilts": 40, "geometry": "precession", "hydrogen": "ride"},
    ),
}
TERMS = ("counts", "resolution", "offset", "counts_of_frames", "offset_of_frames", "middle", "weak")
FORMS = {"plain": (), **{term: (term,) for term in TERMS}}
FORMS |= {f"{term}_middle": (term, "middle") for term in ("counts", "resolution", "offset")}
FORMS |= {"offset_mosaic": FORMS["offset"]}  # with a spread of the orientation
FORMS |= {f"{term}_weak": (term, "weak") for term in ("counts", "resolution", "offset")}
SHELLS = 8  # of resolution, for the sigma that is usual there
DRAWS = 1000  # of the Laplace approximation
MOST_PREDICTED = 200  # draws of which intensities are calculated
WEAK = 0.3  # I_calc / sigma below which a row is weak


def model(crystal, datasets, terms, usual, *, intensities=None, mask=None):
    """`robust` with terms that `terms` [7] switches on (1) and off (0); the prior of one that is off integrates to 1.

    I_m = D_m + (counts + counts_f) median(sigma) + resolution usual_m + (offset + offset_f) sigma_m,  D = scale I
    s_m^2 = (a sigma_m)^2 weak^(2 w_m) + middle^2 sigma_m D_m + (b D_m)^2,  w_m = 1 / (1 + (D_m / (2 sigma_m))^2)

    usual: median of sigma around the resolution of every measurement, see `usual_sigma`.
    """
    structure = sample_structure(crystal, displacement=0.05, log_strain=1.0)
    error = sample_errors(a=1.0, b=0.1, nu=3.0)
    (data,) = datasets
    frame, sigma = data.experiment.frame_index, jnp.asarray(data.experiment.sigma)
    use = dict(zip(TERMS, terms, strict=True))
    spreads = {"scale_spread": Spread(0.3, in_map=0.1), "tilt_spread": Spread(0.1, in_map=0.12)}
    scale, illumination = sample_frames(data, "taper", log_scale=2.0, **spreads)
    spread = sample_mosaicity(data, "auto")
    illumination = dataclasses.replace(illumination, mosaicity=spread)
    diffracted = scale[frame] * simulate(structure, data, illumination)
    background = use["resolution"] * numpyro.sample("resolution", dist.Normal(0, 1)) * usual
    for name, unit in (("offset", sigma), ("counts", jnp.median(sigma))):
        mean = numpyro.sample(name, dist.Normal(0, 1))
        spread = Spread(0.5, in_map=0.3).sample(f"{name}_spread")
        with numpyro.plate(data.frames, data.plan.frames):
            of_frames = numpyro.sample(f"{name}_of_frames", dist.Normal(mean, spread))
        number = use[name] * mean + use[f"{name}_of_frames"] * of_frames[frame]
        background = background + number * unit
    weakness = use["weak"] / (1 + (diffracted / (2 * sigma)) ** 2)
    own = error["a"] * sigma * jnp.exp(numpyro.sample("log_weak", dist.Normal(0, 0.5)) * weakness)
    middle = use["middle"] * jnp.exp(numpyro.sample("log_middle", dist.Normal(jnp.log(0.3), 0.7)))
    square = own**2 + middle**2 * sigma * diffracted + (error["b"] * diffracted) ** 2
    scatter = dist.StudentT(error["nu"], diffracted + background, jnp.sqrt(square))
    numpyro.deterministic("diffracted", diffracted)
    observe(data, diffracted, scatter, background=background, intensities=intensities, mask=mask)


def usual_sigma(experiment):
    """Median of sigma in shells of resolution with equal numbers of rows, interpolated between their centres."""
    length = np.linalg.norm(central_vectors(experiment), axis=1)
    shells = np.array_split(np.argsort(length), SHELLS)
    centres = [np.median(length[shell]) for shell in shells]
    return np.interp(length, centres, [np.median(experiment.sigma[shell]) for shell in shells])


def main() -> None:
    """One crystal: a scan, then one fit for each form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PENDEL_SHARED", ".")) / "data")
    parser.add_argument("--crystal", choices=tuple(CRYSTALS), required=True)
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--from-scan", action="store_true", help="start every form from the scan")
    parser.add_argument("--basin", type=float, help="take the basin of the scan that is nearest to this thickness [Å]")
    parser.add_argument("--lock", type=Path, help="a file to lock during every fit, where others compute too")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    structure, data, chosen = CRYSTALS[options.crystal]
    folder = options.data / options.crystal
    settings = pendel.Settings(holdout=0.1, **chosen)
    problem = read_problem(folder / structure, [folder / data], settings)
    with locked(options.lock):
        start = kept(options.out / f"{options.crystal}_scan.pickle", lambda: scan(problem, settings))
    print(options.crystal, "basins", start.basins, flush=True)
    first = start.values[0]
    if options.basin:
        first = min(zip(start.basins, start.values, strict=True), key=lambda x: abs(x[0][0] - options.basin))[1]
    for form in options.forms.split(","):
        own = dataclasses.replace(settings, mosaicity="on" if form.endswith("_mosaic") else None)
        datasets = data_sets(problem.experiments, final_plans(problem, own, first))
        before = form.removesuffix("_mosaic") if form.endswith("_mosaic") else "plain"
        values = options.out / f"{options.crystal}_{before}.pickle"
        fitted = values.is_file() and not options.from_scan and form != before
        name = f"{options.crystal}_{form}{'_scan' if options.from_scan else ''}"
        with locked(options.lock):
            began = time.monotonic()
            target = target_of(problem, datasets, form)
            begin = pickle.loads(values.read_bytes()) if fitted else first
            fit = fitted_from(target, begin, fitted=fitted)
            seconds = time.monotonic() - began
            found = judged(problem, target, fit)
        (options.out / f"{name}.pickle").write_bytes(pickle.dumps(jax.tree.map(np.asarray, fit.values)))
        found |= {"crystal": options.crystal, "form": name.removeprefix(f"{options.crystal}_"), "seconds": seconds}
        found |= against_reference(
            options.data / "references.json", options.crystal, problem.crystal, found.pop("fract")
        )
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(found), flush=True)


@contextlib.contextmanager
def locked(path: Path | None):
    """Hold the lock of a file, if one is given."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kept(path: Path, make):
    """What a file holds, or what is made now and kept there."""
    if not path.is_file():
        path.write_bytes(pickle.dumps(make()))
    return pickle.loads(path.read_bytes())


def scan(problem, settings):
    """Start values of all thickness basins."""
    return find_start(problem.crystal, data_sets(problem.experiments, first_plans(problem, settings)))


def target_of(problem, datasets, form: str):
    """The model with the terms of a form and the measurements that are not held out."""
    terms = jnp.array([float(term in FORMS[form]) for term in TERMS])
    intensities = tuple(experiment.intensity for experiment in problem.experiments)
    args = problem.crystal, datasets, terms, jnp.asarray(usual_sigma(problem.experiments[0]))
    return pendel.make_target(model, *args, intensities=intensities, mask=problem.used)


def fitted_from(target, begin, *, fitted: bool):
    """MAP, with larger moves of the frames where it starts from a scan."""
    names = {site.name for site in target.full.sites}
    values = {name: value for name, value in begin.items() if name in names}
    spreads = {name: values.pop(name) for name in target.spreads if name in values}
    moves = [] if fitted else tilt_moves(target.data[0][1])[:2]
    tuning = MapTuning(rounds=2, tolerance=0.3)
    return pendel.fit_map(target, start=values, spreads=spreads, moves=moves, tuning=tuning)


def judged(problem, target, fit) -> dict:
    """Everything the table shows, from draws of the Laplace approximation and from the maximum."""
    args, kwargs = target.data
    draws = pendel.laplace_draws(fit, jax.random.key(1), DRAWS)
    derived = derive(model, args, draws, leave_out=("calculated", "intensity", "diffracted"))
    few = min(MOST_PREDICTED, affordable_draws([data.plan for data in args[1]]))
    some = {name: np.asarray(value)[:few] for name, value in draws.items()}
    point = {name: np.asarray(value)[None] for name, value in fit.values.items()}
    intensities = kwargs["intensities"]
    drawn = predict(model, args, some, intensities=intensities, key=jax.random.key(2))
    at_point = predict(model, args, point, intensities=intensities, key=jax.random.key(2)).deterministic
    (experiment,), (used,) = problem.experiments, problem.used
    calculated, diffracted = at_point["calculated"][0], at_point["diffracted"][0]
    columns = experiment.intensity, experiment.sigma, calculated, experiment.frame_index
    inside, outside = agreement(*columns, mask=used), agreement(*columns, mask=~used)
    weak = used & (diffracted < WEAK * experiment.sigma)
    z = (experiment.intensity - calculated) / experiment.sigma
    scalars = ("a", "b", "nu", "counts", "resolution", "offset", "log_middle", "log_weak", "mosaicity")
    scalars = tuple(name for name in scalars if name in draws)
    return {
        "converged": bool(fit.converged),
        "log_density": -fit.potential,
        "log_evidence": laplace_evidence(fit),
        **leave_one_out(drawn, experiment.intensity, used),
        **density_of_held_out(drawn, experiment.hkl, used),
        **{"n_rows": int(used.sum()), "n_observed_held_out": outside.n_observed},
        **{"r_obs": inside.r_obs_pooled, "r_obs_held_out": outside.r_obs_pooled, "wr2": inside.wr2_pooled},
        **{"n_weak": int(weak.sum()), "z_weak": float(z[weak].mean()), "sd_weak": float(z[weak].std())},
        "thickness": float(np.mean(derived["thickness"])),
        "scalars": {name: [float(np.mean(draws[name])), float(np.std(draws[name]))] for name in scalars},
        "spreads": {name: np.asarray(value).tolist() for name, value in fit.spreads.items()},
        "fract": (np.asarray(derived["fract"]).mean(axis=0), np.asarray(derived["fract"]).std(axis=0)),
    }


def leave_one_out(drawn, intensity, used) -> dict:
    """LOO log score, its unreliable rows, and how far LOO-PIT departs from uniform (Kolmogorov-Smirnov)."""
    dims = ("chain", "draw", "row")
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({"x": (dims[:2], np.zeros((1, len(drawn.log_density))))}),
            "log_likelihood": xr.Dataset({"y": (dims, drawn.log_likelihood["intensity"][None][:, :, used])}),
            "posterior_predictive": xr.Dataset({"y": (dims, drawn.replicated["intensity"][None][:, :, used])}),
            "observed_data": xr.Dataset({"y": ("row", np.asarray(intensity)[used])}),
        }
    )
    loo = az.loo(tree, pointwise=True, reff=1.0)
    draws = len(drawn.log_density)
    jitter = np.random.default_rng(0).uniform(size=int(used.sum()))
    pit = (draws * az.loo_pit(tree)["y"].values + jitter) / (draws + 1)
    ranks = kstest(pit, "uniform")
    return {
        "elpd": float(loo.elpd),
        "elpd_of_rows": np.asarray(loo.elpd_i).round(4).tolist(),
        "n_unreliable": int(np.sum(np.asarray(loo.pareto_k) > 0.7)),
        "pit_distance": float(ranks.statistic),
        "pit_p": float(ranks.pvalue),
    }


def density_of_held_out(drawn, hkl, used) -> dict:
    """Log predictive density of every held-out unique hkl."""
    _, unit = np.unique(np.asarray(hkl)[~used], axis=0, return_inverse=True)
    rows = drawn.log_likelihood["intensity"][:, ~used]
    summed = np.array([np.bincount(unit.ravel(), weights=row) for row in rows])
    density = np.logaddexp.reduce(summed, axis=0) - np.log(len(summed))
    return {
        "held_out": float(density.sum()),
        "held_out_of_hkl": density.round(4).tolist(),
        "n_held_out": int(np.sum(~used)),
    }


if __name__ == "__main__":
    main()
