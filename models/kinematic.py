r"""Single scattering: the theory that most structures are refined with, for comparison.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    hydrogen and restraints of the start structure: see `pendel.model.sample_structure`
    tilt_f       ~ Normal(0, tilt_spread)       small rotation about x and y of the laboratory
    log_scale_f  ~ Normal(log_scale_mean, scale_spread)
    log_thickness ~ a curve along the goniometer angle, see `pendel.model.thickness_prior`
    I_m = scale_f * mean over tilts, sum over nodes t_q of  w_q |A_r0|^2 t_q^2 sinc^2(D_r t_q / 2)
    I_obs,m ~ StudentT(nu, I_m + background sigma_m, sqrt((a sigma_m)^2 + (b I_m)^2))
    log_scale_mean ~ Normal(log of the strongest I_obs, 4), scale_spread ~ HalfNormal(0.5)
    tilt_spread_x, tilt_spread_y ~ HalfNormal(0.1 deg)
    log_thickness_mean ~ Normal(log 800 Å, 0.8), thickness_spread ~ HalfNormal(0.3), thickness_jump ~ HalfNormal(0.2)
    background ~ Normal(0, 1)                   in units of the reported sigma
    a ~ LogNormal(0, 0.5), b ~ LogNormal(log 0.4, 0.5), nu ~ 2 + LogNormal(log 3, 0.5)

Thickness acts through the width of the rocking curves only: the thicker, the narrower. Electrons scatter more than once
in all but the thinnest crystals, so b comes out near one half and the coordinates are off by several of their
standard uncertainties; compare with `robust` before believing either.
"""

from pendel.model import (
    Spread,
    observe,
    sample_background,
    sample_errors,
    sample_frames,
    sample_structure,
    simulate,
    student_t,
)
from pendel.simulate import kinematic_intensities

DIFFRACTION_THEORY = "kinematical"  # for the CIF


def model(crystal, datasets, *, intensities=None, mask=None, thickness="lens"):
    """See the module's story. `datasets`: one `DataSet` for each crystal; `intensities=None`: prior predictive."""
    structure = sample_structure(crystal, displacement=0.05, log_strain=1.0)
    error = sample_errors(a=1.0, b=0.4, nu=3.0)  # errors of kinematical fits are 30-70 % of I

    for data in datasets:
        # A thin crystal scatters t^2 |A|^2 of the beam, which may exceed 1 here, so the scale is known less well.
        scale, illumination = sample_frames(
            data,
            thickness,
            log_scale=4.0,
            scale_spread=Spread(0.5, in_map=0.2),
            tilt_spread=Spread(0.1, in_map=0.12),  # deg
        )
        intensity = simulate(structure, data, illumination, kinematic_intensities)
        calculated = scale[data.experiment.frame_index] * intensity
        # Background: weak reflections are too strong by a part of sigma where too little was subtracted from them.
        background = sample_background(data)
        scatter = student_t(calculated, data.experiment.sigma, **error, background=background)
        observe(data, calculated, scatter, background=background, intensities=intensities, mask=mask)
