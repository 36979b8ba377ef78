"""The options of `pendel simulate`; without JAX, so that `--help` is quick."""

import dataclasses

from pendel.run.settings import Bounds, option

SG_MAX = 0.02  # Å⁻¹, finer than in a fit
COMMANDS = ("simulate",)


def at_least(smallest: float, unit: str) -> Bounds:
    """Bounds of a number that is `smallest` or more."""
    return Bounds(f"at least {smallest} ({unit})", lambda x: x >= smallest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imperfections:
    """What a simulated crystal and its measurement are like.

    The mean thickness [Å] is `thickness` in the middle of the tilt range and changes by the fraction `slope` per
    degree; so does the relative width. The background is subtracted again.
    """

    thickness: float = option(
        800.0, "mean thickness [Å] in the middle of the tilt range", bounds=at_least(1.0, "Å"), commands=COMMANDS
    )
    width: float = option(
        0.15,
        "relative standard deviation of the thickness",
        bounds=at_least(1e-6, "of the thickness"),
        commands=COMMANDS,
    )
    is_wedge: bool = option(False, "uniform between two thicknesses; else log-normal", name="wedge", commands=COMMANDS)
    slope: float = option(
        0.0, "relative change of thickness and width per degree", name="slope-per-degree", commands=COMMANDS
    )
    misorientation_deg: float = option(
        0.0,
        "of every frame, standard deviation [deg]",
        bounds=at_least(0.0, "degrees"),
        name="misorientation",
        commands=COMMANDS,
    )
    absorption: float = option(
        0.0,
        "strength of the thermal absorption; 1: all that is scattered thermally is lost",
        bounds=at_least(0.0, "no unit"),
        commands=COMMANDS,
    )
    mosaicity: float = option(
        0.0,
        "standard deviation of the orientation of blocks in the crystal [deg]",
        bounds=at_least(0.0, "degrees"),
        commands=COMMANDS,
    )
    model_error: float = option(
        0.0, "relative error that is no counting noise", bounds=at_least(0.0, "of I"), commands=COMMANDS
    )
    counts: float = option(1e5, "of the strongest reflection", bounds=at_least(1.0, "counts"), commands=COMMANDS)
    background: float = option(20.0, "counts under every reflection", bounds=at_least(0.0, "counts"), commands=COMMANDS)
