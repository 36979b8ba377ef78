"""Over what the data reduction integrated an intensity: the sweep of its frame, or a range of excitation errors."""

import re

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array, InputError
from pendel.experiment.frames import OBSERVED_SIGMA

CHOICES = ("auto", "sweep", "curve")
WRITTEN = "integrated over excitation errors below {} + {} |g|"  # what `write_pets` says of (p, q)
LARGEST = 10.0  # p [Å⁻¹] and q that make sense
WRITTEN_SWEEP = "integrated over the sweep of each frame"
# Times RC width + mosaicity |g|. PETS2 lists a reflection also in virtual frames whose sweep ends before it, in albite
# up to 4 of these before it. Left-out and held-out measurements decided between 4 and 8, docs/validation.md.
TIMES = 8.0
USUAL_WIDTH, USUAL_MOSAICITY = 0.0015, 0.1  # Å⁻¹ and deg, where a file states no RC width
FEWEST_PAIRS, EQUAL = 10, 0.9  # rows of one hkl in neighbouring frames, and the share of them with equal intensities


def integrated_range(
    details: str,
    rows: tuple[Int[Array, " rows"], Int[Array, "rows 3"], Float[Array, " rows"], Float[Array, " rows"]],
    *,
    is_rotation: bool,
    width: float | None,
    mosaicity: float | None,
    integration: str,
    name: str,
    notes: list[str],
) -> tuple[float, float] | None:
    """(p, q) where intensities are integrated over |S_g| < p + q |g| [Å⁻¹], None where over the sweep of their frame.

    In a continuous rotation with overlapping virtual frames, an intensity that stands unchanged in neighbouring frames
    cannot be the integral over the sweep of either; newer files also say so in words.

    Args:
        details: free text of the data reduction.
        rows: frame, hkl, intensity and sigma of every row.
        width, mosaicity: RC width [Å⁻¹] and mosaicity [deg] that the data reduction states.
        integration: "auto", or "sweep" or "curve" whatever the file looks like.
        notes: gets what was found.

    Raises InputError for an unknown choice, and for curves of precession data.
    """
    if integration not in CHOICES or (integration == "curve" and not is_rotation):
        raise InputError(
            found=f"{name}: integration {integration!r}" + ("" if is_rotation else " of precession data"),
            expected="auto, sweep or curve; in precession data every frame has the whole circle",
            do="change or leave out --integration",
        )
    if integration == "sweep" or not is_rotation:
        return None
    stated = _written(details)
    says_all = re.search(r"integrate intensity on all frames", details, flags=re.IGNORECASE)
    if integration == "auto" and (WRITTEN_SWEEP in details or not (stated or says_all or is_repeated(*rows))):
        return None
    if stated:
        found, why = stated, "as the file says"
    else:
        spread = (mosaicity or 0.0) if width else (mosaicity or USUAL_MOSAICITY)
        found = TIMES * (width or USUAL_WIDTH), TIMES * float(np.radians(spread))
        why = "the same intensities stand in neighbouring frames"
        if integration == "curve":
            why = "as --integration says"
        elif says_all:
            why = "the file says that intensities were integrated on all frames"
    over = f"rocking curves, |S_g| < {found[0]:.4f} + {found[1]:.4f} |g| Å⁻¹, and not over the sweep of a frame"
    notes.append(f"{name}: {why}, so intensities are taken as integrated over {over}")
    return found


def _written(details: str) -> tuple[float, float] | None:
    """(p, q) as `write_pets` says it; None where that is not there or no pair of sensible numbers."""
    line = re.search(re.escape(WRITTEN).replace(r"\{\}", r"(\S+)"), details)
    if line is None:
        return None
    constant, slope = gemmi.cif.as_number(line[1]), gemmi.cif.as_number(line[2])
    return (constant, slope) if 0 <= constant < LARGEST and 0 <= slope < LARGEST else None


def is_repeated(
    frame: Int[Array, " rows"],
    hkl: Int[Array, "rows 3"],
    intensity: Float[Array, " rows"],
    sigma: Float[Array, " rows"],
) -> bool:
    """Whether observed rows of one hkl in neighbouring frames have the same intensity.

    >>> frame, hkl = np.repeat(np.arange(12), 2), np.tile([[1, 0, 0], [2, 0, 0]], (12, 1))
    >>> sigma = np.full(24, 0.1)
    >>> is_repeated(frame, hkl, np.tile([3.0, 7.5], 12), sigma), is_repeated(frame, hkl, np.arange(24.0), sigma)
    (True, False)
    """
    order = np.lexsort((frame, *np.asarray(hkl).T))
    order = order[(np.asarray(intensity) > OBSERVED_SIGMA * np.asarray(sigma))[order]]
    frame, hkl, intensity = np.asarray(frame)[order], np.asarray(hkl)[order], np.asarray(intensity)[order]
    pairs = np.all(hkl[1:] == hkl[:-1], axis=1) & (np.diff(frame) == 1)
    equal = pairs & (np.diff(intensity) == 0)
    return bool(np.sum(pairs) >= FEWEST_PAIRS and np.sum(equal) >= EQUAL * np.sum(pairs))
