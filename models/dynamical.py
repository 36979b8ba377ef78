r"""Dynamical diffraction as least-squares programs do it: Gaussian errors, weighted as wR2 is.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    hydrogen and restraints of the start structure: see `pendel.model.sample_structure`
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

from pendel.model import Spread, observe, sample_frames, sample_structure, simulate, weighted_least_squares


def model(crystal, datasets, *, intensities=None, mask=None, thickness="taper"):
    """See the module's story. `datasets`: one `DataSet` for each crystal; `intensities=None`: prior predictive."""
    structure = sample_structure(crystal, displacement=0.05, log_strain=1.0)
    error = numpyro.sample("error", dist.LogNormal(jnp.log(0.05), 0.5))  # published wR2 are 3-8 %

    for data in datasets:
        scale, illumination = sample_frames(
            data,
            thickness,
            log_scale=2.0,
            scale_spread=Spread(0.3, in_map=0.1),
            tilt_spread=Spread(0.1, in_map=0.12),  # deg
        )
        calculated = scale[data.experiment.frame_index] * simulate(structure, data, illumination)
        scatter = weighted_least_squares(calculated, data.experiment, error=error)
        observe(data, calculated, scatter, intensities=intensities, mask=mask)
