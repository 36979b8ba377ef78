r"""Single scattering: the theory that most structures are refined with, for comparison.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    tilt_f       ~ Normal(0, tilt_spread)       small rotation about x and y of the laboratory
    log_scale_f  ~ Normal(log_scale_mean, scale_spread)
    log_thickness ~ a curve along the goniometer angle, see `pendel.model.thickness_prior`
    I_m = scale_f * mean over tilts, sum over nodes t_q of  w_q |A_r0|^2 t_q^2 sinc^2(D_r t_q / 2)
    I_obs,m ~ StudentT(nu, I_m, sqrt((a sigma_m)^2 + (b I_m)^2))
    log_scale_mean ~ Normal(log of the strongest I_obs, 4), scale_spread ~ HalfNormal(0.5)
    tilt_spread_x, tilt_spread_y ~ HalfNormal(0.1 deg)
    log_thickness_mean ~ Normal(log 800 Å, 0.8), thickness_spread ~ HalfNormal(0.3), thickness_jump ~ HalfNormal(0.2)
    a ~ LogNormal(0, 0.5), b ~ LogNormal(log 0.4, 0.5), nu ~ 2 + LogNormal(log 3, 0.5)

Thickness acts through the width of the rocking curves only: the thicker, the narrower. Electrons scatter more than once
in all but the thinnest crystals, so b comes out near one half and the coordinates are off by several of their
standard uncertainties; compare with `robust` before believing either.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import AffineTransform

from pendel.crystal.parameters import with_parameters
from pendel.model.errors import student_t
from pendel.model.simulation import simulated
from pendel.model.thickness_prior import sample_thickness
from pendel.simulate import kinematic_intensities

DIFFRACTION_THEORY = "kinematical"  # for the CIF


def model(crystal, datasets, *, intensities=None, mask=None, thickness="lens"):
    """See the module's story. `datasets`: (experiment, plan) pairs; `intensities=None` gives the prior predictive."""
    positions, adps = len(crystal.position_basis), len(crystal.adp_basis)
    displacement = numpyro.sample("displacement", dist.Normal(0, 0.05).expand([positions]).to_event(1))  # Å
    log_strain = numpyro.sample("log_strain", dist.Normal(0, 1).expand([adps]).to_event(1))
    structure = with_parameters(crystal, displacement=displacement, log_strain=log_strain)
    numpyro.deterministic("fract", structure.fract)
    numpyro.deterministic("U_aniso", structure.u_aniso)

    # Errors of kinematical fits are 30-70 % of I.
    a = numpyro.sample("a", dist.LogNormal(0.0, 0.5))
    b = numpyro.sample("b", dist.LogNormal(jnp.log(0.4), 0.5))
    excess = dist.LogNormal(jnp.log(3.0), 0.5)
    nu = numpyro.sample("nu", dist.TransformedDistribution(excess, AffineTransform(2.0, 1.0, domain=excess.support)))

    for number, (experiment, plan) in enumerate(datasets):
        suffix = f"_{number + 1}" if number else ""
        frames = f"frames{suffix}"

        # A thin crystal scatters t^2 |A|^2 of the beam, which may exceed 1 here, so the scale is known less well.
        strongest = jnp.log(jnp.max(experiment.intensity))
        scale_mean = numpyro.sample(f"log_scale_mean{suffix}", dist.Normal(strongest, 4))
        scale_spread = numpyro.sample(f"scale_spread{suffix}", dist.HalfNormal(0.5), infer={"fixed_in_map": 0.2})
        tilt_spread = numpyro.sample(
            f"tilt_spread{suffix}", dist.HalfNormal(0.1).expand([2]).to_event(1), infer={"fixed_in_map": 0.12}
        )
        with numpyro.plate(frames, plan.frames):
            log_scale = numpyro.sample(f"log_scale{suffix}", dist.Normal(scale_mean, scale_spread))
            tilt = numpyro.sample(f"tilt{suffix}", dist.Normal(0, tilt_spread).to_event(1))  # deg

        nodes, weights = sample_thickness(thickness, jnp.asarray(experiment.alpha), frames, suffix)  # Å
        calculated = simulated(
            f"simulated{suffix}", kinematic_intensities, structure, plan, tilt=tilt, thickness=nodes, weights=weights
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
