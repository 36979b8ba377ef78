r"""Dynamical diffraction with a thickness distribution per frame and errors that expect outliers.

The generative story, for measurement m of hkl r in frame f:

    displacement ~ Normal(0, 0.05 Å)            along the directions the site symmetry allows
    log_strain   ~ Normal(0, 1)                 U = sqrt(U_0) exp(log_strain) sqrt(U_0), positive definite
    contraction ~ LogNormal(0, 0.1)             electrons of all atoms but hydrogen nearer to their nuclei, as in bonds
    hydrogen and restraints of the start structure: see `pendel.model.sample_structure`
    tilt_f       ~ Normal(0, tilt_spread)       small rotation about x and y of the laboratory
    log_scale_f  ~ Normal(log_scale_mean, scale_spread)
    log_thickness ~ GP(log_thickness_mean, thickness_spread, 20 deg) + Normal(0, thickness_jump)   along the angle
    log_taper     ~ GP(log_taper_mean, taper_spread, 20 deg) + Normal(0, taper_jump)
    absorption ~ LogNormal(0, 0.3)              strength kappa of the thermal absorption, potential U + i kappa U'
    mosaicity ~ HalfNormal(0.1 deg)             spread of the orientation of blocks whose intensities add
    I_m = scale_f * mean over tilts, sum over nodes t_q of  w_q |psi_r(t_q)|^2
    reflection_error_h ~ Normal(0, reflection_spread)   common to all measurements of h and its equivalents
    J_m = I_m exp(reflection_error_h)
    I_obs,m ~ StudentT(nu, J_m + background sigma_m, sqrt((a sigma_m)^2 + (b J_m)^2))
    reflection_spread ~ HalfNormal(0.1)
    log_scale_mean ~ Normal(log of the strongest I_obs, 2), scale_spread ~ HalfNormal(0.3)
    tilt_spread_x, tilt_spread_y ~ HalfNormal(0.1 deg)
    log_thickness_mean ~ Normal(log 800 Å, 0.8), thickness_spread ~ HalfNormal(0.3), thickness_jump ~ HalfNormal(0.2)
    log_taper_mean ~ Normal(log 0.4, 0.8), taper_spread ~ HalfNormal(0.5), taper_jump ~ HalfNormal(0.3)
    background ~ Normal(0, 1)                   in units of the reported sigma
    a ~ LogNormal(0, 0.5), b ~ LogNormal(log 0.1, 0.5), nu ~ 2 + LogNormal(log 3, 0.5)

The thickness of a frame is T x^k, x uniform in (0, 1): a density that ends at T = exp(log_thickness), with the taper
k = exp(log_taper) from a slab (0) over a rod (about 0.3) to a wedge that runs out (1). The jumps are there because the
beam does not light the same part of the crystal in every frame. `--thickness` names other densities:
`pendel.model.thickness_prior`. Several crystals of one structure have thickness, scale, tilts, absorption and
background of their own and share a, b and nu; with errors="each" every crystal has its own. absorption="auto" leaves
the absorption out where the mean absorption length of the start structure is above 5700 Å, "off" always, "on" never.
mosaicity="auto" leaves the mosaicity out where the plan has no tilts for it, "off" always; a simulation with it takes
three times as long. Plans of a run have such tilts where the data file states a mosaicity, or with --mosaicity on; the
scale of its prior is that of the file where this is above 0.1 degrees.
The electron cloud of hydrogen is shifted towards its parent; with clouds="spherical" it is around the nucleus.
With contraction="off" all other atoms have the form factors of free atoms. Unique reflections h are those whose
measurements are strong enough to say something of an error of 10 %; reflection_error="off" leaves such errors to b, and
so does "auto" where measurements have no numbers of unique reflections (`pendel.with_equivalents`).
"""

import dataclasses

from pendel.base import InputError
from pendel.model import (
    Spread,
    observe,
    sample_absorption,
    sample_background,
    sample_errors,
    sample_frames,
    sample_mosaicity,
    sample_reflection_errors,
    sample_structure,
    simulate,
    student_t,
)


def model(
    crystal,
    datasets,
    *,
    intensities=None,
    mask=None,
    thickness="taper",
    errors="shared",
    absorption="auto",
    mosaicity="auto",
    clouds="shifted",
    contraction="on",
    reflection_error="auto",
):
    """See the module's story. `datasets`: one `DataSet` for each crystal; `intensities=None`: prior predictive."""
    if errors not in ("shared", "each"):
        raise InputError(found=f"errors {errors!r}", expected="'shared' or 'each'", do="change the option of the model")
    if contraction not in ("on", "off"):
        raise InputError(found=f"contraction {contraction!r}", expected="'on' or 'off'", do="change the option")
    # Structure. 0.05 Å covers the error of a kinematical start; U is known within a factor of about e. Atoms in bonds
    # have been found up to 17 % smaller than free ones.
    electrons = 0.1 if contraction == "on" else None
    structure = sample_structure(crystal, displacement=0.05, log_strain=1.0, clouds=clouds, log_contraction=electrons)

    # Errors. Reported sigmas are counting statistics (a near 1); models of 3D-ED miss strong reflections by 8-18 % (b).
    medians = {"a": 1.0, "b": 0.1, "nu": 3.0}
    shared = sample_errors(**medians) if errors == "shared" else None

    # An error of a structure factor is the same in all frames and for all equivalents.
    commons = sample_reflection_errors(datasets, reflection_error, Spread(0.1, in_map=0.05, integrated=True))

    for data, common in zip(datasets, commons, strict=True):
        error = shared or sample_errors(data.suffix, **medians)

        # Scale: I_calc is a fraction of the incident beam, the strongest measured reflection a good part of it.
        # Tilt: recorded angles jump by 0.1-0.2 degrees between neighbouring frames. Thickness: a curve along the angle.
        scale, illumination = sample_frames(
            data,
            thickness,
            log_scale=2.0,
            scale_spread=Spread(0.3, in_map=0.1),
            tilt_spread=Spread(0.1, in_map=0.12),  # deg
        )
        # Absorption: an Einstein crystal loses what it scatters thermally; the detector finds some of that again.
        strength = sample_absorption(data, absorption, log_strength=0.3)
        # Mosaicity: blocks of the crystal are turned against each other by about as much as data reduction states.
        spread = sample_mosaicity(data, mosaicity)
        illumination = dataclasses.replace(illumination, absorption=strength, mosaicity=spread)
        calculated = scale[data.experiment.frame_index] * simulate(structure, data, illumination)
        # Background: weak reflections are too strong by a part of sigma where too little was subtracted from them.
        background = sample_background(data)
        scatter = student_t(common(calculated), data.experiment.sigma, **error, background=background)
        observe(data, calculated, scatter, background=background, common=common, intensities=intensities, mask=mask)
