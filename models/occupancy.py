r"""`robust` with free occupancies: of the sites whose occupancy in the start structure is below 1.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    logit_occupancy ~ Normal(logit(start), 1.5) of every site that starts below 1; the others stay as they are
    tilt_f       ~ Normal(0, tilt_spread)       small rotation about x and y of the laboratory
    log_scale_f  ~ Normal(log_scale_mean, scale_spread)
    log_thickness ~ GP(log_thickness_mean, thickness_spread, 20 deg) + Normal(0, thickness_jump)   along the angle
    log_taper     ~ GP(log_taper_mean, taper_spread, 20 deg) + Normal(0, taper_jump)
    I_m = scale_f * mean over tilts, sum over nodes t_q of  w_q |psi_r(t_q)|^2
    I_obs,m ~ StudentT(nu, I_m, sqrt((a sigma_m)^2 + (b I_m)^2))
    log_scale_mean ~ Normal(log of the strongest I_obs, 2), scale_spread ~ HalfNormal(0.3)
    tilt_spread_x, tilt_spread_y ~ HalfNormal(0.1 deg)
    log_thickness_mean ~ Normal(log 800 Å, 0.8), thickness_spread ~ HalfNormal(0.3), thickness_jump ~ HalfNormal(0.2)
    log_taper_mean ~ Normal(log 0.4, 0.8), taper_spread ~ HalfNormal(0.5), taper_jump ~ HalfNormal(0.3)
    a ~ LogNormal(0, 0.5), b ~ LogNormal(log 0.1, 0.5), nu ~ 2 + LogNormal(log 3, 0.5)

The thickness of a frame is T x^k, x uniform in (0, 1): a density that ends at T = exp(log_thickness), with the taper
k = exp(log_taper) from a slab (0) over a rod (about 0.3) to a wedge that runs out (1). The jumps are there because the
beam does not light the same part of the crystal in every frame. `--thickness` names other densities:
`pendel.model.thickness_prior`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import AffineTransform

from pendel.base import InputError
from pendel.crystal.parameters import with_parameters
from pendel.model.errors import student_t
from pendel.model.simulation import simulated
from pendel.model.thickness_prior import sample_thickness
from pendel.simulate import simulate_intensities


def model(crystal, datasets, *, intensities=None, mask=None, thickness="taper"):
    """See the module's story. `datasets`: (experiment, plan) pairs; `intensities=None` gives the prior predictive."""
    # Structure. 0.05 Å covers the error of a kinematical start; U is known within a factor of about e.
    positions, adps = len(crystal.position_basis), len(crystal.adp_basis)
    displacement = numpyro.sample("displacement", dist.Normal(0, 0.05).expand([positions]).to_event(1))  # Å
    log_strain = numpyro.sample("log_strain", dist.Normal(0, 1).expand([adps]).to_event(1))

    # Occupancies between 0 and 1, wide around the start. One site at least must stay fixed: the scale moves them all.
    free, sites = np.array(crystal.partly_occupied, dtype=int), len(crystal.labels)
    if not 0 < len(free) < sites:
        raise InputError(
            found=f"{len(free)} of {sites} sites with an occupancy below 1",
            expected="at least one to refine and at least one to stay fixed",
            do="write a start value such as 0.9 for the occupancies to refine into the CIF, and 1 for the others",
        )
    start = jnp.asarray(crystal.occupancy)
    guess = dist.Normal(jnp.log(start[free] / (1 - start[free])), 1.5).to_event(1)
    logit = numpyro.sample("logit_occupancy", guess)
    occupancy = numpyro.deterministic("occupancy", start.at[free].set(jax.nn.sigmoid(logit)))

    structure = with_parameters(crystal, displacement=displacement, log_strain=log_strain, occupancy=occupancy)
    numpyro.deterministic("fract", structure.fract)
    numpyro.deterministic("U_aniso", structure.u_aniso)

    # Errors. Reported sigmas are counting statistics (a near 1); models of 3D-ED miss strong reflections by 8-18 %.
    a = numpyro.sample("a", dist.LogNormal(0.0, 0.5))
    b = numpyro.sample("b", dist.LogNormal(jnp.log(0.1), 0.5))
    # Above 2, or the best fit to few data is one that meets some of them exactly and calls the others outliers.
    excess = dist.LogNormal(jnp.log(3.0), 0.5)
    nu = numpyro.sample("nu", dist.TransformedDistribution(excess, AffineTransform(2.0, 1.0, domain=excess.support)))

    for number, (experiment, plan) in enumerate(datasets):
        suffix = f"_{number + 1}" if number else ""
        frames = f"frames{suffix}"
        alpha = jnp.asarray(experiment.alpha)

        # Scale: I_calc is a fraction of the incident beam, the strongest measured reflection a good part of it.
        strongest = jnp.log(jnp.max(experiment.intensity))
        scale_mean = numpyro.sample(f"log_scale_mean{suffix}", dist.Normal(strongest, 2))
        scale_spread = numpyro.sample(f"scale_spread{suffix}", dist.HalfNormal(0.3), infer={"fixed_in_map": 0.1})
        # Tilt: recorded angles jump by 0.1-0.2 degrees between neighbouring frames.
        tilt_spread = numpyro.sample(
            f"tilt_spread{suffix}", dist.HalfNormal(0.1).expand([2]).to_event(1), infer={"fixed_in_map": 0.12}
        )
        with numpyro.plate(frames, plan.frames):
            log_scale = numpyro.sample(f"log_scale{suffix}", dist.Normal(scale_mean, scale_spread))
            tilt = numpyro.sample(f"tilt{suffix}", dist.Normal(0, tilt_spread).to_event(1))  # deg

        nodes, weights = sample_thickness(thickness, alpha, frames, suffix)  # Å, a curve along the angle
        calculated = simulated(
            f"simulated{suffix}", simulate_intensities, structure, plan, tilt=tilt, thickness=nodes, weights=weights
        )
        scale = numpyro.deterministic(f"scale{suffix}", jnp.exp(log_scale))
        calculated = numpyro.deterministic(f"calculated{suffix}", scale[experiment.frame_index] * calculated)
        with numpyro.handlers.mask(mask=True if mask is None else mask[number]):
            numpyro.sample(
                f"intensity{suffix}",
                student_t(calculated, experiment.sigma, a=a, b=b, nu=nu),
                obs=None if intensities is None else intensities[number],
                infer={"plate": frames, "frame": experiment.frame_index},
            )
