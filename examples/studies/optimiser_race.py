"""Time to a given log density for four optimisers against the number of structural parameters.

Run by hand: python examples/studies/optimiser_race.py OUT.json [--sizes 10 100 500]. Simulated P1 crystals with 3, 25
and 125 light atoms (about 10, 100 and 500 free coordinates and U), fifteen frames, start displaced by 50 mÅ in every
coordinate. Each optimiser works on the same compiled density and starts at the same point; compilation is not counted.
Reported is the time until the log density is within 5 of the best one that any of them found.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize

import pendel
from pendel.check.synthetic import simulate_experiment
from pendel.crystal.cell import reciprocal_matrix
from pendel.crystal.sites import Sites
from pendel.crystal.structure import make_crystal
from pendel.datasets import example
from pendel.infer.maximum.objective import Fixed, differentiable, objective
from pendel.infer.maximum.optimise import Density, damped_step, whitening
from pendel.infer.target import make_target, prior_means
from pendel.simulate.beams import reflections_within
from pendel.simulate.plan import only_frames

SITES = {10: 3, 100: 25, 500: 125}
NEAR = 5.0  # in log density
SECONDS = 90.0  # at most, for one optimiser


def main() -> None:
    """One race for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SITES))
    options = parser.parse_args()
    found = {}
    for size in options.sizes:
        found[str(size)] = race(*simulated(SITES[size]))
        options.out.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found[str(size)], indent=2), flush=True)


def simulated(sites: int):
    """Start structure and data set of a random crystal without symmetry."""
    generator = np.random.default_rng(sites)
    length = (14.0 * max(sites, 25)) ** (1 / 3)
    cell = (length, 1.1 * length, 0.95 * length, 90.0, 95.0, 90.0)
    fract = _apart(generator, sites, np.array(cell[:3]))
    truth = make_crystal(
        name="random",
        cell=cell,
        spacegroup="P 1",
        rotations=np.eye(3, dtype=int)[None],
        translations=np.zeros((1, 3)),
        sites=Sites(
            labels=tuple(f"C{n}" for n in range(sites)),
            elements=tuple(generator.choice(["C", "N", "O"], sites)),
            fract=fract,
            u_aniso=np.tile(0.012 * np.eye(3), (sites, 1, 1)),
            occupancy=np.ones(sites),
            isotropic=(True,) * sites,
        ),
    )
    measured = pendel.thin(pendel.read_pets(example().data), slice(None, None, 2))
    frames = len(measured.frame_id)
    old = measured.orientation @ np.linalg.inv(reciprocal_matrix(measured.cell))
    hkl = reflections_within(truth, 1.4)
    rows = frames * len(hkl)
    geometry = dataclasses.replace(
        measured,
        cell=cell,
        orientation=old @ reciprocal_matrix(cell),
        frame_index=np.repeat(np.arange(frames), len(hkl)),
        hkl=np.tile(hkl, (frames, 1)),
        intensity=np.arange(1.0, rows + 1),
        sigma=np.ones(rows),
        weight=np.ones(rows, dtype=int),
    )
    geometry = pendel.select(geometry, "klar", rsg=0.7, dsg=0.001)
    settings = {"g_max": 1.5, "sg_max": 0.006, "tilts": 9}
    made = simulate_experiment(
        truth, geometry, pendel.Imperfections(thickness=300.0, width=0.1, counts=1e6), seed=1, **settings
    )
    shift = 0.05 * generator.standard_normal(fract.shape) / np.array(cell[:3])
    start = dataclasses.replace(truth, fract=fract + shift)
    plan = pendel.make_plan(start, made.experiment, thickness_max=900.0, **settings)
    return start, (pendel.DataSet(made.experiment, plan),)


def race(crystal, datasets) -> dict:
    """Seconds to the best log density by optimiser, None where it was not reached."""
    model = pendel.load_model("dynamical")
    intensities = tuple(data.experiment.intensity for data in datasets)
    target = make_target(model, crystal, datasets, intensities=intensities)
    layout, spreads = target.layout, {name: jnp.asarray(value, dtype=float) for name, value in target.spreads.items()}
    fixed = Fixed(spreads, jnp.zeros(layout.size))
    forward, reverse = (differentiable(target, mode) for mode in ("forward", "reverse"))
    density = Density(objective(forward), forward.data, reverse.data, None)
    centre = prior_means(target, spreads)
    begin = {
        "log_thickness": np.full(len(datasets[0].experiment.frame_id), np.log(330.0)),
        "log_thickness_mean": np.log(330.0),
    }
    z = density.cheap(layout.unconstrain({**centre, **begin}), fixed)
    density.value(z, fixed)
    jax.block_until_ready(density.gradient(z, fixed))
    traces = {}
    racers = {"L-BFGS, diagonal metric": lbfgs, "Levenberg-Marquardt": marquardt, "Adam": adam}
    for name, optimise in (racers | {"Adam, minibatches of a quarter": minibatches}).items():
        traces[name] = optimise(target, density, z, fixed)
    best = max(density for trace in traces.values() for _, density in trace)
    structural = len(crystal.position_basis) + len(crystal.adp_basis)
    found = {"structural": structural, "parameters": layout.size, "measurements": len(datasets[0].experiment.intensity)}
    for name, trace in traces.items():
        reached = [seconds for seconds, density in trace if density > best - NEAR]
        end = max(density for _, density in trace)
        found[name] = {"seconds": reached[0] if reached else None, "end": end - best, "steps": len(trace)}
    return found


def marquardt(target, density, z, fixed):
    """Damped Fisher scoring with the full Gauss-Newton matrix."""
    jax.block_until_ready(density.functions.matrix(z, fixed, density.forward)[0])
    began, trace, damping = time.monotonic(), [], 1e-3
    while time.monotonic() - began < SECONDS:
        potential, gradient, matrix, _ = density.functions.matrix(z, fixed, density.forward)
        trace.append((time.monotonic() - began, -float(potential)))
        while True:
            move, _ = damped_step(matrix, gradient, damping)
            trial = density.value(z + move, fixed)
            if np.isfinite(trial) and trial < float(potential):
                z, damping = z + move, damping / 5
                break
            damping *= 5
            if damping > 1e8:
                return trace
        if float(potential) - trial < 0.01:
            trace.append((time.monotonic() - began, -trial))
            return trace
    return trace


def lbfgs(target, density, z, fixed):
    """L-BFGS in the metric of the diagonal that `fit_map` uses for many parameters."""
    jax.block_until_ready(density.functions.diagonal(z, fixed, density.reverse)[0])
    began, trace = time.monotonic(), []
    diagonal = np.asarray(density.functions.diagonal(z, fixed, density.reverse)[2])
    forth, back = whitening(diagonal)
    origin = np.asarray(z)

    def value(y):
        potential, gradient = density.gradient(jnp.asarray(origin + forth(y)), fixed)
        trace.append((time.monotonic() - began, -float(potential)))
        if trace[-1][0] > SECONDS:
            raise StopIteration
        return (float(potential), back(np.asarray(gradient))) if np.isfinite(float(potential)) else (1e30, 0 * y)

    try:
        options = {"maxiter": 2000, "maxcor": 40, "ftol": 1e-10, "gtol": 1e-3}
        minimize(value, np.zeros(len(origin)), jac=True, method="L-BFGS-B", options=options)
    except StopIteration:
        pass
    return trace


def adam(target, density, z, fixed, rate=0.02):
    """Adam in coordinates scaled by the same diagonal, the rate falling to a tenth."""
    began, trace = time.monotonic(), []
    width = 1 / np.sqrt(np.asarray(density.functions.diagonal(z, fixed, density.reverse)[2]))
    width = jnp.asarray(width / np.median(width))
    steps = 1500
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps, 0.1))
    y, state = jnp.zeros_like(z), optimiser.init(jnp.zeros_like(z))
    for _ in range(steps):
        potential, gradient = density.gradient(z + width * y, fixed)
        trace.append((time.monotonic() - began, -float(potential)))
        if trace[-1][0] > SECONDS:
            break
        update, state = optimiser.update(width * gradient, state)
        y = y + update
    return trace


def minibatches(target, density, z, fixed, rate=0.02, batches=4):
    """Adam with the gradient of a quarter of the frames, its likelihood counted four times; tried on all of them."""
    (crystal, (whole,)), kwargs = density.reverse
    parts = []
    for first in range(batches):
        wanted = np.arange(whole.plan.frames) % batches == first
        used = wanted[np.asarray(whole.experiment.frame_index)]
        args = (crystal, (dataclasses.replace(whole, plan=only_frames(whole.plan, wanted)),))
        parts.append((args, {**kwargs, "mask": (jnp.asarray(used),)}))
    layout = density.functions.layout
    slope = jax.jit(jax.grad(lambda z, spreads, data: target.negative_log_density(layout.split(z), spreads, data)))
    width = 1 / np.sqrt(np.asarray(density.functions.diagonal(z, fixed, density.reverse)[2]))
    width = jnp.asarray(width / np.median(width))
    for part in parts:
        jax.block_until_ready(slope(z, fixed.spreads, part))
    prior_slope = density.functions.frames.prior
    jax.block_until_ready(prior_slope(z, fixed.spreads, density.forward))
    began, lost, trace, steps = time.monotonic(), 0.0, [], 6000
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps, 0.1))
    y, state = jnp.zeros_like(z), optimiser.init(jnp.zeros_like(z))
    for step in range(steps):
        here = z + width * y
        if step % 20 == 0:  # looking costs time that is not the optimiser's
            looked = time.monotonic()
            log_density = -density.value(here, fixed)
            lost += time.monotonic() - looked
            trace.append((time.monotonic() - began - lost, log_density))
            if trace[-1][0] > SECONDS:
                break
        gradient = batches * slope(here, fixed.spreads, parts[step % batches])
        gradient = gradient + (batches - 1) * prior_slope(here, fixed.spreads, density.forward)[0]
        update, state = optimiser.update(width * gradient, state)
        y = y + update
    return trace


def _apart(generator, sites: int, lengths) -> np.ndarray:
    """Random positions at least 1.3 Å apart, cell borders included."""
    chosen: list[np.ndarray] = []
    while len(chosen) < sites:
        trial = generator.uniform(size=3)
        gaps = [(trial - other + 0.5) % 1 - 0.5 for other in chosen]
        if all(np.linalg.norm(gap * lengths) > 1.3 for gap in gaps):
            chosen.append(trial)
    return np.array(chosen)


if __name__ == "__main__":
    main()
