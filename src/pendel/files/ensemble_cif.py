"""Posterior draws of a structure as the data blocks of one CIF: what a viewer overlays to show the uncertainty."""

import dataclasses
import os

import gemmi
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.refined import unrefined
from pendel.crystal.structure import Crystal
from pendel.files.numbers import set_item
from pendel.files.refined_cif import add_heading, add_structure, block_name
from pendel.files.whole_file import write_text

DRAWS = 20


def write_ensemble_cif(
    path: str | os.PathLike[str],
    crystal: Crystal,
    fract: Float[Array, "draws sites 3"],
    u_aniso: Float[Array, "draws sites 3 3"],
    occupancy: Float[Array, "draws sites"] | None = None,
    *,
    draws: int = DRAWS,
) -> None:
    """Write that many of the draws, evenly spaced, each as one data block that `read_crystal(path, block=...)` reads.

    The blocks are named NAME_draw_1, NAME_draw_2, ... after the crystal. Numbers have no standard uncertainties: the
    spread of the blocks is the uncertainty. Fewer draws than asked for are all written.

    Args:
        fract, u_aniso, occupancy: posterior draws of the fields of `crystal` (fractional, Å², 1). Without occupancies
            those of the crystal are written.

    Raises InputError when the file cannot be written.
    """
    rows = np.unique(np.linspace(0, len(fract) - 1, min(draws, len(fract))).round().astype(int))
    document = gemmi.cif.Document()
    for number, row in enumerate(rows):
        block = document.add_new_block(f"{block_name(crystal.name)}_draw_{number + 1}")
        drawn = dataclasses.replace(
            crystal,
            fract=np.asarray(fract[row]),
            u_aniso=np.asarray(u_aniso[row]),
            occupancy=crystal.occupancy if occupancy is None else np.asarray(occupancy[row]),
        )
        add_heading(block, drawn)
        set_item(block, "_refine_special_details", f"Draw {number + 1} of {len(rows)} from the posterior distribution.")
        add_structure(block, unrefined(drawn))
    write_text(path, document.as_string())
