"""Over which tilts an intensity is integrated: the sweep of its frame, or as much of its rocking curve as was measured.

Virtual frames overlap. Data reduction may integrate a reflection once, over all recorded frames in which it is near
its Bragg condition, and write that intensity into every virtual frame that holds it. It is then not the integral over
the sweep of one virtual frame, which cuts the curve off where the sweep ends, but the integral over

    |S_g| < p + q |g|        (`Experiment.curve_range`)

Every tilt counts for a reflection with the share of its step that lies in there. The excitation errors are those of the
file's orientation, because by them the data reduction chose the frames. Sweeps are continued at either end as far as
their reflections need, by half of their length at most. One or two tilts are no curve: they count as a sweep.
"""

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.experiment.frames import Experiment, central_vectors, excitation_error, span

FEWEST_TILTS = 3  # of a curve
FARTHEST = 1.0  # semi-angles that a sweep is continued at most: it cuts half of albite's ranges, 1 % of CsPbBr3's


def range_of_curves(experiment: Experiment, tilts: int) -> tuple[float, float] | None:
    """The range (p, q) of a frame of so many tilts; None where its sweep counts, and for the circle of a precession."""
    return experiment.curve_range if experiment.geometry == "rotation" and tilts >= FEWEST_TILTS else None


def tilts_beyond_for_curves(experiment: Experiment, tilts: int) -> int:
    """Tilts beyond each end of the sweeps, at their own steps, that the measured rocking curves need."""
    chosen = range_of_curves(experiment, tilts)
    if chosen is None:
        return 0
    vectors, (constant, slope) = central_vectors(experiment), chosen
    reach = constant + slope * np.linalg.norm(vectors, axis=1)
    needed = np.abs(excitation_error(vectors, experiment.wavelength)) + reach
    sweeps = float(np.max(needed / np.maximum(span(experiment), 1e-9)))
    return int(np.ceil(np.clip(sweeps - 1, 0, FARTHEST) * (tilts - 1) / 2))


def tilt_weights(
    experiment: Experiment, error: Float[Array, "beams tilts"], g: Float[Array, " beams"], beyond: int
) -> tuple[Float[np.ndarray, "beams tilts"], Float[np.ndarray, "beams tilts"]]:
    """What every tilt of a frame counts in the intensity of each beam, if it is measured.

    Args:
        error: excitation errors at the file's orientation [Å⁻¹], tilts beyond both ends included.
        g: lengths |g| [Å⁻¹].
        beyond: tilts beyond each end of the sweep.

    Returns:
        parts of the sweep, 1 / tilts for a tilt that counts with all of its step; and about what they can become with
        mosaicity, which in a sweep lets the tilts beyond its ends count.
    """
    count = error.shape[1]
    tilts = count - 2 * beyond
    chosen = range_of_curves(experiment, tilts)
    if chosen is None:
        inside = np.pad(np.ones(tilts), beyond) / tilts
        return np.broadcast_to(inside, error.shape), np.full(error.shape, 1 / count)
    constant, slope = chosen
    half = np.maximum(0.5 * np.abs(np.gradient(error, axis=1)), 1e-12)
    reach = (constant + slope * np.asarray(g))[:, None]
    inside = np.minimum(np.abs(error) + half, reach) - np.maximum(np.abs(error) - half, -reach)
    weight = np.clip(inside / (2 * half), 0, 1) / tilts
    return weight, weight
