"""The refined structure as a CIF, with data names of the IUCr's core and electron diffraction dictionaries."""

import os
import re
from collections.abc import Sequence
from importlib import metadata

import gemmi
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.cell import volume
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.files.cif_facts import Facts, add_measurement, add_results
from pendel.files.cif_geometry import add_geometry
from pendel.files.cif_reflections import Calculated, add_reflections
from pendel.files.cif_restraints import add_restraints
from pendel.files.cif_structure import add_structure as add_structure
from pendel.files.numbers import set_item
from pendel.files.whole_file import write_text

DICTIONARIES = {
    "CIF_CORE": "https://raw.githubusercontent.com/COMCIFS/cif_core/main/cif_core.dic",
    "CIF_ED": "https://raw.githubusercontent.com/COMCIFS/cif_ed/main/cif_ed.dic",
}  # that define every data name written, by title
RESTRAINTS_DICTIONARY = {
    "CIF_RSTR": "https://www.iucr.org/resources/cif/dictionaries/browse/cif_core_restraints",
}  # and those of restraints
SCATTERING_SOURCE = "Lobato & Van Dyck (2014), Acta Cryst. A70, 636-649"  # what refinements calculate with
_CELL_ITEMS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")


def write_refined_cif(
    path: str | os.PathLike[str],
    crystal: Crystal,
    *,
    fract_su: Float[Array, "sites 3"] | None,
    u_aniso_su: Float[Array, "sites 3 3"] | None,
    experiments: Sequence[Experiment],
    facts: Facts,
    u_equivalent_su: Float[Array, "sites"] | None = None,
    occupancy_su: Float[Array, "sites"] | None = None,
    fract_draws: Float[Array, "draws sites 3"] | None = None,
    calculated: Calculated | None = None,
) -> None:
    """Write the structure in `crystal` and the facts of its refinement; nothing is taken over from an input file.

    su arrays: standard uncertainties of the fields of the same name (fractional, Å²); zero where symmetry or the
    refinement fixes a value, which is then written without one. u_equivalent_su: of U_eq; without it, it is propagated
    from u_aniso_su as if the six U_ij were independent. fract_draws: coordinates of posterior draws; with them, bonds
    and angles are written. calculated: with it, the reflections are written.
    facts: numbers of the refinement; what is not known is left out.
    The file is replaced whole. Raises InputError when it cannot be written.
    """
    document = gemmi.cif.Document()
    block = document.add_new_block(block_name(crystal.name))
    add_heading(block, crystal)
    add_measurement(block, experiments)
    add_results(block, facts, crystal.notes)
    add_structure(
        block,
        crystal,
        fract_su=fract_su,
        u_aniso_su=u_aniso_su,
        u_equivalent_su=u_equivalent_su,
        occupancy_su=occupancy_su,
        scattering_source=SCATTERING_SOURCE,
    )
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
    for name, value in zip(_CELL_ITEMS, crystal.cell, strict=True):
        set_item(block, f"_cell_{name}", f"{value:.8g}")
    set_item(block, "_cell_volume", f"{volume(crystal.cell):.3f}")


def block_name(name: str) -> str:
    """A data block name from a file's or a crystal's name: its stem, only letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.partition(".")[0]).strip("_") or "crystal"
