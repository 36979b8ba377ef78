"""What does the linear algebra of a scoring step cost for many crystals, beside their simulation?

Run by hand: python examples/studies/many_crystals.py OUT [--crystals 20] [--frames 100] [--dense 4] [--quick]. The
model has the globals, curves and frame parameters of `robust` with 24 structural parameters, and a polynomial for the
simulator, so that what is timed is all of a scoring step but the simulation. Beside it stand dense algebra for a few of
the crystals, and one Gauss-Newton matrix of `robust` with its real simulator on some frames of the embedded example,
which grows with the number of frames. OUT/many_crystals.json holds seconds, and the peak memory in GiB.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import pendel
from pendel.base import suffix
from pendel.datasets import example
from pendel.infer.maximum.curvature import part_sizes
from pendel.infer.maximum.normal_matrix import normal_matrix
from pendel.infer.maximum.objective import Fixed, differentiable, objective
from pendel.infer.maximum.optimise import damped_step, whitening
from pendel.infer.target import make_target, prior_means
from pendel.model.errors import student_t
from pendel.model.simulation import simulated
from pendel.model.thickness_prior import sample_thickness

STRUCTURAL, PER_FRAME = 24, 150


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--crystals", type=int, default=20)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--dense", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    crystals, frames, few = (2, 6, 1) if options.quick else (options.crystals, options.frames, options.dense)
    table = {"crystals": crystals, "frames": frames, **algebra(crystals, frames)}
    table["dense"] = {"crystals": few, **dense(few, frames)}
    if not options.quick:
        seconds, simulated_frames = real_matrix()
        table["real simulator"] = {"frames": simulated_frames, "seconds": seconds}
        table["real simulator, all"] = seconds * crystals * frames / simulated_frames
    (options.out / "many_crystals.json").write_text(json.dumps(table, indent=1))
    print(json.dumps(table, indent=1))


def model(frames, *, intensities):
    """As `robust`, for one data set after the other; frame f of each has PER_FRAME observations."""
    structure = numpyro.sample("structure", dist.Normal(0, 0.05).expand([STRUCTURAL]).to_event(1))
    errors = {name: numpyro.sample(name, dist.LogNormal(mean, 0.5)) for name, mean in (("a", 0.0), ("b", -2.3))}
    nu = 2 + numpyro.sample("nu", dist.LogNormal(1.1, 0.5))
    owner = np.repeat(np.arange(frames), PER_FRAME)
    x = np.linspace(-1, 1, len(owner))[:, None] ** np.arange(STRUCTURAL)
    for number, intensity in enumerate(intensities):
        plate, end = f"frames{suffix(number)}", suffix(number)
        mean = numpyro.sample(f"log_scale_mean{end}", dist.Normal(0, 2))
        with numpyro.plate(plate, frames):
            scale = numpyro.sample(f"log_scale{end}", dist.Normal(mean, 0.1))
            tilt = numpyro.sample(f"tilt{end}", dist.Normal(0, 0.12 * jnp.ones(2)).to_event(1))
        nodes, weights = sample_thickness("taper", jnp.linspace(-50, 50, frames), plate, end)

        def polynomial(structure, tilt, nodes, weights):
            shape = jnp.exp(x @ structure) + tilt[owner, 0] * x[:, 1] + tilt[owner, 1] * x[:, 2]
            return shape * jnp.sum(weights * nodes, axis=1)[owner] / 400

        found = simulated(f"simulated{end}", polynomial, structure, tilt, nodes, weights)
        numpyro.sample(
            f"intensity{end}",
            student_t(jnp.exp(scale)[owner] * found, 0.1 * jnp.ones(len(owner)), **errors, nu=nu),
            obs=intensity,
            infer={"plate": plate, "frame": owner},
        )


def scoring(crystals: int, frames: int):
    """Target, z, sizes and the compiled matrix of so many crystals."""
    rng = np.random.default_rng(0)
    data = tuple(1 + 0.1 * rng.standard_normal(frames * PER_FRAME) for _ in range(crystals))
    target = make_target(model, frames, intensities=data)
    z = target.layout.unconstrain(prior_means(target, target.spreads))
    sizes = part_sizes(target)
    spreads = dict(target.spreads)
    return z, jax.jit(lambda z, data: normal_matrix(target, z, spreads, data, sizes)), target.data


def algebra(crystals: int, frames: int) -> dict:
    """Seconds of every part of a step, and the peak memory of the process."""
    z, matrix, data = scoring(crystals, frames)
    before = peak()
    found: dict = {"parameters": len(z), "matrix, with error correction": seconds(lambda: matrix(z, data))}
    _, gradient, arrow, _ = matrix(z, data)
    found["damped step"] = seconds(lambda: damped_step(arrow, gradient, 1e-3))
    found["root"] = seconds(lambda: arrow.root())
    forth, back = whitening(arrow)
    found["whitening, there and back"] = seconds(lambda: back(forth(np.asarray(z))))
    draws = jax.random.normal(jax.random.key(0), (100, len(z)))
    root, draw = arrow.root(), jax.jit(jax.vmap(lambda root, y: root.forth(y), (None, 0)))
    found["100 draws"] = seconds(lambda: draw(root, draws))
    return {**found, "GiB before": before, "GiB": peak()}


def dense(crystals: int, frames: int) -> dict:
    """Seconds of a damped step and a root by the eigenvalues of a dense matrix."""
    z, matrix, data = scoring(crystals, frames)
    whole = np.asarray(matrix(z, data)[2].dense())
    return {"parameters": len(z), "eigenvalues": seconds(lambda: np.linalg.eigh(whole)), "GiB": peak()}


def real_matrix() -> tuple[float, int]:
    """Seconds of the Gauss-Newton matrix of some frames of the embedded example, and their number."""
    crystal = pendel.read_crystal(example().structure)
    experiment = pendel.thin(pendel.select(pendel.read_pets(example().data)), slice(None, None, 8))
    plan = pendel.make_plan(crystal, experiment, thickness_max=1500.0)
    arguments = (crystal, ((experiment, plan),))
    target = make_target(pendel.load_model("robust"), *arguments, intensities=(experiment.intensity,))
    target = differentiable(target, "forward")
    z = target.layout.unconstrain(prior_means(target, target.spreads))
    fixed = Fixed(dict(target.spreads), jnp.zeros(len(z)))
    functions = objective(target)
    return seconds(lambda: functions.matrix(z, fixed, target.data)), len(experiment.frame_id)


def seconds(run) -> float:
    """Of a second run, which compiles nothing."""
    jax.block_until_ready(run())
    began = time.monotonic()
    jax.block_until_ready(run())
    return time.monotonic() - began


def peak() -> float:
    """Peak memory of this process so far [GiB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
