"""Over what the data reduction integrated an intensity: the sweep of its frame, or a range of excitation errors."""

import re

import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array, InputError

CHOICES = ("auto", "sweep", "curve")
# Times RC width + mosaicity |g|. PETS2 lists a reflection in virtual frames up to 4 of these from their sweep (albite,
# CsPbBr3, urea; about 8 in quartz). Left-out and held-out measurements decided between 4 and 8, docs/validation.md.
TIMES = 8.0
USUAL_WIDTH, USUAL_MOSAICITY = 0.0015, 0.1  # Å⁻¹ and deg, where a file states no RC width
FEWEST_PAIRS, EQUAL = 10, 0.9  # rows of one hkl in neighbouring frames, and the share of them with equal intensities


def integrated_range(
    details: str,
    rows: tuple[Int[Array, " rows"], Int[Array, "rows 3"], Float[Array, " rows"]],
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
    cannot be the integral over the sweep of either.

    Args:
        details: free text of the data reduction.
        rows: frame, hkl and intensity of every row.
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
    stated = re.search(r"integrated over excitation errors below ([\d.eE+-]+) \+ ([\d.eE+-]+) \|g\|", details)
    if stated:  # as `write_pets` says it
        return float(stated[1]), float(stated[2])
    if integration == "auto" and not is_repeated(*rows):
        return None
    spread = (mosaicity or 0.0) if width else USUAL_MOSAICITY
    found = TIMES * (width or USUAL_WIDTH), TIMES * float(np.radians(spread))
    why = "the same intensities stand in neighbouring frames" if integration == "auto" else "as --integration says"
    over = f"rocking curves, |S_g| < {found[0]:.4f} + {found[1]:.4f} |g| Å⁻¹, and not over the sweep of a frame"
    notes.append(f"{name}: {why}, so intensities are taken as integrated over {over}")
    return found


def is_repeated(frame: Int[Array, " rows"], hkl: Int[Array, "rows 3"], intensity: Float[Array, " rows"]) -> bool:
    """Whether rows of one hkl in neighbouring frames have the same intensity.

    >>> frame, hkl = np.repeat(np.arange(12), 2), np.tile([[1, 0, 0], [2, 0, 0]], (12, 1))
    >>> is_repeated(frame, hkl, np.tile([3.0, 7.5], 12)), is_repeated(frame, hkl, np.arange(24.0))
    (True, False)
    """
    order = np.lexsort((frame, *np.asarray(hkl).T))
    frame, hkl, intensity = np.asarray(frame)[order], np.asarray(hkl)[order], np.asarray(intensity)[order]
    pairs = np.all(hkl[1:] == hkl[:-1], axis=1) & (np.diff(frame) == 1)
    equal = pairs & (np.diff(intensity) == 0)
    return bool(np.sum(pairs) >= FEWEST_PAIRS and np.sum(equal) >= EQUAL * np.sum(pairs))
