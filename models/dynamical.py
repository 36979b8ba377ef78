r"""Dynamical diffraction as least-squares programs do it: Gaussian errors, weighted as wR2 is.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    tilt_f       ~ Normal(0, tilt_spread)       small rotation about x and y of the laboratory
    log_scale_f  ~ Normal(log_scale_mean, scale_spread)
    log_thickness ~ GP(log_thickness_mean, thickness_spread, 20 deg) + Normal(0, thickness_jump)   along the angle
    log_taper     ~ GP(log_taper_mean, taper_spread, 20 deg) + Normal(0, taper_jump)
    I_m = scale_f * mean over tilts, sum over nodes t_q of  w_q |psi_r(t_q)|^2
    I_obs,m ~ Normal(I_m, e r_f / w_m),   w_m the weights of wR2, r_f^2 the mean of (w I_obs)^2 in the frame
    log_scale_mean ~ Normal(log of the strongest I_obs, 2), scale_spread ~ HalfNormal(0.3)
    tilt_spread_x, tilt_spread_y ~ HalfNormal(0.1 deg)
    log_thickness_mean ~ Normal(log 800 Å, 0.8), thickness_spread ~ HalfNormal(0.3), thickness_jump ~ HalfNormal(0.2)
    log_taper_mean ~ Normal(log 0.4, 0.8), taper_spread ~ HalfNormal(0.5), taper_jump ~ HalfNormal(0.3)
    e ~ LogNormal(log 0.05, 0.5)

T x^k, x uniform in (0, 1), is the density of thicknesses in a frame, T = exp(log_thickness), k = exp(log_taper);
`--thickness` names others (`pendel.model.thickness_prior`). This is the baseline: its misfit is the sum of wR2^2 over
the frames, and e, the wR2 of a typical frame, is the goodness of fit. Its R factors are the lowest, because R weighs
amplitudes in the same way; its standard uncertainties are not to be trusted where outliers carry them (compare with
`robust`).
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from pendel.crystal.parameters import with_parameters
from pendel.model.errors import weighted_least_squares
from pendel.model.simulation import simulated
from pendel.model.thickness_prior import sample_thickness
from pendel.simulate import simulate_intensities


def model(crystal, datasets, *, intensities=None, mask=None, thickness="taper"):
    """See the module's story. `datasets`: (experiment, plan) pairs; `intensities=None` gives the prior predictive."""
    positions, adps = len(crystal.position_basis), len(crystal.adp_basis)
    displacement = numpyro.sample("displacement", dist.Normal(0, 0.05).expand([positions]).to_event(1))  # Å
    log_strain = numpyro.sample("log_strain", dist.Normal(0, 1).expand([adps]).to_event(1))
    structure = with_parameters(crystal, displacement=displacement, log_strain=log_strain)
    numpyro.deterministic("fract", structure.fract)
    numpyro.deterministic("U_aniso", structure.u_aniso)

    error = numpyro.sample("error", dist.LogNormal(jnp.log(0.05), 0.5))  # published wR2 are 3-8 %

    for number, (experiment, plan) in enumerate(datasets):
        suffix = f"_{number + 1}" if number else ""
        frames = f"frames{suffix}"
        alpha = jnp.asarray(experiment.alpha)

        strongest = jnp.log(jnp.max(experiment.intensity))
        scale_mean = numpyro.sample(f"log_scale_mean{suffix}", dist.Normal(strongest, 2))
        scale_spread = numpyro.sample(f"scale_spread{suffix}", dist.HalfNormal(0.3), infer={"fixed_in_map": 0.1})
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
                weighted_least_squares(
                    calculated,
                    experiment.intensity,
                    experiment.sigma,
                    experiment.frame_index,
                    frames=plan.frames,
                    error=error,
                ),
                obs=None if intensities is None else intensities[number],
                infer={"plate": frames, "frame": experiment.frame_index},
            )
