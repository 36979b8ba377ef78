"""A structure alone as a CIF: what a refinement can start from."""

import os

import gemmi

from pendel.crystal.refined import unrefined
from pendel.crystal.structure import Crystal
from pendel.files.cif_restraints import add_restraints
from pendel.files.refined_cif import add_heading, add_structure, block_name
from pendel.files.whole_file import write_text


def write_structure_cif(path: str | os.PathLike[str], crystal: Crystal) -> None:
    """Cell, symmetry and sites, without uncertainties; `read_crystal` reads them back.

    Raises InputError when the file cannot be written.
    """
    document = gemmi.cif.Document()
    block = document.add_new_block(block_name(crystal.name))
    add_heading(block, crystal)
    add_structure(block, unrefined(crystal))
    add_restraints(block, crystal)
    write_text(path, document.as_string())
