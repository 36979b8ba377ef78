"""Gradients per effective sample on real quartz: plain NUTS, NUTS and adjusted MCLMC in pendel's coordinates.

Run by hand: python examples/studies/sampler_race.py OUT [--samplers plain nuts mclmc] [--frames ::12] [--tilts 84]. One
chain each, of the model `robust` and from the same MAP. Plain is NumPyro's NUTS on the model as written, with its own
mass matrix and warm-up, trees of at most 63 steps. OUT/race_SAMPLER.json holds, for every kind of parameter, the
smallest effective sample size of its elements and the gradients after warm-up for one effective sample of that element.
"""

import argparse
import json
import time
from pathlib import Path

import arviz as az
import jax
import numpy as np
from numpyro.infer import MCMC, NUTS, init_to_value

import pendel
from pendel.experiment.select import drop_poor_frames
from pendel.infer.chains.nuts import Sampled
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.objective import differentiable
from pendel.run.scan import tilt_moves
from pendel.run.settings import parse_frames

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "quartz"
KINDS = {
    "coordinates": ("displacement",),
    "log strains": ("log_strain",),
    "errors": ("a", "b", "nu"),
    "scales, thickness, taper": ("log_scale", "log_thickness", "log_taper"),
    "tilts": ("tilt",),
    "spreads": ("scale_spread", "tilt_spread", "thickness_spread", "thickness_jump", "taper_spread", "taper_jump"),
}
PLAIN = {"warmup": 40, "draws": 40}
DEEPEST = 6  # trees of plain NUTS
NUTS_LENGTH = {"warmup": 60, "draws": 160}
MCLMC_LENGTH = {"warmup": 250, "draws": 350}


def main() -> None:
    """One chain of every sampler that was asked for, and its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--samplers", nargs="*", default=["nuts", "mclmc", "plain"])
    parser.add_argument("--frames", default="::12")
    parser.add_argument("--tilts", type=int, default=84)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = pendel.thin(pendel.read_pets(DATA / "quartz.cif_pets"), parse_frames(options.frames))
    experiment = drop_poor_frames(pendel.select(rows, "klar", rsg=0.9, dsg=0.0015), 1)
    crystal = pendel.read_crystal(DATA / "quartz_dynamical.cif")
    plan = pendel.make_plan(crystal, experiment, g_max=2.0, sg_max=0.01, tilts=options.tilts, thickness_max=3000.0)
    data, observed = (crystal, (pendel.DataSet(experiment, plan),)), {"intensities": (experiment.intensity,)}
    model = pendel.load_model("robust")
    start = dict(pendel.find_start(*data).values[0])
    fit = pendel.fit_map(model, *data, start=start, moves=tilt_moves(data[1]), **observed)
    print(f"{len(experiment.frame_id)} frames, {len(experiment.hkl)} measurements: {fit.message}", flush=True)
    for name in options.samplers:
        began = time.monotonic()
        if name == "plain":
            sampled = plain_nuts(model, data, observed, fit)
        else:
            sample, length = {
                "nuts": (pendel.sample_nuts, NUTS_LENGTH),
                "mclmc": (pendel.sample_mclmc, MCLMC_LENGTH),
            }[name]
            sampled = sample(model, *data, start=fit, key=jax.random.key(1), chains=1, **length, **observed)
        found = {"seconds": time.monotonic() - began, **table(sampled)}
        (options.out / f"race_{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(name, json.dumps(found, indent=1), flush=True)


def plain_nuts(model, data: tuple, observed: dict, fit: MapFit) -> Sampled:
    """NumPyro's NUTS on the model itself, started at the MAP."""
    data, observed = differentiable((data, observed), "reverse")
    kernel = NUTS(model, init_strategy=init_to_value(values={**fit.values, **fit.spreads}), max_tree_depth=DEEPEST)
    chain = MCMC(kernel, num_warmup=PLAIN["warmup"], num_samples=PLAIN["draws"], progress_bar=False)
    chain.warmup(jax.random.key(1), *data, extra_fields=("num_steps",), collect_warmup=True, **observed)
    warmup = int(np.sum(chain.get_extra_fields()["num_steps"]))
    chain.run(chain.post_warmup_state.rng_key, *data, extra_fields=("num_steps", "diverging"), **observed)
    extra = chain.get_extra_fields(group_by_chain=True)
    statistics = {"n_steps": np.asarray(extra["num_steps"]), "diverging": np.asarray(extra["diverging"])}
    draws = {name: np.asarray(value) for name, value in chain.get_samples(group_by_chain=True).items()}
    return Sampled(draws, statistics, warmup + int(np.sum(extra["num_steps"])), warmup)


def table(sampled: Sampled) -> dict:
    """Effective sample sizes and gradients for each, by kind of parameter."""
    tree = az.from_dict({"posterior": {name: np.asarray(value) for name, value in sampled.draws.items()}})
    sizes = az.ess(tree, method="bulk")
    after = sampled.gradients - sampled.warmup_gradients
    found = {
        "gradients": sampled.gradients,
        "gradients_after_warmup": after,
        "draws": int(np.size(sampled.statistics["n_steps"])),
        "steps_a_draw": float(np.mean(sampled.statistics["n_steps"])),
        "divergent": int(np.sum(sampled.statistics["diverging"])),
    }
    for kind, names in KINDS.items():
        least = min(float(np.min(sizes[name].values)) for name in names if name in sampled.draws)
        found[kind] = {"ess": least, "gradients_per_sample": after / least}
    return found


if __name__ == "__main__":
    main()
