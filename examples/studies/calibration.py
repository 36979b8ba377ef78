"""Calibration: are 50, 80 and 95 % intervals right? Simulated quartz experiments, refined like real ones.

Run by hand: python examples/studies/calibration.py OUT [--experiments 200] [--infer map|svi|nuts] [--frames 12]. Every
experiment draws structure, errors, tilts, scales and thickness from the model's prior, narrowed to where a refinement
stands that has begun (positions 10 mÅ, log-strain 0.3, thickness in one basin), draws intensities from the error model,
and starts from another draw, never from the truth. With --effects absorption and mosaicity are in the data and in the
fit, too, drawn from their priors, as the background always is; the simulation is that of the fit. With --common
fitted errors common to equivalent reflections are in the data and in the fit, with --common ignored in the data alone.
OUT/calibration_svi.json holds coverages, OUT/calibration_svi.png histograms of the rank of the truth; finished
experiments are kept and not repeated.
"""

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from numpyro import handlers
from scipy.stats import binom

import pendel
from pendel.datasets import example
from pendel.experiment.select import drop_poor_frames
from pendel.infer.chains.nuts import ChainTuning
from pendel.infer.predict import derive
from pendel.run.scan import tilt_moves
from pendel.simulate.mosaic import EXPECTED
from pendel.simulate.planning import plan_with, settings_of

GLOBALS = ("background", "absorption", "mosaicity", "contraction", "reflection_spread")
LEVELS = (0.5, 0.8, 0.95)
THICKNESS = 600.0  # Å
TILTS = 44  # resolve its fringes; with fewer the posterior has a comb of maxima along the tilts of frames
DRAWS = 1000
NARROW = {  # where a refinement stands that has begun: (mean, standard deviation) of a normal, or a range
    "log_thickness_mean": (np.log(THICKNESS), 0.03),
    "log_taper_mean": (np.log(0.4), 0.3),
}
RANGES = {
    "scale_spread": (0.03, 0.15),
    "tilt_spread": (0.03, 0.1),  # deg
    "thickness_spread": (0.02, 0.1),
    "thickness_jump": (0.01, 0.04),
    "taper_spread": (0.05, 0.2),
    "taper_jump": (0.02, 0.1),
    "reflection_spread": (0.03, 0.15),
}


def main() -> None:
    """Experiments one after the other, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--infer", choices=("map", "svi", "nuts"), default="svi")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--effects", action="store_true", help="absorption and mosaicity")
    parser.add_argument("--common", choices=("none", "fitted", "ignored"), default="none")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), help="of how many: work for several processes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = pendel.load_model(str(_narrowed_model(options.out)))
    if options.effects:
        model = partial(model, absorption="on", mosaicity="on")
    crystal, dataset = _setting(options.frames, EXPECTED if options.effects else 0.0, options.common != "none")
    truth = partial(model, reflection_error="off" if options.common == "none" else "on")
    model = partial(model, reflection_error="on" if options.common == "fitted" else "off")
    part, parts = options.part
    for number in range(part, options.experiments, parts):
        path = options.out / f"{options.infer}_{number:04}.npz"
        if path.exists():
            continue
        began = time.monotonic()
        np.savez(path, **_one(truth, model, crystal, dataset, jax.random.key(number), options.infer))
        print(f"{number + 1}/{options.experiments}: {time.monotonic() - began:.1f} s", flush=True)
    _summarise(options.out, options.infer)


def _narrowed_model(out: Path) -> Path:
    """A copy of `robust` with the priors of a refinement that has begun: what a user does who edits a model."""
    source = (Path(__file__).resolve().parents[2] / "models" / "robust.py").read_text()
    for wide, narrow in (("displacement=0.05", "displacement=0.01"), ("log_strain=1.0", "log_strain=0.3")):
        assert source.count(wide) == 1
        source = source.replace(wide, narrow)
    path = out / "calibration_model.py"
    path.write_text(source)
    return path


def _setting(frames: int, mosaicity: float, common: bool):
    """The embedded quartz crystal and the geometry of its first frames; beams wide enough for all draws."""
    files = example()
    crystal = pendel.read_crystal(files.structure)
    rows = pendel.read_pets(files.data)
    every = len(rows.frame_id) // frames
    some = pendel.thin(rows, slice(0, every * frames, every))
    experiment = drop_poor_frames(pendel.select(some, "nearest"), 1)
    experiment = pendel.with_equivalents(crystal, [experiment])[0] if common else experiment
    settings = settings_of(experiment, g_max=1.6, sg_max=0.01, tilts=TILTS, thickness_max=2000.0)
    plan = plan_with(crystal, experiment, dataclasses.replace(settings, mosaicity=mosaicity), None)
    return crystal, pendel.DataSet(experiment, plan)


def _draw(model, crystal, dataset, key):
    """Latent and derived values, and intensities, from the narrowed prior."""
    seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
    generator = np.random.default_rng(seed)
    held = {name: generator.normal(*numbers) for name, numbers in NARROW.items()}
    held |= {name: generator.uniform(*limits, 2 if name == "tilt_spread" else None) for name, limits in RANGES.items()}
    held["log_scale_mean"] = np.log(np.max(dataset.experiment.intensity)) + 1.0 + 0.3 * generator.standard_normal()
    program = handlers.substitute(handlers.seed(model, seed), data=held)
    trace = handlers.trace(program).get_trace(crystal, (dataset,))
    return {name: np.asarray(x["value"]) for name, x in trace.items() if x["type"] in ("sample", "deterministic")}


def _one(truth_model, model, crystal, dataset, key, infer):
    """Simulate, refine and rank one experiment."""
    experiment = dataset.experiment
    key_truth, key_start, key_fit = jax.random.split(key, 3)
    truth, other = (_draw(truth_model, crystal, dataset, one) for one in (key_truth, key_start))
    drawn = dataclasses.replace(experiment, intensity=truth["intensity"])
    data = (crystal, (dataclasses.replace(dataset, experiment=drawn),))
    target = pendel.make_target(model, *data, intensities=(truth["intensity"],))
    displaced = dataclasses.replace(crystal, fract=other["fract"], u_aniso=other["U_aniso"])
    scanned = dict(pendel.find_start(displaced, data[1], thickness_min=0.7 * THICKNESS).values[0])
    start = {**scanned, "displacement": other["displacement"], "log_strain": other["log_strain"]}
    fit = pendel.fit_map(target, start=start, moves=tilt_moves(data[1]))
    if infer == "map":
        draws = pendel.laplace_draws(fit, key_fit, DRAWS)
    elif infer == "svi":
        svi = pendel.fit_svi(target, start=fit, key=key_fit, angles={"frames": experiment.alpha})
        draws = svi.draw(key_fit, DRAWS)
    else:
        tuning = ChainTuning(chains=2, warmup=60, draws=110)  # some 150 effective draws of a coordinate
        chains = pendel.sample_nuts(target, start=fit, key=key_fit, tuning=tuning)
        draws = {name: np.reshape(x, (-1, *np.shape(x)[2:])) for name, x in chains.draws.items()}
    derived = derive(model, data, draws, leave_out=("calculated", "intensity"))
    upper = np.triu_indices(3)
    found = {}
    values_of = {name: np.asarray(x) for name, x in {**draws, **derived}.items()}
    for name in ("fract", "U_aniso", "thickness", *(name for name in GLOBALS if name in truth and name in values_of)):
        values, true = values_of[name], truth[name]
        if np.ndim(true) == 0:
            values, true = values[:, None], true[None]
        if name == "U_aniso":
            values, true = values[:, :, *upper], true[:, *upper]
        free = np.std(values, axis=0) > 1e-9  # symmetry fixes the others
        found[name] = np.mean(values[:, free] < true[free], axis=0)
        found[f"z_{name}"] = (np.mean(values[:, free], axis=0) - true[free]) / np.std(values[:, free], axis=0)
    return found


def _summarise(out: Path, infer: str) -> None:
    """Coverage of every kind of parameter with its binomial error, and histograms of the ranks."""
    files = sorted(out.glob(f"{infer}_*.npz"))
    runs = [dict(np.load(file)) for file in files]
    names = [name for name in runs[0] if not name.startswith("z_") and runs[0][name].size]  # MAP fixes the spreads
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), layout="constrained")
    summary = {"experiments": len(runs), "infer": infer}
    for axis, name in zip(axes, names, strict=True):
        ranks = np.array([run[name] for run in runs])  # experiment, parameter
        scores = np.array([run[f"z_{name}"] for run in runs])
        entry = {"n": int(ranks.size), "rms_z": float(np.sqrt(np.mean(scores**2)))}
        for level in LEVELS:
            inside = np.abs(ranks - 0.5) < level / 2
            share = inside.mean(axis=0)
            entry[f"{level:.2f}"] = {
                "pooled": float(inside.mean()),
                "se": float(np.sqrt(level * (1 - level) / ranks.size)),
                "se_if_parameters_of_one_experiment_agree": float(np.sqrt(level * (1 - level) / len(runs))),
                "per_parameter": [float(x) for x in share],
            }
        summary[name] = entry
        bins = 20
        axis.hist(ranks.ravel(), bins=bins, range=(0, 1), color="tab:blue")
        for limit in binom.ppf((0.025, 0.975), ranks.size, 1 / bins):
            axis.axhline(limit, color="black", linewidth=0.8, linestyle="--")
        axis.set(title=f"{name}, n = {ranks.size}", xlabel="rank of the truth among the draws", ylabel="count")
    figure.savefig(out / f"calibration_{infer}.png", dpi=110)
    (out / f"calibration_{infer}.json").write_text(json.dumps(summary, indent=2) + "\n")
    for name in names:
        line = ", ".join(f"{level:.0%}: {100 * summary[name][f'{level:.2f}']['pooled']:.1f}" for level in LEVELS)
        print(f"{name}: {line}; rms z {summary[name]['rms_z']:.2f}; n = {summary[name]['n']}")


if __name__ == "__main__":
    main()
