"""The refined structure as a CIF, with data names of the IUCr's core and electron diffraction dictionaries."""

import os
import re
from collections.abc import Sequence
from importlib import metadata

import gemmi
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import volume
from pendel.crystal.refined import Refined
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.files.cif_facts import Summary, add_measurement, add_results
from pendel.files.cif_flags import hydrogen_treatment
from pendel.files.cif_geometry import add_geometry
from pendel.files.cif_reflections import Calculated, add_reflections
from pendel.files.cif_restraints import add_restraints
from pendel.files.cif_structure import add_structure as add_structure
from pendel.files.numbers import CELL_ITEMS, set_item
from pendel.files.whole_file import write_text

DICTIONARIES = {
    "CIF_CORE": "https://raw.githubusercontent.com/COMCIFS/cif_core/main/cif_core.dic",
    "CIF_ED": "https://raw.githubusercontent.com/COMCIFS/cif_ed/main/cif_ed.dic",
}  # that define every data name written, by title
RESTRAINTS_DICTIONARY = {
    "CIF_RSTR": "https://www.iucr.org/resources/cif/dictionaries/browse/cif_core_restraints",
}  # and those of restraints
SCATTERING_SOURCE = "Lobato & Van Dyck (2014), Acta Cryst. A70, 636-649"  # what refinements calculate with


def write_refined_cif(
    path: str | os.PathLike[str],
    refined: Refined,
    *,
    experiments: Sequence[Experiment],
    summary: Summary,
    fract_draws: Float[Array, "draws sites 3"] | None = None,
    calculated: Calculated | None = None,
) -> None:
    """Write a refined structure and the facts of its refinement; nothing is taken over from an input file.

    summary: the contents of summary.json; what it does not have is left out. fract_draws: coordinates of posterior
    draws; with them, bonds and angles are written. calculated: with it, the reflections are written.
    The file is replaced whole. Raises InputError when it cannot be written.
    """
    crystal = refined.crystal
    document = gemmi.cif.Document()
    block = document.add_new_block(block_name(crystal.name))
    add_heading(block, crystal)
    add_measurement(block, experiments)
    add_results(block, summary, crystal.notes, experiments)
    treatment = hydrogen_treatment(crystal)
    if treatment is not None:
        set_item(block, "_refine_ls_hydrogen_treatment", treatment)
    add_structure(block, refined, SCATTERING_SOURCE)
    add_restraints(block, crystal)
    if fract_draws is not None:
        add_geometry(block, crystal, fract_draws)
    if calculated is not None:
        add_reflections(block, experiments, calculated)
    write_text(path, document.as_string())


def add_heading(block: gemmi.cif.Block, crystal: Crystal) -> None:
    """Add what wrote the block, the dictionaries of its data names, and the cell."""
    version = metadata.version("pendel")
    set_item(block, "_audit_creation_method", f"pendel {version}")
    loop = block.init_loop("_audit_conform_", ["dict_name", "dict_location"])
    used = DICTIONARIES | (RESTRAINTS_DICTIONARY if crystal.restraints else {})
    for title, location in used.items():
        loop.add_row([title, location])
    for name, value in zip(CELL_ITEMS, crystal.cell, strict=True):
        set_item(block, f"_cell_{name}", f"{value:.8g}")
    set_item(block, "_cell_volume", f"{volume(crystal.cell):.3f}")


def block_name(name: str) -> str:
    """A data block name from a file's or a crystal's name: its stem, only letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.partition(".")[0]).strip("_") or "crystal"
