"""What does the linear algebra of a scoring step cost for many crystals, beside their simulation?

Run by hand: python examples/studies/many_crystals.py OUT [--crystals 20] [--dense 4]. Every crystal is a copy of real
quartz (99 frames), with frame parameters and curves of its own as in `robust`. A smooth function stands in for the
simulator, so that all of a scoring step but the simulation is timed. Beside it: dense eigenvalues, which a step took
before, for a few of the crystals, and gradient and matrix of one crystal with the simulator, which grow linearly with
the crystals. OUT/many_crystals.json holds seconds, and the peak memory of the process in GiB so far.
"""

import argparse
import json
import resource
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pendel
from pendel.infer.maximum.objective import Fixed, differentiable, objective
from pendel.infer.maximum.optimise import damped_step, whitening
from pendel.infer.target import make_target, prior_means
from pendel.model import (
    Spread,
    data_sets,
    observe,
    sample_errors,
    sample_frames,
    sample_structure,
    simulate,
    student_t,
)

QUARTZ = Path(__file__).resolve().parents[3] / "shared" / "data" / "quartz"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--crystals", type=int, default=20)
    parser.add_argument("--dense", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    crystal = pendel.read_crystal(QUARTZ / "quartz_dynamical.cif")
    experiment = pendel.select(pendel.read_pets(QUARTZ / "quartz.cif_pets"), "klar", rsg=0.9, dsg=0.0015)
    plan = pendel.make_plan(crystal, experiment, g_max=2.0, sg_max=0.01, tilts=42, thickness_max=3000.0)

    def record(name, count, simulator=None, dense=False):
        table[name] = timed(crystal, [experiment] * count, [plan] * count, simulator, dense)
        print(name, json.dumps(table[name], indent=1), flush=True)
        (options.out / "many_crystals.json").write_text(json.dumps(table, indent=1))

    table: dict = {}
    record("one crystal, simulated", 1)
    record("one crystal", 1, stand_in, dense=True)
    record(f"{options.crystals} crystals", options.crystals, stand_in)
    record(f"{options.dense} crystals, dense", options.dense, stand_in, dense=True)


def model(crystal, datasets, *, intensities, simulator=None):
    """As `robust`; with a function in the place of the simulator."""
    structure = sample_structure(crystal, displacement=0.05, log_strain=1.0)
    errors = sample_errors(a=1.0, b=0.1, nu=3.0)
    for data in datasets:
        spreads = {"scale_spread": Spread(0.3, in_map=0.1), "tilt_spread": Spread(0.1, in_map=0.12)}
        scale, illumination = sample_frames(data, "taper", log_scale=2.0, **spreads)
        function = () if simulator is None else (partial(simulator, data.experiment),)
        calculated = scale[data.experiment.frame_index] * simulate(structure, data, illumination, *function)
        scatter = student_t(calculated, data.experiment.sigma, **errors)
        observe(data, calculated, scatter, intensities=intensities, mask=None)


def stand_in(experiment, structure, plan, illumination):
    """Kinematic in the coordinates, any smooth function of the rest."""
    frame = experiment.frame_index
    phase = 2 * jnp.pi * experiment.hkl @ structure.fract.T
    spread = jnp.einsum("ma,sab,mb->ms", experiment.hkl, structure.u_aniso, experiment.hkl)
    amplitude = jnp.sum(jnp.exp(-spread + 1j * phase), axis=1)
    tilt = 1 + 0.1 * jnp.sum(illumination.tilt[frame] * jnp.cos(experiment.hkl[:, :2]), axis=1)
    size = jnp.sum(illumination.weights * illumination.thickness, axis=1)[frame]
    return 1e-5 * (0.1 + jnp.abs(amplitude) ** 2) * tilt * size


def timed(crystal, experiments, plans, simulator, dense) -> dict:
    """Seconds of every part of a step, and the peak memory of the process."""
    sets, intensities = data_sets(experiments, plans), tuple(one.intensity for one in experiments)
    target = make_target(partial(model, simulator=simulator), crystal, sets, intensities=intensities)
    target = differentiable(target, "forward")
    functions, reverse = objective(target), differentiable(target, "reverse").data
    z = target.layout.unconstrain(prior_means(target, target.spreads))
    fixed = Fixed(dict(target.spreads), jnp.zeros(len(z)))
    _, gradient, matrix, _ = functions.matrix(z, fixed, target.data)
    forth, back = whitening(matrix)
    found = {
        "parameters": len(z),
        "globals": target.layout.globals,
        "gradient": seconds(lambda: functions.gradient(z, fixed, reverse)),
        "matrix, with error correction": seconds(lambda: functions.matrix(z, fixed, target.data)),
        "damped step": seconds(lambda: damped_step(matrix, gradient, 1e-3)),
        "root": seconds(matrix.root),
        "whitening, there and back": seconds(lambda: back(forth(np.asarray(z)))),
        "matrix in GiB": sum(part.nbytes for part in jax.tree.leaves(matrix)) / 2**30,
    }
    if dense:
        whole, slope = np.asarray(matrix.dense()), np.asarray(gradient)
        width = 1 / np.sqrt(np.diag(whole))
        scaled = whole * width[:, None] * width
        found["eigenvalues of the dense matrix"] = seconds(lambda: np.linalg.eigh(scaled))
        step = -np.linalg.solve(scaled + 1e-3 * np.eye(len(z)), slope * width)
        away = np.asarray(damped_step(matrix, gradient, 1e-3)[0]) / width - step
        found["damped step, relative difference"] = float(np.linalg.norm(away) / np.linalg.norm(step))
    return {**found, "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def seconds(run) -> float:
    """Of a second run, which compiles nothing."""
    jax.block_until_ready(run())
    began = time.monotonic()
    jax.block_until_ready(run())
    return round(time.monotonic() - began, 4)


if __name__ == "__main__":
    main()
