"""Write a statistical model, fit it, and look at its posterior with ArviZ.

    python examples/own_model.py

Two things differ from the shipped models. The thickness is that of a slab, the same in every frame but for a jump. The
model error depends on resolution: b = b_0 exp(c g²), so that the data say whether reflections far out are simulated
worse (form factors and displacements suffer first) or not. A model is one function, so this file can also be given
to the command line: `pendel refine structure.cif data.cif_pets --model examples/own_model.py --out run`.
docs/write_a_model.md says what inference needs to know. `--quick` takes three frames with few beams.
"""

# %%
import argparse
import tempfile
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import pendel
from pendel.datasets import example
from pendel.experiment.frames import central_vectors
from pendel.model import Spread, gaussian, observe, sample_frames, sample_structure, simulate
from pendel.simulate.thickness import single

QUICK = {"every": 10, "g_max": 1.5, "sg_max": 0.004, "tilts": 5}
FULL = {"every": 2, "g_max": 1.6, "sg_max": 0.01, "tilts": 31}


# %%
def model(crystal, datasets, *, intensities=None, mask=None):
    """Atoms, one slab, scales and tilts of frames, and a model error that grows or shrinks with resolution."""
    structure = sample_structure(crystal, displacement=0.1, log_strain=1.0)  # Å: a poorer start than usual

    # The error model: 10 % at low resolution, give or take a factor; c = 1 means e times that at 1 Å⁻¹.
    b_0 = numpyro.sample("b_0", dist.LogNormal(jnp.log(0.1), 0.5))
    c = numpyro.sample("c", dist.Normal(0, 1))

    (data,) = datasets
    scale, illumination = sample_frames(
        data, slab, log_scale=2.0, scale_spread=Spread(0.3, in_map=0.1), tilt_spread=Spread(0.1, in_map=0.1)
    )
    measured = data.experiment
    calculated = scale[measured.frame_index] * simulate(structure, data, illumination)
    g_squared = jnp.sum((jnp.asarray(measured.hkl) @ jnp.asarray(measured.orientation).T) ** 2, axis=1)  # Å⁻²
    errors = gaussian(calculated, measured.sigma, b=b_0 * jnp.exp(c * g_squared))
    observe(data, calculated, errors, intensities=intensities, mask=mask)


def slab(data):
    """One thickness for all frames but for a jump: nodes [Å] and weights."""
    mean = numpyro.sample("log_thickness_mean", dist.Normal(jnp.log(800.0), 0.8))
    jump = Spread(0.2, in_map=0.1).sample("thickness_jump")
    with numpyro.plate(data.frames, data.plan.frames):
        log_thickness = numpyro.sample("log_thickness", dist.Normal(mean, jump))
    nodes, weights = single(log_thickness)
    numpyro.deterministic("thickness", nodes[:, 0])
    return nodes, weights


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of posterior.nc; a temporary one if not given")
    parser.add_argument("--quick", action="store_true", help="three frames, to see that it runs")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="own-model-"))
    out.mkdir(parents=True, exist_ok=True)
    beams = dict(QUICK if arguments.quick else FULL)

    # Files to objects.
    crystal = pendel.read_crystal(example().structure)
    measured = pendel.select(pendel.read_pets(example().data), "nearest")
    experiment = pendel.thin(measured, slice(None, None, beams.pop("every")))
    datasets = (pendel.DataSet(experiment, pendel.make_plan(crystal, experiment, thickness_max=1500.0, **beams)),)
    reach = np.linalg.norm(central_vectors(experiment), axis=1).max()
    print(f"{len(experiment.hkl)} measurements on {len(experiment.frame_id)} frames, up to {reach:.2f} Å⁻¹")

    # Start values, the maximum, draws of the Laplace approximation.
    start = dict(pendel.find_start(crystal, datasets).values[0])
    target = pendel.make_target(model, crystal, datasets, intensities=(experiment.intensity,))
    fit = pendel.fit_map(target, start=start)
    print(fit.message)
    draws = pendel.laplace_draws(fit, jax.random.key(0), 1000)

    # To ArviZ, and to a file that it opens again.
    tree = az.from_dict({"posterior": {name: np.asarray(values)[None] for name, values in draws.items()}})
    pendel.Posterior(tree).save(out / "posterior.nc")
    names = ["displacement", "b_0", "c", "log_thickness_mean", "log_thickness"]
    print(az.summary(pendel.Posterior.load(out / "posterior.nc").data, var_names=names, kind="stats"))
    print(f"model error grows with resolution with probability {np.mean(np.asarray(draws['c']) > 0):.2f}")


if __name__ == "__main__":
    main()
