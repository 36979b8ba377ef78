"""The `Plan`: everything about a simulation that stays fixed while parameters move."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Complex, Float, Int

from pendel.base import Array, InputError
from pendel.crystal.form_factors import form_factors
from pendel.crystal.structure import Crystal, reciprocal_matrix
from pendel.experiment.frames import Experiment
from pendel.simulate.beams import SegmentGroup, difference_box, pad_segments, select_beams, weak_beams
from pendel.simulate.chebyshev import absorption_spread, expansion_length, spectral_interval
from pendel.simulate.geometry import beam_axis_row
from pendel.simulate.influence import select_by_influence
from pendel.simulate.matrix import coupling_box, diagonal_and_flux, folded_interaction
from pendel.simulate.mosaic import OrientationSpread, spread_of, spread_tilts, tilts_beyond
from pendel.simulate.scattering import absorption_factors, absorption_length, structure_factors

MATRIX_NUMBERS = 4_000_000  # elements of the matrices of a chunk, which bounds the memory of their tangents
ON_A_CARD = 60_000_000  # of them on a graphics card, which is idle with fewer
FRINGES = 0.7  # from one tilt to the next; the rest is room for the ends of the sweep, where the curve ends
CENTRIC = 1e-6  # imaginary part, relative to the largest coefficient, of what counts as real
BEYOND = 1.1  # resolutions of the data, to which beams that are chosen by excitation error reach
FAR_BEYOND = 1.45  # the same for those that are chosen by influence: most of them are folded in, which costs little
STEP_RESERVE = 1.25  # room in the step budget for couplings and excitation errors that grow during a fit
TYPICAL_THICKNESS = 570.0  # Å, mean of the prior: 800 Å at the thickest place, taper 0.4
ABSORBING = 10.0  # typical thicknesses; absorption matters where the mean absorption length is shorter
MOST_MOSAIC = 2.0  # times the expected spread of the orientation, for which the expansion is long enough
LARGEST_STRENGTH = 2.5  # of the absorption, three standard deviations above 1 in its prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What a plan is made with: the arguments of `make_plan` with numbers for what follows from the data."""

    g_max: float  # Å⁻¹
    sg_max: float  # Å⁻¹
    tilts: int
    thickness_max: float  # Å
    dtype: str = "float32"
    form_factor_table: str = "lobato"  # or "peng"
    mosaicity: float = 0.0  # deg, expected spread of the orientation; 0: the plan is for none
    nodes_across: int = 2  # of the spread across the path of the sweep, for every tilt
    beam_error: float | None = None  # R of amplitudes; where given, it chooses the beams instead of sg_max
    folded_sg_max: float = 0.0  # Å⁻¹; where sg_max chooses, beams between both are folded in


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["groups", "support_hkl", "support_form_factor", "wavelength", "same_as", "semi_angle", "wanted"],
    meta_fields=[
        "measurements",
        "frames",
        "geometry",
        "beyond",
        "box",
        "mode",
        "max_steps",
        "is_absorbing",
        "absorption_steps",
        "centre",
        "settings",
        "mesh",
        "matrix_numbers",
    ],
)
@dataclasses.dataclass(frozen=True)
class Plan:
    """Beams, tilts, padding and precision of a simulation; a pytree that models pass on to the simulator."""

    groups: tuple[SegmentGroup, ...]
    support_hkl: Int[Array, "g 3"]  # Friedel-unique reflections whose U_g is needed
    support_form_factor: Float[Array, "sites g"]  # [Å]
    same_as: Int[Array, " measurements"]  # the first measurement of the same hkl in the same frame
    semi_angle: Float[Array, " frames"]  # half the sweep, or semi-angle of the precession cone [deg]
    measurements: int
    frames: int
    geometry: str  # "rotation" or "precession"
    beyond: int  # tilts beyond each end of a sweep, which only mosaicity gives a weight
    wavelength: Float[Array, ""] | float  # Å
    box: tuple[int, int, int]  # shape of the box of all differences of beams
    mode: str  # "forward" (jax.jvp) or "reverse" (jax.grad)
    max_steps: int
    centre: tuple[float, float, float] | None  # fractional coordinates of an inversion centre; there all U_g are real
    settings: PlanSettings  # that it was made with
    mesh: Mesh | None = None  # of devices over which the segments are spread, see `shard_plan`
    matrix_numbers: int = MATRIX_NUMBERS  # elements of the matrices of segments handled together
    wanted: Bool[Array, " frames"] | None = None  # frames whose intensities matter; None for all
    is_absorbing: bool = False  # whether absorption matters in the structure the plan was made for, see `absorbs`
    absorption_steps: int = 0  # steps beyond `max_steps` that strong absorption may take

    @property
    def is_mosaic(self) -> bool:
        """Whether there are tilts for a spread of the orientation."""
        return self.settings.mosaicity > 0

    @property
    def tilts_of_each(self) -> int:
        """How many orientations of the crystal are simulated for one tilt: the nodes across its path, 1 without."""
        return self.settings.nodes_across if self.is_mosaic else 1

    @property
    def dtype(self) -> str:
        """Precision of the propagator."""
        return self.settings.dtype

    def with_mode(self, mode: str) -> "Plan":
        """The same plan for `jax.grad` ("reverse", as plans are made) or for `jax.jvp` and `jax.jacfwd` ("forward")."""
        return dataclasses.replace(self, mode=mode)

    def with_wanted(self, frames: Bool[Array, " frames"]) -> "Plan":
        """The same plan, which takes no trouble over other frames: their intensities mean nothing."""
        return dataclasses.replace(self, wanted=frames)


def make_plan(
    crystal: Crystal,
    experiment: Experiment,
    *,
    g_max: float | None = None,
    sg_max: float = 0.01,
    beam_error: float | None = None,
    tilts: int | None = None,
    thickness_max: float = 3000.0,
    tilt: Float[Array, "frames 2"] | None = None,
    dtype: str = "float32",
) -> Plan:
    """Select beams with |g| < g_max and |S_g| < sg_max at any tilt of a segment, or by their influence on the measured
    reflections, and pad them to few sizes.

    Args:
        g_max: cutoff of the beams [Å⁻¹]; when not given 1.1 x the resolution of the data, with `beam_error` 1.45 x.
        sg_max: largest excitation error of a beam [Å⁻¹].
        beam_error: R of amplitudes, e.g. 0.01, that leaving beams out may cost against a much larger set. When given,
            beams are chosen by `select_by_influence`, and `sg_max` is not used.
        tilts: tilts per frame; see `default_tilts` when not given.
        thickness_max: largest thickness node the expansion must reach [Å]; beyond it intensities become NaN.
        tilt: frame tilts around which the beams are selected [deg].
        dtype: precision of the propagator, "float32" or "float64".

    Raises:
        InputError: no measured reflection is among the beams.
    """
    chosen = {"g_max": g_max, "sg_max": sg_max, "tilts": tilts, "thickness_max": thickness_max}
    settings = settings_of(experiment, **chosen, beam_error=beam_error)
    return plan_with(crystal, experiment, dataclasses.replace(settings, dtype=dtype), tilt)


def settings_of(
    experiment: Experiment,
    *,
    g_max: float | None = None,
    sg_max: float = 0.01,
    beam_error: float | None = None,
    tilts: int | None = None,
    thickness_max: float = 3000.0,
) -> PlanSettings:
    """What `make_plan` makes a plan with, numbers for what follows from the data filled in."""
    return PlanSettings(
        g_max=g_max or round((BEYOND if beam_error is None else FAR_BEYOND) * experiment.dstar_max, 2),
        sg_max=sg_max,
        beam_error=beam_error,
        tilts=tilts or default_tilts(experiment, thickness_max / 3),
        thickness_max=thickness_max,
    )


def plan_with(
    crystal: Crystal, experiment: Experiment, settings: PlanSettings, tilt: Float[Array, "frames 2"] | None
) -> Plan:
    """`make_plan` with a record of its settings, which also chooses the table of form factors."""
    start = jnp.zeros((len(experiment.frame_id), 2)) if tilt is None else jnp.asarray(tilt)
    if settings.mosaicity > 0 and settings.tilts < 3:
        raise InputError(
            found=f"mosaicity with {settings.tilts} tilts a frame",
            expected="3 tilts or more, because the spread of the orientation blurs the sweep",
            do="raise --tilts, or leave mosaicity out",
        )
    beyond = tilts_beyond(experiment.geometry, experiment.semi_angle, settings.tilts, settings.mosaicity)
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
    if not any(len(segment["measurement"]) for segment in segments):
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


def only_frames(plan: Plan, wanted: Bool[np.ndarray, " frames"]) -> Plan:
    """The plan without the segments of unwanted frames, whose intensities become zero; the order stays."""
    groups = []
    for group in plan.groups:
        keep = np.flatnonzero(wanted[np.asarray(group.frame)])
        if len(keep):
            groups.append(jax.tree.map(lambda x, keep=keep: np.asarray(x)[keep], group))
    return dataclasses.replace(plan, groups=tuple(groups))


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


def largest_radius(crystal: Crystal, plan: Plan, axis_row: Float[Array, "frames 3"]) -> list[float]:
    """Largest spectral radius R [rad/Å] of each group, as the Chebyshev expansion bounds it."""

    def radius(interaction, diagonal, flux):
        return spectral_interval(interaction, diagonal, flux)[1][0]

    return _largest(plan, plan_coupling(crystal, plan), axis_row, radius)


def largest_spread(crystal: Crystal, plan: Plan, axis_row: Float[Array, "frames 3"]) -> list[float]:
    """Largest spread [rad/Å] of each group's absorption of strength 1, see `absorption_spread`."""

    def spread(interaction, diagonal, flux):
        centre, _ = spectral_interval(interaction, diagonal, flux)
        return absorption_spread(interaction, flux, centre)[0]

    return _largest(plan, plan_coupling(crystal, plan, strength=1.0), axis_row, spread)


def _largest(plan, coupling, axis_row, measure):
    """The largest `measure` of the structure matrix over the segments of each group, mosaicity counted in."""
    spread = orientation_spread(plan, MOST_MOSAIC * plan.settings.mosaicity) if plan.is_mosaic else None

    @jax.jit
    def of_group(group):
        def one(index):
            segment = jax.tree.map(lambda x: jnp.asarray(x)[index][None], group)
            segment = segment if spread is None else spread_tilts(segment, spread, plan.settings.nodes_across)
            interaction = folded_interaction(coupling, segment, plan.box, axis_row, plan.wavelength)
            return measure(interaction, *diagonal_and_flux(segment, axis_row, plan.wavelength))

        return jnp.max(jax.lax.map(one, jnp.arange(len(group.frame))))

    return [float(of_group(group)) for group in plan.groups]


def orientation_spread(plan: Plan, mosaicity: Float[Array, ""] | float) -> OrientationSpread:
    """What a mosaicity [deg] does to the frames of a plan; raises InputError where the plan has no tilts for it."""
    if not plan.is_mosaic:
        raise InputError(
            found="mosaicity in a plan without tilts for it",
            expected="a plan that was made for mosaicity",
            do="refine with --mosaicity on, or make the plan with PlanSettings(mosaicity=...)",
        )
    return spread_of(mosaicity, plan.geometry, plan.semi_angle, plan.settings.tilts, plan.beyond)


def plan_coupling(
    crystal: Crystal,
    plan: Plan,
    u_change: Complex[Array, " g"] | None = None,
    strength: Float[Array, ""] | float | None = None,
) -> Complex[Array, " box"] | Float[Array, " box"]:
    """V_g [rad/Å] of every difference of beams in the plan's box, flattened; differentiable in the crystal.

    The potential is U(r) + i kappa U'(r) with real U and U'. An inversion centre of the crystal becomes the origin,
    which changes phases of waves but not intensities: U_g and U'_g are real, and so is V_g if there is no absorption.

    Args:
        u_change: added to the U_g [Å⁻²] of `support_hkl`, coefficients of a real potential: U_-g = conj(U_g).
        strength: kappa of the thermal absorption, see `absorption_factors`; None for elastic scattering alone.

    Returns:
        NaN where `u_change` lacks the inversion centre of the crystal.
    """
    u_g, change = structure_factors(crystal, plan.support_hkl, plan.support_form_factor, plan.wavelength), u_change
    if plan.centre is not None:
        to_centre = jnp.exp(-2j * jnp.pi * (plan.support_hkl @ jnp.asarray(plan.centre)))
        u_g = jnp.real(u_g * to_centre)  # real by construction: every atom has its image
        change = None if change is None else _real(change * to_centre)
    u_g = u_g if change is None else u_g + change
    if strength is None:
        return coupling_box(u_g, jnp.conj(u_g), plan.support_hkl, plan.box, plan.wavelength)
    hkl = jnp.concatenate([jnp.zeros((1, 3), dtype=int), jnp.asarray(plan.support_hkl)])
    lost = strength * absorption_factors(crystal, hkl, plan.wavelength, g_max=2 * plan.settings.g_max)
    mean, lost = jnp.real(lost[0]), lost[1:]
    if plan.centre is not None:
        lost = jnp.real(lost * to_centre)
    pair = u_g + 1j * lost, jnp.conj(u_g) + 1j * jnp.conj(lost)
    return coupling_box(*pair, plan.support_hkl, plan.box, plan.wavelength, u_0=1j * mean)


def _real(u_g: Complex[Array, " g"]) -> Float[Array, " g"]:
    """The real part of coefficients that must be real about an inversion centre; NaN where they are not."""
    centric = jnp.max(jnp.abs(jnp.imag(u_g)), initial=0.0) <= CENTRIC * jnp.max(jnp.abs(u_g), initial=0.0)
    return jnp.where(centric, jnp.real(u_g), jnp.nan)


def inversion_centre(crystal: Crystal) -> tuple[float, float, float] | None:
    """Fractional coordinates of an inversion centre, None where there is none."""
    for rotation, translation in zip(np.asarray(crystal.rotations), np.asarray(crystal.translations), strict=True):
        if np.array_equal(rotation, -np.eye(3)):
            x, y, z = (float(value) / 2 for value in translation)
            return x, y, z
    return None


def chunk_size(group: SegmentGroup, plan: Plan) -> int:
    """Segments handled together, so that memory stays bounded."""
    return max(1, plan.matrix_numbers // matrix_elements(group))


def matrix_elements(group: SegmentGroup) -> int:
    """Elements of the structure matrix of one segment, and of the two matrices that fold weak beams into it."""
    beams = group.hkl.shape[1]
    return beams * (beams + 2 * weak_beams(group))
