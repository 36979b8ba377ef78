"""How a plan is made: which beams, how many tilts, how long an expansion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array, InputError
from pendel.crystal.form_factors import form_factors
from pendel.crystal.structure import Crystal, reciprocal_matrix
from pendel.experiment.frames import Experiment
from pendel.simulate.beams import difference_box, pad_segments, select_beams
from pendel.simulate.chebyshev import expansion_length
from pendel.simulate.coupling import largest_radius, largest_spread
from pendel.simulate.curve import range_of_curves, tilts_beyond_for_curves
from pendel.simulate.geometry import beam_axis_row
from pendel.simulate.influence import select_by_influence
from pendel.simulate.mosaic import tilts_beyond
from pendel.simulate.plan import MATRIX_NUMBERS, Plan, PlanSettings
from pendel.simulate.scattering import absorption_length

ON_A_CARD = 60_000_000  # of them on a graphics card, which is idle with fewer
FRINGES = 0.7  # from one tilt to the next; the rest is room for the ends of the sweep, where the curve ends
BEAM_ERROR = 0.01  # R of amplitudes; docs/performance.md compares it with sg_max on five crystals
BEYOND = 1.1  # resolutions of the data, to which beams that are chosen by excitation error reach
FAR_BEYOND = 1.45  # the same for those that are chosen by influence: most of them are folded in, which costs little
STEP_RESERVE = 1.25  # room in the step budget for couplings and excitation errors that grow during a fit
TYPICAL_THICKNESS = 570.0  # Å, mean of the prior: 800 Å at the thickest place, taper 0.4
ABSORBING = 10.0  # typical thicknesses; absorption matters where the mean absorption length is shorter
LARGEST_STRENGTH = 2.5  # of the absorption, three standard deviations above 1 in its prior


def make_plan(
    crystal: Crystal,
    experiment: Experiment,
    *,
    g_max: float | None = None,
    sg_max: float | None = None,
    beam_error: float | None = None,
    tilts: int | None = None,
    thickness_max: float = 3000.0,
    dtype: str = "float32",
) -> Plan:
    """Select beams by their influence on the measured reflections, or with |g| < g_max and |S_g| < sg_max at any tilt
    of a segment, and pad them to few sizes. Frames are oriented as in the file; see `plan_with` for other tilts.

    Args:
        g_max: cutoff of the beams [Å⁻¹]; when not given 1.45 x the resolution of the data, with `sg_max` 1.1 x.
        sg_max: largest excitation error of a beam [Å⁻¹]; when given without `beam_error`, it chooses the beams.
        beam_error: R of amplitudes that leaving beams out may cost against a much larger set, see
            `select_by_influence`; 0.01 when neither is given.
        tilts: tilts per frame; see `default_tilts` when not given.
        thickness_max: largest thickness node the expansion must reach [Å]; beyond it intensities become NaN.
        dtype: precision of the propagator, "float32" or "float64".

    Raises:
        InputError: no measured reflection is among the beams.
    """
    chosen = {"g_max": g_max, "sg_max": sg_max, "tilts": tilts, "thickness_max": thickness_max}
    settings = settings_of(experiment, **chosen, beam_error=beam_error)
    return plan_with(crystal, experiment, dataclasses.replace(settings, dtype=dtype), None)


def settings_of(
    experiment: Experiment,
    *,
    g_max: float | None = None,
    sg_max: float | None = None,
    beam_error: float | None = None,
    tilts: int | None = None,
    thickness_max: float = 3000.0,
) -> PlanSettings:
    """What `make_plan` makes a plan with, numbers for what follows from the data filled in."""
    if sg_max is None and beam_error is None:
        beam_error = BEAM_ERROR
    return PlanSettings(
        g_max=g_max or round((BEYOND if beam_error is None else FAR_BEYOND) * experiment.dstar_max, 2),
        sg_max=sg_max or 0.0,
        beam_error=beam_error,
        tilts=tilts or default_tilts(experiment, thickness_max / 3),
        thickness_max=thickness_max,
    )


def plan_with(
    crystal: Crystal, experiment: Experiment, settings: PlanSettings, tilt: Float[Array, "frames 2"] | None
) -> Plan:
    """`make_plan` with a record of its settings, which also chooses the table of form factors.

    Args:
        tilt: frame tilts around which the beams are selected [deg]; None for the file's orientations.
    """
    start = jnp.zeros((len(experiment.frame_id), 2)) if tilt is None else jnp.asarray(tilt)
    if settings.mosaicity > 0:
        enough_for_mosaicity(settings.tilts)
    if range_of_curves(experiment, settings.tilts) is None:
        beyond = tilts_beyond(experiment.geometry, experiment.semi_angle, settings.tilts, settings.mosaicity)
    else:
        beyond = tilts_beyond_for_curves(experiment, settings.tilts)
    row = beam_axis_row(start)
    segments = _chosen_segments(crystal, experiment, settings, np.asarray(row), beyond)
    measurements = len(experiment.intensity)
    groups = pad_segments(segments, measurements)
    box, support = difference_box(groups)
    g = np.linalg.norm(support @ reciprocal_matrix(crystal.cell).T, axis=1)
    plan = Plan(
        groups=groups,
        support_hkl=support,
        support_form_factor=form_factors(crystal.elements, g, settings.form_factor_table),
        same_as=_first_of_same(experiment),
        semi_angle=np.asarray(experiment.semi_angle),
        geometry=experiment.geometry,
        beyond=beyond,
        measurements=measurements,
        frames=len(experiment.frame_id),
        wavelength=experiment.wavelength,
        box=box,
        mode="reverse",
        max_steps=0,
        centre=inversion_centre(crystal),
        settings=settings,
        matrix_numbers=MATRIX_NUMBERS if jax.default_backend() == "cpu" else ON_A_CARD,
        is_absorbing=absorbs(crystal, experiment.wavelength),
    )
    radius = STEP_RESERVE * max(largest_radius(crystal, plan, row))
    argument = jnp.asarray(radius * settings.thickness_max)
    steps = int(expansion_length(argument, plan.dtype))
    if not plan.is_absorbing:  # weak absorption takes fewer steps than the reserve has
        return dataclasses.replace(plan, max_steps=steps)
    growth = LARGEST_STRENGTH * max(largest_spread(crystal, plan, row)) * settings.thickness_max
    more = int(expansion_length(argument, plan.dtype, growth)) - steps
    return dataclasses.replace(plan, max_steps=steps, absorption_steps=more)


def _chosen_segments(crystal, experiment, settings: PlanSettings, axis_row, beyond: int) -> list[dict]:
    """Segments with their beams by excitation error or by influence; raises InputError if none of them is measured."""
    cutoffs = {"g_max": settings.g_max, "tilts": settings.tilts, "beyond": beyond}
    if settings.beam_error is None:
        errors = {"sg_max": settings.sg_max, "folded_sg_max": settings.folded_sg_max}
        segments = select_beams(crystal, experiment, axis_row, **errors, **cutoffs)
    else:
        segments = select_by_influence(crystal, experiment, axis_row, beam_error=settings.beam_error, **cutoffs)
    segments = [segment for segment in segments if len(segment["measurement"])]
    if not segments:
        second = f"sg_max {settings.sg_max} Å⁻¹" if settings.beam_error is None else f"beam_error {settings.beam_error}"
        raise InputError(
            found=f"no measured reflection is among the beams (g_max {settings.g_max} Å⁻¹, {second})",
            expected="measured reflections inside the cutoffs",
            do="raise --g-max or --sg-max, or examine cell and orientation with `pendel check`",
        )
    return segments


def absorbs(crystal: Crystal, wavelength: float) -> bool:
    """Whether absorption matters: the mean absorption length is below ten thicknesses of a typical crystal, 5700 Å."""
    return absorption_length(crystal, wavelength) < ABSORBING * TYPICAL_THICKNESS


def enough_for_mosaicity(tilts: int) -> None:
    """Raises InputError for fewer tilts a frame than a mosaicity needs."""
    if tilts < 3:
        raise InputError(
            found=f"mosaicity with {tilts} tilts a frame",
            expected="3 tilts or more, because the spread of the orientation blurs the sweep",
            do="raise --tilts, or leave mosaicity out",
        )


def default_tilts(experiment: Experiment, thickness: float) -> int:
    """Tilts per frame so that at most `FRINGES` pass from one to the next, within 7 and 200.

    Args:
        thickness: largest thickness of the distribution [Å].
    """
    return int(np.clip(resolving_tilts(experiment, thickness), 7, 200))


def resolving_tilts(experiment: Experiment, thickness: float) -> int:
    """Tilts per frame so that at most `FRINGES` pass from one to the next, see `fringes_per_tilt`."""
    ends = 1 if experiment.geometry == "rotation" else 0
    return int(np.ceil(fringes_per_tilt(experiment, thickness, 1 + ends) / FRINGES) + ends)


def fringes_per_tilt(experiment: Experiment, thickness: float, tilts: int) -> float:
    """Largest change of S t of the outermost measured reflection from one tilt to the next [cycles].

    Along S an intensity is a sum of fringes cos(2 pi S u) with u up to the largest thickness t, longer ones for coupled
    beams: its mean over equal steps of less than 1 / t is that of the curve. With larger ones it depends on where the
    tilts fall, and the posterior has a comb of maxima along the frame's tilt. A distribution of thickness below t has
    no shorter fringes. A rotation passes twice the semi-angle with a tilt at either end, a precession cone 2 pi times.

    Args:
        thickness: largest thickness of the distribution [Å].
    """
    semi = np.deg2rad(float(np.max(experiment.semi_angle)))
    step = 2 * semi / max(tilts - 1, 1) if experiment.geometry == "rotation" else 2 * np.pi * semi / tilts
    return step * experiment.dstar_max * thickness


def _first_of_same(experiment: Experiment) -> Int[np.ndarray, " measurements"]:
    key = np.column_stack([experiment.frame_index, experiment.hkl])
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()]


def inversion_centre(crystal: Crystal) -> tuple[float, float, float] | None:
    """Fractional coordinates of an inversion centre, None where there is none."""
    for rotation, translation in zip(np.asarray(crystal.rotations), np.asarray(crystal.translations), strict=True):
        if np.array_equal(rotation, -np.eye(3)):
            x, y, z = (float(value) / 2 for value in translation)
            return x, y, z
    return None
