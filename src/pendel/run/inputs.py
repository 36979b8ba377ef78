"""What a refinement starts from: its settings, the structure, and the measurements that count."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Bool

from pendel.base import Array, InputError
from pendel.crystal.recognise import with_hydrogen
from pendel.crystal.structure import Crystal, make_crystal, sites_of
from pendel.experiment.belonging import belonging_notes
from pendel.experiment.equivalents import with_equivalents
from pendel.experiment.frames import Experiment
from pendel.experiment.select import drop_poor_frames, select, split, thin, without_frames
from pendel.files.cif import read_crystal
from pendel.files.pets import read_pets
from pendel.run.settings import Settings, check_settings, of_data, parse_frames, parse_numbers


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
    check_settings(settings, len(data))
    if not data or len({Path(path).resolve() for path in data}) < len(data):
        raise InputError(
            found=f"one of {len(data)} data files is named twice" if data else "no data file is named",
            expected="one or several different .cif_pets files",
            do="name each data set once",
        )
    crystal = read_crystal(structure, block=settings.block, hydrogen=settings.hydrogen != "off")
    notes = list(crystal.notes)
    rows = [
        _chosen_frames(read_rows(path, crystal, settings, number), settings, number) for number, path in enumerate(data)
    ]
    names = [measured.name for measured in rows]
    rows = [  # files of one name in different folders
        dataclasses.replace(measured, name=f"{name} ({number + 1})") if names.count(name) > 1 else measured
        for number, (name, measured) in enumerate(zip(names, rows, strict=True))
    ]
    rule = cast("Literal['nearest', 'klar']", settings.select)
    chosen = [
        drop_poor_frames(select(measured, rule, rsg=settings.rsg, dsg=settings.dsg, minimum_observed=1), 1)
        for measured in rows
    ]
    for experiment in chosen:
        notes += [note for note in experiment.notes if note not in notes]
    crystal = with_adps(with_cell(crystal, rows[0].cell), settings.adps)
    for experiment in chosen:
        notes += belonging_notes(crystal, experiment)
    if settings.hydrogen != "off":
        crystal = with_hydrogen(crystal, settings.hydrogen)
        notes += [note for note in crystal.notes if note not in notes]
    chosen = with_equivalents(crystal, chosen)
    used = None
    if settings.holdout > 0:
        hkl = np.concatenate([experiment.hkl for experiment in chosen])
        used = tuple(split(experiment, settings.holdout, settings.seed, hkl=hkl) for experiment in chosen)
    return Problem(
        crystal=crystal,
        experiments=chosen,
        rows=tuple(rows),
        used=used,
        notes=tuple(notes),
    )


def read_rows(path: Path, crystal: Crystal, settings: Settings, number: int = 0) -> Experiment:
    """All rows of one data file, the `number`-th from 0, read as the settings say, which `check_settings` accepts."""
    return read_pets(
        path,
        cell=cast("Literal['header', 'structure', 'ub']", of_data(settings.cell, number)),
        structure_cell=crystal.cell,
        geometry=cast("Literal['rotation', 'precession'] | None", of_data(settings.geometry, number)),
        integration=cast(str, of_data(settings.integration, number)),
        energy_ev=of_data(settings.energy_ev, number),
    )


def _chosen_frames(measured: Experiment, settings: Settings, number: int) -> Experiment:
    """Every n-th frame of one data set, without those that are left out."""
    left_out = parse_numbers(of_data(settings.leave_out, number) or "")
    unknown = left_out - set(np.asarray(measured.frame_id).tolist())
    if unknown:
        raise InputError(
            found=f"--leave-out names {', '.join(map(str, sorted(unknown)[:10]))}, no frames of {measured.name}",
            expected=f"numbers of its frames, {np.min(measured.frame_id)} to {np.max(measured.frame_id)}",
            do="take the numbers of the file, which the report has too; with several data sets give one value for each",
        )
    return without_frames(thin(measured, parse_frames(of_data(settings.frames, number))), left_out)


def with_cell(crystal: Crystal, cell: tuple[float, float, float, float, float, float]) -> Crystal:
    """The crystal in another cell, that of the first data file: same fractional coordinates and U_ij."""
    if np.allclose(crystal.cell, cell, rtol=1e-9):
        return crystal
    return _made_anew(dataclasses.replace(crystal, cell=cell))


def with_adps(crystal: Crystal, kind: str) -> Crystal:
    """The crystal with isotropic ("iso") or anisotropic ("aniso") displacements of all atoms but hydrogen, or as it is.

    A tensor becomes the sphere of the same U_eq, a sphere stays one to start from.
    """
    if kind == "keep":
        return crystal
    pairs = zip(crystal.elements, crystal.isotropic, strict=True)
    isotropic = tuple(own if element == "H" else kind == "iso" for element, own in pairs)
    return _made_anew(dataclasses.replace(crystal, isotropic=isotropic))


def _made_anew(crystal: Crystal) -> Crystal:
    """The crystal with the constraints of its fields, after some of them were changed."""
    made = make_crystal(
        name=crystal.name,
        cell=crystal.cell,
        spacegroup=crystal.spacegroup,
        rotations=crystal.rotations,
        translations=crystal.translations,
        sites=sites_of(crystal),
        notes=crystal.notes,
    )
    return dataclasses.replace(made, restraints=crystal.restraints)
