"""What leaving beams out costs: amplitudes of a plan's beams against those of a much larger set, on a few frames.

The large set has every beam within twice the usual excitation error; the many beyond it are folded in, without which
it would not be near enough to all beams in crystals of heavy atoms.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float
from rich.text import Text

from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.experiment.select import drop_poor_frames, thin
from pendel.simulate import Illumination, Plan, simulate_intensities
from pendel.simulate.cost import operations
from pendel.simulate.planning import plan_with
from pendel.simulate.replan import replan
from pendel.simulate.thickness import tapered

FRAMES = 2  # simulated, evenly spread
THICKNESS, TAPER = 800.0, 0.4  # of the crystal that is simulated [Å], those of the prior
MORE_G, LARGE_SG, FOLDED_SG = 1.6, 0.02, 0.1  # of the large set: resolutions of the data, excitation errors [Å⁻¹]
MOST_OPERATIONS = 1e12  # that the large set may take, about a minute of two cores


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamError:
    """R of amplitudes, sum |sqrt I - sqrt I_large| / sum sqrt I_large, and the mean numbers of beams of a segment.

    `r_factor`: None where the large set would take too long. `work`: operations over those of the large set.
    """

    name: str  # of the data
    r_factor: float | None
    frames: int
    beams: float
    folded: float
    large_beams: float
    large_folded: float
    work: float


def measured_beam_error(crystal: Crystal, experiment: Experiment, plan: Plan) -> BeamError:
    """The error of a plan's beams at the orientations of the file, for a tapered crystal of a usual thickness."""
    middle = len(experiment.frame_id) // (2 * FRAMES)
    few = drop_poor_frames(thin(experiment, slice(middle, None, max(1, len(experiment.frame_id) // FRAMES))), 1)
    settings = dataclasses.replace(plan.settings, thickness_max=1.05 * THICKNESS)
    own = replan(crystal, few, dataclasses.replace(plan, settings=settings), tilt=None)
    g_max = max(round(MORE_G * few.dstar_max, 2), settings.g_max)
    cutoffs = {"sg_max": max(LARGE_SG, 2 * settings.sg_max), "folded_sg_max": FOLDED_SG}
    many = dataclasses.replace(settings, g_max=g_max, **cutoffs, beam_error=None)
    large = plan_with(crystal, few, many, None)
    cost, r_factor = operations(large, THICKNESS), None
    if cost <= MOST_OPERATIONS:
        found, exact = (np.sqrt(_intensities(crystal, one)) for one in (own, large))
        r_factor = float(np.sum(np.abs(found - exact)) / np.sum(exact))
    (beams, folded), (large_beams, large_folded) = _mean_numbers(own), _mean_numbers(large)
    return BeamError(
        name=experiment.name,
        r_factor=r_factor,
        frames=len(few.frame_id),
        beams=beams,
        folded=folded,
        large_beams=large_beams,
        large_folded=large_folded,
        work=operations(own, THICKNESS) / cost,
    )


def beam_error_line(found: BeamError) -> Text:
    """The error in one sentence."""
    few, many = _in_words(found.beams, found.folded), _in_words(found.large_beams, found.large_folded)
    many += f" (means of the segments of {found.frames} frames)"
    if found.r_factor is None:
        return Text(f"{found.name}, error by missing beams: not measured, because {many} would take too long")
    error = f"R of amplitudes {found.r_factor:.2%} for {few} instead of {many}, for {found.work:.1%} of the work"
    return Text(f"{found.name}, error by missing beams: {error}")


def _in_words(beams: float, folded: float) -> str:
    return f"{beams:.0f} beams" + (f" with {folded:.0f} folded in" if folded else "")


def _intensities(crystal: Crystal, plan: Plan) -> Float[np.ndarray, " measurements"]:
    ones = np.ones(plan.frames)
    nodes, weights = tapered(np.log(THICKNESS) * ones, np.log(TAPER) * ones)
    illumination = Illumination(tilt=np.zeros((plan.frames, 2)), thickness=nodes, weights=weights)
    return np.maximum(np.asarray(jax.jit(simulate_intensities)(crystal, plan, illumination)), 0.0)


def _mean_numbers(plan: Plan) -> tuple[float, float]:
    """Mean numbers of beams and of folded beams of a segment."""
    beams = np.concatenate([np.sum(group.present, axis=1) for group in plan.groups])
    folded = sum(int(np.sum(group.folded.present)) for group in plan.groups if group.folded is not None)
    return float(np.mean(beams)), folded / len(beams)
