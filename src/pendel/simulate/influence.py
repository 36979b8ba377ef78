"""Which beams matter to the scored reflections: estimates of first order, before anything is simulated.

A wave of amplitude 1 in beam g drives beam h to |V_hg| m_h after a thickness t, with the excitation error S_h [Å⁻¹]

    m(S) = 1 / sqrt((pi S)² + 1 / t²)        (about the envelope of |sin(pi S t) / (pi S)|)

x_h, the amplitude of beam h, is what 000 and the brightest beams drive it to. Without h the amplitude of a scored
reflection r changes by |V_rh| x_h m_r at every tilt k, and A_r, the root of its intensity in the frame, by

    delta_rh = sum_k w_k x_rk m_rk |V_rh| x_hk / A_r,        A_r² = sum_k w_k x_rk²

A beam h that is folded in (`matrix.folded_interaction`) leaves of that the share by which the folded one differs from
the true one: 1 - S_hk / <S_h> for the mean <S_h> of the segment, and |V| / (2 pi |S_hk|) for the third order. What a
scored reflection has in a segment that is without it is lost: (1/2) sum_k w_k x_rk² / A_r.

Each, summed over r and divided by sum A_r, estimates an R factor of amplitudes. Effects of different beams have
different signs, so their squares add; losses add as they are. The beams with the smallest effects are left out until
the estimate reaches the error that a user allows.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.crystal.form_factors import form_factors
from pendel.crystal.structure import Crystal, reciprocal_matrix
from pendel.experiment.frames import Experiment
from pendel.simulate.beams import FrameBeams, beams_of_frames, make_segment
from pendel.simulate.matrix import NEAREST_FOLDED
from pendel.simulate.scattering import structure_factors

THICKNESS = 600.0  # Å; twice as much gives more weight to beams near the sphere, half as much to those far from it
FARTHEST = 0.06  # Å⁻¹, excitation error of beams that are looked at; with twice as much twice as many are folded in
BRIGHTEST = 24  # beams of a segment that drive others
SMALLEST = 1e-30  # intensity of a scored reflection, where no tilt of the frame counts
DROPPED = 0.5  # share of the allowed error for beams that are not even folded in; halved, more beams are folded in
CHUNK = 20_000  # reflections whose structure factors are calculated together


@dataclasses.dataclass(frozen=True)
class CouplingTable:
    """|V_g| [rad/Å] of all reflections of a sphere, in a box around 000."""

    values: Float[np.ndarray, " box"]
    shape: tuple[int, int, int]

    def between(
        self, hkl: Int[np.ndarray, "beams 3"], others: Int[np.ndarray, "others 3"]
    ) -> Float[np.ndarray, "beams others"]:
        """|V| of all differences; zero outside of the sphere."""
        strides = np.array([self.shape[1] * self.shape[2], self.shape[2], 1])
        return self.values[len(self.values) // 2 + (others @ strides)[None, :] - (hkl @ strides)[:, None]]


@dataclasses.dataclass(frozen=True)
class Influence:
    """What R of amplitudes is without each beam of a frame, by segment, if the beam is ..."""

    dropped: Float[np.ndarray, "segments beams"]
    folded: Float[np.ndarray, "segments beams"]
    lost: Float[np.ndarray, "segments beams"]  # its own intensity, if it is scored


def select_by_influence(
    crystal: Crystal,
    experiment: Experiment,
    axis_row: Float[Array, "frames 3"],
    *,
    g_max: float,
    beam_error: float,
    tilts: int,
    beyond: int = 0,
) -> list[dict]:
    """Segments with the beams whose influence on the scored reflections matters, and weaker ones that are folded in.

    Args:
        axis_row: third row of every frame's small tilt, see `geometry.beam_axis_row`.
        g_max: cutoff of all beams [Å⁻¹].
        beam_error: R of amplitudes that leaving beams out may cost, e.g. 0.01.
        tilts: tilts per frame.
        beyond: further tilts before and after a sweep, which count here like its own.
    """
    table = coupling_table(crystal, g_max, g_max + experiment.dstar_max, experiment.wavelength)
    segments = []
    cutoffs = {"g_max": g_max, "sg_max": FARTHEST}
    for own in beams_of_frames(crystal, experiment, axis_row, **cutoffs, tilts=tilts, beyond=beyond):
        measured = {tuple(hkl) for hkl in np.asarray(experiment.hkl)[own.measured].tolist()}
        scored = np.array([i for i, hkl in enumerate(own.hkl.tolist()) if tuple(hkl) in measured], dtype=int)
        if not len(scored):
            kept = folded = np.zeros((len(own.segments), len(own.hkl)), dtype=bool)
        else:
            kept, folded = sorted_out(influences(table, own, scored), beam_error)
        for part, chosen, weak in zip(own.segments, kept, folded, strict=True):
            segments.append(make_segment(experiment, own, part, chosen, weak))
    return segments


def influences(table: CouplingTable, own: FrameBeams, scored: Int[np.ndarray, " scored"]) -> Influence:
    """The influence of every beam of a frame on the scored ones; see the formulas of the module.

    Args:
        scored: the places of the scored reflections among the frame's beams, at least one.
    """
    response = 1 / np.sqrt((np.pi * own.error) ** 2 + THICKNESS**-2.0)
    from_incident = table.between(own.hkl, np.zeros((1, 3), dtype=int))
    amplitude = np.concatenate([_driven(table, own, response[:, k], from_incident) for k in own.segments], axis=1)
    weight = own.most[scored]
    share = weight * amplitude[scored] ** 2
    root = np.sqrt(np.maximum(np.sum(share, axis=1, keepdims=True), SMALLEST))
    reach = weight * amplitude[scored] * response[scored] / root
    changed = (table.between(own.hkl, own.hkl[scored]) @ reach) * amplitude / np.sum(root)
    third = np.max(from_incident) / (2 * np.pi)
    dropped, folded, lost = (np.zeros((len(own.segments), len(own.hkl))) for _ in range(3))
    for i, part in enumerate(own.segments):
        error = own.error[:, part]
        mean = np.mean(error, axis=1, keepdims=True)
        wrong = np.abs(1 - error * mean / (mean**2 + NEAREST_FOLDED**2)) + third / np.maximum(np.abs(error), 1e-9)
        dropped[i] = np.sum(changed[:, part], axis=1)
        folded[i] = np.sum(changed[:, part] * np.minimum(wrong, 1), axis=1)
        lost[i, scored] = np.sum(0.5 * share[:, part] / root, axis=1) / np.sum(root)
    return Influence(dropped, folded, lost)


def sorted_out(
    found: Influence, beam_error: float
) -> tuple[Bool[np.ndarray, "segments beams"], Bool[np.ndarray, "segments beams"]]:
    """Which beams of every segment of a frame are kept, and which of the others are folded in.

    >>> one = np.array([[0.1, 0.02, 0.002, 1e-4]])
    >>> kept, folded = sorted_out(Influence(one, 0.1 * one, 0 * one), 0.005)
    >>> kept.tolist(), folded.tolist()
    ([[True, False, False, False]], [[False, True, False, False]])
    """
    order = np.argsort(found.folded + found.lost, axis=None)
    effect = np.sqrt(np.cumsum(found.folded.ravel()[order] ** 2)) + np.cumsum(found.lost.ravel()[order])
    kept = np.ones(found.folded.shape, dtype=bool)
    kept.ravel()[order[effect < beam_error]] = False
    dropped = np.where(kept, 0.0, found.dropped).ravel()
    order = np.argsort(dropped)
    effect = np.sqrt(np.cumsum(dropped[order] ** 2))
    folded = np.zeros(kept.shape, dtype=bool)
    folded.ravel()[order[effect > DROPPED * beam_error]] = True
    return kept, folded & ~kept


def coupling_table(crystal: Crystal, g_max: float, reach: float, wavelength: float) -> CouplingTable:
    """|V_g| of |g| < `reach` [Å⁻¹] in a box of the differences of all reflections with |g| < `g_max`."""
    half = np.ceil(2 * g_max * np.asarray(crystal.cell[:3])).astype(int)
    hkl = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in half], indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ reciprocal_matrix(crystal.cell).T, axis=1)
    middle = len(hkl) // 2
    used = middle + 1 + np.flatnonzero(length[middle + 1 :] < reach)
    values = np.zeros(len(hkl))
    calculate = jax.jit(structure_factors)
    for start in range(0, len(used), CHUNK):
        chosen = used[start : start + CHUNK]
        filled = np.pad(chosen, (0, CHUNK - len(chosen)), mode="edge")  # one size, one compiled program
        u_g = calculate(crystal, hkl[filled], form_factors(crystal.elements, length[filled]), wavelength)
        values[chosen] = np.abs(u_g)[: len(chosen)]
    values[2 * middle - used] = values[used]
    return CouplingTable(np.pi * wavelength * values, _box(half))


def _box(half: Int[np.ndarray, "3"]) -> tuple[int, int, int]:
    first, second, third = (int(2 * n + 1) for n in half)
    return first, second, third


def _driven(table, own, response, from_incident):
    """Amplitudes [beams tilts] in one segment: what 000 and then also the brightest beams drive every beam to."""
    first = _limited(from_incident * response)
    flux = 1 + np.sum(first**2, axis=0)
    brightest = np.argsort(-np.mean(first**2 / flux, axis=1))[:BRIGHTEST]
    coupled = table.between(own.hkl, own.hkl[brightest])
    source = (from_incident**2 + coupled**2 @ first[brightest] ** 2) / flux
    return _limited(np.sqrt(source) * response)


def _limited(amplitude):
    """Amplitudes of first order that never exceed 1."""
    return amplitude / np.sqrt(1 + amplitude**2)
