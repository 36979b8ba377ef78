"""What a refinement gives back: simulated crystals whose thickness, displacements and occupancies are known.

Run by hand: python examples/studies/recovery.py OUT [--studies thickness step occupancy crystals guide] [--kinds lens
...]. All in the geometry of the embedded example, refined with `pendel refine`'s own stages from a structure some 10 mÅ
away:

thickness: a wedge with a lower edge, one that runs out, a lens, a crystal with a step and a mixed one, whose sizes
change along the angle; the band of the mean thickness, coordinates and U_ij against the truth, and the published
network without posterior beside it. step: the crystal with a step by `--thickness step`.
occupancy: an O atom with occupancy 0.85. crystals: two crystals alone and together. guide: the neural guide against
one with a table in the place of the network.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import pendel
from pendel.check.synthetic import Imperfections, measured
from pendel.check.truth import free_coordinates, free_tensor_components
from pendel.crystal.parameters import with_parameters
from pendel.datasets import example
from pendel.files.pets_out import write_pets
from pendel.infer.guide.neural import NeuralGuide
from pendel.infer.guide.svi import STEPS, SviTuning, _updates, starting_guide
from pendel.infer.maximum.objective import differentiable
from pendel.infer.predict import derive
from pendel.run.scan import tilt_moves
from pendel.simulate import make_plan, simulate_intensities
from pendel.simulate.planning import plan_with, settings_of
from pendel.simulate.thickness import lens, lognormal, runout, single, wedge

TRUE = {"g_max": 1.6, "sg_max": 0.02}  # of the simulation; TILTS resolve the fringes of 900 Å
FIT = {"g_max": 1.6, "sg_max": 0.01}
TILTS = 60
ERRORS = Imperfections(model_error=0.08, counts=1e5)
MISORIENTATION = 0.08  # deg
OWN_ERRORS = """from functools import partial

import pendel

model = partial(pendel.load_model("robust"), errors="each")
"""
KINDS = ("wedge", "lens", "step", "mixed", "runout")


def main() -> None:
    """The studies that were asked for, each with its numbers on the screen and in OUT/recovery.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    studies = {"thickness": thickness, "step": step, "occupancy": occupancy, "crystals": crystals, "guide": guide}
    parser.add_argument("--studies", nargs="*", default=list(studies), choices=list(studies))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), help="of the study thickness")
    options = parser.parse_args()
    studies["thickness"] = partial(thickness, kinds=options.kinds)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "recovery.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in options.studies:
        new = studies[name](options.out)
        found[name] = {**found.get(name, {}), **new} if name == "thickness" else new
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(name, json.dumps(found[name], indent=1), flush=True)


# Simulated crystals


def profile_of(kind: str, alpha: np.ndarray):
    """Nodes [Å] and weights of every frame, whose sizes change by a third along the angle."""
    along = 2 * (alpha - alpha.min()) / np.ptp(alpha) - 1
    size = np.log(600.0 * (1 + 0.15 * along))
    narrow = partial(lognormal, log_width=np.full(len(alpha), np.log(0.03)), nodes=8)
    if kind == "slab":
        return single(size)
    if kind == "wedge":
        return wedge(size, np.full(len(alpha), np.log(0.3)), 32)
    if kind == "runout":
        return runout(size + np.log(2.0), 32)
    if kind == "lens":
        return lens(size + np.log(1.5), 32)
    parts = {"step": (0.75, 1.25, 0.5 - 0.3 * along), "mixed": (0.9, 1.5, np.full(len(alpha), 0.7))}[kind]
    (thin, below), (thick, above) = narrow(size + np.log(parts[0])), narrow(size + np.log(parts[1]))
    share = parts[2][:, None]
    return jnp.concatenate([thin, thick], axis=1), jnp.concatenate([share * below, (1 - share) * above], axis=1)


def simulated(kind: str, seed: int, folder: Path, *, vacancy: float = 0.0, start_occupancy: float = 1.0):
    """Data file, start structure and (true crystal, true mean thickness) of one crystal."""
    files = example()
    crystal, geometry = pendel.read_crystal(files.structure), pendel.read_pets(files.data)
    truth_generator, generator = np.random.default_rng(7), np.random.default_rng(seed)
    truth = with_parameters(
        crystal,
        displacement=0.01 * truth_generator.standard_normal(len(crystal.position_basis)),
        log_strain=0.2 * truth_generator.standard_normal(len(crystal.adp_basis)),
    )
    truth = dataclasses.replace(truth, occupancy=np.where(np.array(crystal.labels) == "O1", 1 - vacancy, 1.0))
    start = np.where(np.array(crystal.labels) == "O1", start_occupancy, 1.0)
    nodes, weights = profile_of(kind, np.asarray(geometry.alpha))
    tilt = MISORIENTATION * generator.standard_normal((len(geometry.frame_id), 2))
    settings = settings_of(geometry, tilts=TILTS, thickness_max=1.01 * float(np.max(nodes)), **TRUE)
    plan = plan_with(truth, geometry, settings, tilt)
    illumination = pendel.Illumination(tilt=tilt, thickness=nodes, weights=weights)
    exact = jax.jit(simulate_intensities)(truth, plan, illumination)
    intensity, sigma = measured(np.asarray(exact, dtype=float), ERRORS, generator)
    experiment = dataclasses.replace(geometry, intensity=intensity, sigma=sigma, notes=())
    folder.mkdir(parents=True, exist_ok=True)
    data, structure = folder / "data.cif_pets", folder / "start.cif"
    write_pets(data, experiment)
    write_pets(structure, experiment, truth=dataclasses.replace(crystal, occupancy=start))
    mean = np.asarray(jnp.sum(weights * nodes, axis=1))
    return data, structure, truth, mean


def refined(data, structure: Path, out: Path, **settings):
    """A refinement by files."""
    return pendel.refine(structure, data, out, pendel.Settings(tilts=TILTS, **FIT, **settings))


def posterior(out: Path):
    """The posterior group of a finished run."""
    return pendel.Posterior.load(out / "posterior.nc").data["posterior"]


def network_thickness(out: Path, structure: Path, data: Path) -> np.ndarray:
    """Mean thickness of every frame at the maximum: the network's draws scatter each weight by itself."""
    arrays = np.load(out / "stage_map.npz")
    values = {name.partition("/")[2]: arrays[name][None] for name in arrays.files if name.startswith("values/")}
    experiment = pendel.select(pendel.read_pets(data), "nearest")
    plan = make_plan(pendel.read_crystal(structure), experiment, tilts=3, thickness_max=3000.0, g_max=0.6)
    model, args = (
        pendel.load_model("neural_thickness"),
        (pendel.read_crystal(structure), (pendel.DataSet(experiment, plan),)),
    )
    wanted = ("calculated", "intensity", "fract", "U_aniso", "scale")
    return np.asarray(derive(model, args, values, leave_out=wanted)["thickness"])[0]


def structure_scores(outcome, truth) -> dict:
    """Deviations and z of free coordinates [mÅ] and U_ij [Å²]."""
    refined, crystal = outcome.refined, outcome.refined.crystal
    found = {"coordinates": [], "u_ij": []}
    for site in range(len(crystal.labels)):
        for axis in free_coordinates(crystal, site):
            off = float(refined.crystal.fract[site, axis] - truth.fract[site, axis]) * crystal.cell[axis] * 1000
            su = float(refined.fract_su[site, axis]) * crystal.cell[axis] * 1000
            found["coordinates"].append((off, su))
        for i, j in free_tensor_components(crystal, site):
            off = float(refined.crystal.u_aniso[site, i, j] - truth.u_aniso[site, i, j])
            found["u_ij"].append((off, float(refined.u_aniso_su[site, i, j])))
    scores = {}
    for name, pairs in found.items():
        off, su = np.array(pairs).T
        scores[name] = {
            "rms_error": float(np.sqrt(np.mean(off**2))),
            "rms_su": float(np.sqrt(np.mean(su**2))),
            "rms_z": float(np.sqrt(np.mean((off / su) ** 2))),
            "n": len(off),
        }
    return scores


# Studies


def thickness(out: Path, kinds: Sequence[str] = KINDS) -> dict:
    """Mean thickness along the angle with its 95 % band: `robust` by SVI, and the network of `neural_thickness`."""
    found = {}
    for kind in kinds:
        data, structure, truth, mean = simulated(kind, KINDS.index(kind), out / kind)
        fit = refined([data], structure, out / kind / "robust", infer="svi", holdout=0.1)
        plain = refined([data], structure, out / kind / "network", infer="map", model="neural_thickness", holdout=0.1)
        baseline = network_thickness(out / kind / "network", structure, data)
        found[kind] = {
            **band_scores(out / kind / "robust", data, mean, out / f"thickness_{kind}.png", baseline),
            "network_rms_relative_error": float(np.sqrt(np.mean((baseline / mean - 1) ** 2))),
            **{
                f"{name}_{key}": outcome.summary[key]
                for name, outcome in (("robust", fit), ("network", plain))
                for key in ("r_obs_pooled", "r_obs_heldout")
            },
            **structure_scores(fit, truth),
        }
        print(kind, json.dumps(found[kind], indent=1), flush=True)
    return found


def step(out: Path) -> dict:
    """The crystal with a step, refined with two terraces."""
    data, structure, truth, mean = simulated("step", KINDS.index("step"), out / "step")
    fit = refined([data], structure, out / "step" / "terraces", infer="svi", holdout=0.1, thickness="step")
    height = posterior(out / "step" / "terraces")["step_height"].values.ravel()
    return {
        **band_scores(out / "step" / "terraces", data, mean, out / "thickness_step_terraces.png"),
        "step_height": [float(height.mean()), float(height.std())],
        "r_obs_pooled": fit.summary["r_obs_pooled"],
        "r_obs_heldout": fit.summary["r_obs_heldout"],
        **structure_scores(fit, truth),
    }


def band_scores(run: Path, data: Path, mean: np.ndarray, picture: Path, baseline: np.ndarray | None = None) -> dict:
    """The band of the mean thickness against the truth, drawn too."""
    draws = posterior(run)["thickness"].values.reshape(-1, len(mean))
    low, middle, high = np.quantile(draws, (0.025, 0.5, 0.975), axis=0)
    alpha = np.asarray(pendel.read_pets(data).alpha)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.fill_between(alpha, low, high, color="tab:blue", alpha=0.3, label="95 % band")
    axis.plot(alpha, middle, color="tab:blue", label="median")
    if baseline is not None:
        axis.plot(alpha, baseline, color="tab:orange", label="network, no posterior")
    axis.plot(alpha, mean, "k--", label="truth")
    axis.set(xlabel="goniometer angle [deg]", ylabel="mean thickness [Å]")
    axis.legend()
    axis.set_title(picture.stem)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
    return {
        "inside_95": float(np.mean((mean > low) & (mean < high))),
        "rms_relative_error": float(np.sqrt(np.mean((middle / mean - 1) ** 2))),
        "rms_relative_sd": float(np.sqrt(np.mean((draws.std(axis=0) / mean) ** 2))),
        "rms_z": float(np.sqrt(np.mean(((draws.mean(axis=0) - mean) / draws.std(axis=0)) ** 2))),
    }


def occupancy(out: Path) -> dict:
    """Occupancy of O, 0.85, from a start at 0.95."""
    data, structure, truth, _ = simulated("wedge", 11, out / "occupancy", vacancy=0.15, start_occupancy=0.95)
    refined([data], structure, out / "occupancy" / "run", infer="svi", model="occupancy")
    site = truth.labels.index("O1")
    draws = posterior(out / "occupancy" / "run")["occupancy"].values[..., site].ravel()
    mean, su = float(draws.mean()), float(draws.std(ddof=1))
    return {"truth": 0.85, "mean": mean, "su": su, "z": (mean - 0.85) / su}


def crystals(out: Path) -> dict:
    """Standard deviations of the coordinates from two crystals alone, together, and as independent data combine."""
    deviations, sets = {}, []
    out.mkdir(parents=True, exist_ok=True)
    own_errors = out / "own_errors.py"
    own_errors.write_text(OWN_ERRORS)
    for name, seed in (("first", 21), ("second", 22)):
        data, structure, _, _ = simulated("wedge", seed, out / name)
        sets.append(data)
        outcome = refined([data], structure, out / name / "run", infer="svi", model=str(own_errors))
        deviations[name] = _deviations(outcome)
    both = _deviations(refined(sets, structure, out / "both", infer="svi", model=str(own_errors)))
    expected = (deviations["first"] ** -2 + deviations["second"] ** -2) ** -0.5
    return {
        **{f"{name}_mA": values.tolist() for name, values in deviations.items()},
        "both_mA": both.tolist(),
        "expected_mA": expected.tolist(),
        "ratio": (both / expected).tolist(),
    }


def _deviations(outcome) -> np.ndarray:
    su, cell = outcome.refined.fract_su, np.asarray(outcome.refined.crystal.cell[:3])
    crystal = outcome.refined.crystal
    return np.array(
        [1000 * su[site, axis] * cell[axis] for site in range(len(su)) for axis in free_coordinates(crystal, site)]
    )


def without_network(base: NeuralGuide) -> NeuralGuide:
    """The same conditionals with a table in the place of the network: every frame has numbers of its own."""
    plates, start = [], dict(base.start)
    for plate in base.plates:
        count = len(plate.features)
        table = (plate.targets - plate.targets.mean(axis=0)) / plate.unit
        weights = {
            "w1": np.eye(count),
            "b1": np.zeros(count),
            "w2": table / np.tanh(1.0),
            "b2": np.zeros(table.shape[1]),
        }
        start |= {f"{plate.name}_{name}": jnp.asarray(value) for name, value in weights.items()}
        plates.append(dataclasses.replace(plate, features=np.eye(count)))
    return dataclasses.replace(base, plates=tuple(plates), start=start)


def guide(out: Path, cycles: int = 8) -> dict:
    """Mean thickness of every frame: mean, standard deviation and correlation of neighbours under both guides."""
    data, structure, _, _ = simulated("wedge", 0, out / "wedge")
    crystal = pendel.read_crystal(structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(data), "nearest"), slice(None, None, 2))
    plan = make_plan(crystal, experiment, tilts=TILTS, thickness_max=3000.0, **FIT)
    model, args = pendel.load_model("robust"), (crystal, (pendel.DataSet(experiment, plan),))
    target = pendel.make_target(model, *args, intensities=(experiment.intensity,))
    start = dict(pendel.find_start(*args).values[0])
    fit = pendel.fit_map(target, start=start, moves=tilt_moves(args[1]))
    angles = {"frames": np.asarray(experiment.alpha)}
    tuning = SviTuning(cycles=(cycles, cycles))
    neural = pendel.fit_svi(target, start=fit, key=jax.random.key(1), angles=angles, tuning=tuning)

    traced = differentiable(target, "reverse")
    plain = without_network(starting_guide(traced, fit, angles, jax.random.key(1)))
    optimiser, update = _updates(traced, plain, tuning)
    parameters = plain.start
    state, losses, average = optimiser.init(parameters), [], parameters
    for step in range(cycles * STEPS):
        key = jax.random.fold_in(jax.random.key(2), step)
        parameters, state, loss = update(parameters, state, key, plain.arrays(), traced.data)
        losses.append(float(loss))
        counted = max(step % STEPS - int(0.6 * STEPS), 0) + 1
        average = jax.tree.map(lambda a, b, n=counted: a + (b - a) / n, average, parameters)
    found = {}
    for name, draws in (
        ("neural", neural.draw(jax.random.key(3), 4000)),
        ("plain", plain.draws(average, jax.random.key(3), 4000)),
    ):
        wanted = ("calculated", "intensity", "fract", "U_aniso", "scale")
        curve = np.asarray(derive(model, args, draws, leave_out=wanted)["thickness"])
        found[name] = curve.mean(axis=0), curve.std(axis=0), np.cov(curve.T)
    (mean, sd, cov), (mean_0, sd_0, cov_0) = found["neural"], found["plain"]
    beside = np.arange(len(mean) - 1)
    return {
        "elbo_neural": -float(np.mean(neural.losses[-50:])),
        "elbo_plain": -float(np.mean(losses[-50:])),
        "steps": cycles * STEPS,
        "frames": len(mean),
        "mean_difference_percent": (100 * np.abs(mean / mean_0 - 1)).tolist(),
        "sd_ratio": (sd / sd_0).tolist(),
        "neighbours_correlation_neural": (cov[beside, beside + 1] / (sd[:-1] * sd[1:])).tolist(),
        "neighbours_correlation_plain": (cov_0[beside, beside + 1] / (sd_0[:-1] * sd_0[1:])).tolist(),
    }


if __name__ == "__main__":
    main()
