"""Everything a user can set."""

import dataclasses
import re

import numpy as np

from pendel.base import InputError
from pendel.model.thickness_prior import FAMILIES

CHOICES = {
    "infer": ("map", "svi", "nuts", "mclmc", "smc"),
    "select": ("nearest", "klar"),
    "cell": ("header", "structure", "ub"),
    "geometry": (None, "rotation", "precession"),
    "thickness": (None, *FAMILIES),
}


SLICE = re.compile(r"^(-?\d*)(?::(-?\d*))?(?::(-?\d*))?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a user can set; None means derived from the data."""

    model: str = "robust"
    thickness: str | None = None  # a name in `pendel.model.thickness_prior.FAMILIES`
    infer: str = "svi"  # or "map", "nuts", "mclmc", "smc"
    select: str = "nearest"  # or "klar"
    rsg: float = 0.9
    dsg: float = 0.0015  # Å⁻¹
    g_max: float | None = None  # Å⁻¹
    sg_max: float | None = None  # Å⁻¹
    tilts: int | None = None
    frames: str = ":"
    cell: str = "header"  # or "structure", "ub"
    geometry: str | None = None  # "rotation" or "precession"
    energy_ev: float | None = None
    hydrogen: bool = False
    memory: float | None = None  # GB
    holdout: float = 0.0
    guides: int = 1  # of SVI, each from a seed of its own; the one with the best bound is kept
    seed: int = 0


def check_settings(settings: Settings) -> None:
    """Raises InputError for a value that no data could make sensible."""
    for name, allowed in CHOICES.items():
        value = getattr(settings, name)
        if value not in allowed:
            words = [word for word in allowed if word]
            raise InputError(
                found=f"--{name} {value}",
                expected=" or ".join(words),
                do=f"change --{name}",
            )
    positive = {"--g-max": settings.g_max, "--sg-max": settings.sg_max, "--tilts": settings.tilts}
    positive |= {"--memory": settings.memory}
    positive |= {"--rsg": settings.rsg, "--energy-ev": settings.energy_ev}
    for option, value in positive.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(found=f"{option} {value}", expected="a positive number", do=f"change {option}")
    if not 0 <= settings.holdout < 0.9:
        raise InputError(
            found=f"--holdout {settings.holdout}", expected="a fraction, 0 to 0.9", do="change --holdout, e.g. 0.1"
        )
    if settings.guides < 1:
        raise InputError(found=f"--guides {settings.guides}", expected="a whole number from 1", do="change --guides")
    if settings.seed < 0:
        raise InputError(found=f"--seed {settings.seed}", expected="a whole number from 0", do="change --seed")
    parse_frames(settings.frames)


def parse_frames(text: str) -> slice:
    """The slice a user writes as start:stop:step, in Python's meaning.

    >>> parse_frames("::3"), parse_frames("10:20")
    (slice(None, None, 3), slice(10, 20, None))
    """
    match = SLICE.match(text.strip())
    parts = [int(part) if part not in (None, "", "-") else None for part in match.groups()] if match else [0]
    if match is None or ":" not in text or (len(parts) == 3 and parts[2] == 0):
        raise InputError(found=f"--frames {text!r}", expected="start:stop:step", do="write e.g. --frames ::3")
    return slice(*parts)
