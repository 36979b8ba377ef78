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
from pendel.crystal.parameters import with_parameters
from pendel.datasets import example
from pendel.experiment.frames import central_vectors
from pendel.model.errors import gaussian
from pendel.simulate.thickness import single

QUICK = {"every": 10, "g_max": 1.5, "sg_max": 0.004, "tilts": 5}
FULL = {"every": 2, "g_max": 1.6, "sg_max": 0.01, "tilts": 31}


# %%
def model(crystal, datasets, *, intensities=None, mask=None):
    """Atoms, one slab, scales and tilts of frames, and a model error that grows or shrinks with resolution."""
    moves = dist.Normal(0, 0.1).expand([len(crystal.position_basis)]).to_event(1)  # Å: a poorer start than usual
    strain = dist.Normal(0, 1).expand([len(crystal.adp_basis)]).to_event(1)
    structure = with_parameters(
        crystal, displacement=numpyro.sample("displacement", moves), log_strain=numpyro.sample("log_strain", strain)
    )
    numpyro.deterministic("fract", structure.fract)
    numpyro.deterministic("U_aniso", structure.u_aniso)

    # The error model: 10 % at low resolution, give or take a factor; c = 1 means e times that at 1 Å⁻¹.
    b_0 = numpyro.sample("b_0", dist.LogNormal(jnp.log(0.1), 0.5))
    c = numpyro.sample("c", dist.Normal(0, 1))

    ((experiment, plan),) = datasets
    strongest = jnp.log(jnp.max(experiment.intensity))
    scale_mean = numpyro.sample("log_scale_mean", dist.Normal(strongest, 2))
    scale_spread = numpyro.sample("scale_spread", dist.HalfNormal(0.3), infer={"fixed_in_map": 0.1})
    tilt_spread = numpyro.sample("tilt_spread", dist.HalfNormal(0.1), infer={"fixed_in_map": 0.1})
    slab = numpyro.sample("log_thickness_mean", dist.Normal(jnp.log(800.0), 0.8))
    jump = numpyro.sample("thickness_jump", dist.HalfNormal(0.2), infer={"fixed_in_map": 0.1})
    with numpyro.plate("frames", plan.frames):
        log_scale = numpyro.sample("log_scale", dist.Normal(scale_mean, scale_spread))
        tilt = numpyro.sample("tilt", dist.Normal(0, tilt_spread).expand([2]).to_event(1))  # deg
        log_thickness = numpyro.sample("log_thickness", dist.Normal(slab, jump))
    nodes, weights = single(log_thickness)
    numpyro.deterministic("thickness", nodes[:, 0])

    level = pendel.simulate_intensities(structure, plan, tilt=tilt, thickness=nodes, weights=weights)
    calculated = numpyro.deterministic("calculated", jnp.exp(log_scale)[experiment.frame_index] * level)
    g_squared = jnp.sum((jnp.asarray(experiment.hkl) @ jnp.asarray(experiment.orientation).T) ** 2, axis=1)  # Å⁻²
    with numpyro.handlers.mask(mask=True if mask is None else mask[0]):
        numpyro.sample(
            "intensity",
            gaussian(calculated, experiment.sigma, b=b_0 * jnp.exp(c * g_squared)),
            obs=None if intensities is None else intensities[0],
            infer={"plate": "frames", "frame": experiment.frame_index},
        )


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
    datasets = ((experiment, pendel.make_plan(crystal, experiment, thickness_max=1500.0, **beams)),)
    reach = np.linalg.norm(central_vectors(experiment), axis=1).max()
    print(f"{len(experiment.hkl)} measurements on {len(experiment.frame_id)} frames, up to {reach:.2f} Å⁻¹")

    # Start values, the maximum, draws of the Laplace approximation.
    start = dict(pendel.find_start(crystal, datasets).values[0])
    fit = pendel.fit_map(model, crystal, datasets, start=start, intensities=(experiment.intensity,))
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
