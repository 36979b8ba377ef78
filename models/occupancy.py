r"""`robust` with free occupancies: of the sites whose occupancy in the start structure is below 1.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    logit_occupancy ~ Normal(logit(start), 1.5) of every site that starts below 1, one for a group of disordered atoms
                                                and 1 - p for its alternative; the others stay as they are
    hydrogen and restraints of the start structure: see `pendel.model.sample_structure`
    tilt_f       ~ Normal(0, tilt_spread)       small rotation about x and y of the laboratory
    log_scale_f  ~ Normal(log_scale_mean, scale_spread)
    log_thickness ~ GP(log_thickness_mean, thickness_spread, 20 deg) + Normal(0, thickness_jump)   along the angle
    log_taper     ~ GP(log_taper_mean, taper_spread, 20 deg) + Normal(0, taper_jump)
    I_m = scale_f * mean over tilts, sum over nodes t_q of  w_q |psi_r(t_q)|^2
    I_obs,m ~ StudentT(nu, I_m + background sigma_m, sqrt((a sigma_m)^2 + (b I_m)^2))
    log_scale_mean ~ Normal(log of the strongest I_obs, 2), scale_spread ~ HalfNormal(0.3)
    tilt_spread_x, tilt_spread_y ~ HalfNormal(0.1 deg)
    log_thickness_mean ~ Normal(log 800 Å, 0.8), thickness_spread ~ HalfNormal(0.3), thickness_jump ~ HalfNormal(0.2)
    log_taper_mean ~ Normal(log 0.4, 0.8), taper_spread ~ HalfNormal(0.5), taper_jump ~ HalfNormal(0.3)
    background ~ Normal(0, 1)                   in units of the reported sigma
    a ~ LogNormal(0, 0.5), b ~ LogNormal(log 0.1, 0.5), nu ~ 2 + LogNormal(log 3, 0.5)

The thickness of a frame is T x^k, x uniform in (0, 1): a density that ends at T = exp(log_thickness), with the taper
k = exp(log_taper) from a slab (0) over a rod (about 0.3) to a wedge that runs out (1). The jumps are there because the
beam does not light the same part of the crystal in every frame. `--thickness` names other densities:
`pendel.model.thickness_prior`.
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


def model(crystal, datasets, *, intensities=None, mask=None, thickness="taper"):
    """See the module's story. `datasets`: one `DataSet` for each crystal; `intensities=None`: prior predictive."""
    # Structure. 0.05 Å covers the error of a kinematical start; U is known within a factor of about e; occupancies
    # are wide around the start.
    structure = sample_structure(crystal, displacement=0.05, log_strain=1.0, logit_occupancy=1.5)

    # Errors. Reported sigmas are counting statistics (a near 1); models of 3D-ED miss strong reflections by 8-18 % (b).
    error = sample_errors(a=1.0, b=0.1, nu=3.0)

    for data in datasets:
        # Scale: I_calc is a fraction of the incident beam, the strongest measured reflection a good part of it.
        # Tilt: recorded angles jump by 0.1-0.2 degrees between neighbouring frames. Thickness: a curve along the angle.
        scale, illumination = sample_frames(
            data,
            thickness,
            log_scale=2.0,
            scale_spread=Spread(0.3, in_map=0.1),
            tilt_spread=Spread(0.1, in_map=0.12),  # deg
        )
        calculated = scale[data.experiment.frame_index] * simulate(structure, data, illumination)
        # Background: weak reflections are too strong by a part of sigma where too little was subtracted from them.
        background = sample_background(data)
        scatter = student_t(calculated, data.experiment.sigma, **error, background=background)
        observe(data, calculated, scatter, background=background, intensities=intensities, mask=mask)
