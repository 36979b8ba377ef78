"""What a refinement starts from: its settings, the structure, and the measurements that count."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Bool

from pendel.constants import Array, InputError
from pendel.crystal import Crystal, make_crystal
from pendel.experiment import Experiment, drop_poor_frames, select, split, thin
from pendel.io.cif import read_crystal
from pendel.io.pets import read_pets
from pendel.profile import CURVED, SHAPES

CHOICES = {
    "infer": ("map", "svi", "nuts", "mclmc", "smc"),
    "select": ("nearest", "klar"),
    "cell": ("header", "structure", "ub"),
    "geometry": (None, "rotation", "precession"),
    "thickness": (None, *CURVED, *SHAPES),
}
SLICE = re.compile(r"^(-?\d*)(?::(-?\d*))?(?::(-?\d*))?$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a user can set; None means derived from the data."""

    model: str = "robust"
    thickness: str | None = None  # "taper", "step", "single", "wedge", "lens", "cylinder": see `pendel.profile`
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One structure and the crystals measured of it.

    `experiments`: the run's own selection; `rows`: all rows of the same frames, for other selections; `used`: True
    for measurements in the fit, False for those held out, or None without a hold-out.
    """

    crystal: Crystal
    experiments: tuple[Experiment, ...]
    rows: tuple[Experiment, ...]
    used: tuple[Bool[Array, "reflections"], ...] | None
    notes: tuple[str, ...]


def read_problem(structure: Path, data: Sequence[Path], settings: Settings) -> Problem:
    """Read, check and select; raises InputError for anything that cannot be used. Writes nothing."""
    check_settings(settings)
    if not data or len({Path(path).resolve() for path in data}) < len(data):
        raise InputError(
            found=f"{len(data)} data files, one of them twice" if data else "no data file",
            expected="one or several different .cif_pets files",
            do="name each data set once",
        )
    crystal = read_crystal(structure, hydrogen=settings.hydrogen)
    notes = list(crystal.notes)
    rows = [thin(read_rows(path, crystal, settings), parse_frames(settings.frames)) for path in data]
    names = [measured.name for measured in rows]
    rows = [  # files of one name in different folders
        dataclasses.replace(measured, name=f"{name} ({number + 1})") if names.count(name) > 1 else measured
        for number, (name, measured) in enumerate(zip(names, rows, strict=True))
    ]
    rule = cast("Literal['nearest', 'klar']", settings.select)
    chosen = [drop_poor_frames(select(measured, rule, rsg=settings.rsg, dsg=settings.dsg), 1) for measured in rows]
    for experiment in chosen:
        notes += [note for note in experiment.notes if note not in notes]
    used = None
    if settings.holdout > 0:
        hkl = np.concatenate([experiment.hkl for experiment in chosen])
        used = tuple(split(experiment, settings.holdout, settings.seed, hkl=hkl) for experiment in chosen)
    return Problem(
        crystal=with_cell(crystal, rows[0].cell),
        experiments=tuple(chosen),
        rows=tuple(rows),
        used=used,
        notes=tuple(notes),
    )


def read_rows(path: Path, crystal: Crystal, settings: Settings) -> Experiment:
    """All rows of one data file, read as the settings say; they must have passed `check_settings`."""
    return read_pets(
        path,
        cell=cast("Literal['header', 'structure', 'ub']", settings.cell),
        structure_cell=crystal.cell,
        geometry=cast("Literal['rotation', 'precession'] | None", settings.geometry),
        energy_ev=settings.energy_ev,
    )


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


def with_cell(crystal: Crystal, cell: tuple[float, float, float, float, float, float]) -> Crystal:
    """The crystal in another cell, that of the first data file: same fractional coordinates and U_ij."""
    if np.allclose(crystal.cell, cell, rtol=1e-9):
        return crystal
    return make_crystal(
        name=crystal.name,
        cell=cell,
        spacegroup=crystal.spacegroup,
        rotations=crystal.rotations,
        translations=crystal.translations,
        labels=crystal.labels,
        elements=crystal.elements,
        fract=crystal.fract,
        u_aniso=crystal.u_aniso,
        occupancy=crystal.occupancy,
        isotropic=crystal.isotropic,
        notes=crystal.notes,
    )
