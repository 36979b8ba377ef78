"""Do the numbers of a data file agree with each other? Each check says what it found; gross disagreement is refused."""

import itertools
import re
from typing import cast

import gemmi
import numpy as np
from jaxtyping import Float

from pendel.base import Array, InputError
from pendel.crystal.cell import Cell, direct_matrix, reciprocal_matrix, volume

METRIC_NOTE, METRIC_LIMIT = 0.003, 0.05  # misfit of UB B^-1 from a rotation: noted above, refused above
CELL_NOTE, CELL_LIMIT = 0.01, 0.05  # strain between the structure's cell and the header's
ZONE_NOTE_DEG, ZONE_LIMIT_DEG = 0.05, 5.0  # zone axes of real files agree to 0.011 degrees
STEP_TOLERANCE = 0.1  # relative, between the alpha step and what the virtual-frame settings imply


def compare_cells(header: Cell, structure: Cell, name: str, notes: list[str]) -> None:
    """Note above 1 %, InputError above 5 %: the largest strain that turns one cell into the other."""
    strain = _strain(header, structure)
    found = f"{name}: header cell {_written(header)} and structure cell {_written(structure)} differ by {strain:.1%}"
    if strain > CELL_LIMIT:
        same, do = _other_setting(header, structure)
        raise InputError(found=found + same, expected=f"at most {CELL_LIMIT:.0%}", do=do)
    if strain > CELL_NOTE:
        notes.append(f"{found}; --cell chooses the one that counts")


def _strain(one: Cell, other: Cell) -> float:
    """The largest strain, without sign, that turns one cell into the other with a along a, b in the plane of a, b."""
    stretches = np.linalg.svd(direct_matrix(other) @ np.linalg.inv(direct_matrix(one)), compute_uv=False)
    return float(np.abs(stretches - 1).max())


def _other_setting(header: Cell, structure: Cell) -> tuple[str, str]:
    """How two cells that differ may belong together, and what to do about it, in words."""
    orders = list(itertools.permutations(range(3)))[1:]
    permuted: list[Cell] = [
        cast(Cell, (*(header[i] for i in order), *(header[3 + i] for i in order))) for order in orders
    ]
    strains = [_strain(cell, structure) for cell in permuted]
    transform = "transform the structure, with its symmetry and U, to the axes of the data, or index the data again"
    best = int(np.argmin(strains))
    if strains[best] < CELL_LIMIT:
        return (
            f", equal if a,b,c of the structure are {','.join('abc'[i] for i in orders[best])} of the data",
            transform,
        )
    if _strain(_reduced(header), _reduced(structure)) < CELL_LIMIT:
        return ", but their reduced cells agree: one lattice with two choices of axes", transform
    ratio = volume(structure) / volume(header)
    whole = max(round(ratio), round(1 / ratio))
    if 2 <= whole <= 4 and abs(max(ratio, 1 / ratio) / whole - 1) < CELL_LIMIT:
        larger = "structure" if ratio > 1 else "data"
        same = f", and the cell of the {larger} has {whole} times the volume of the other"
        return f"{same}: it is centred, or one of the two is a supercell", transform
    return "", "check that both files are of the same crystal, in the same setting of its axes"


def _reduced(cell: Cell) -> Cell:
    """The Niggli cell of the primitive lattice with these axes (Krivy & Gruber 1976, Acta Cryst. A32, 297)."""
    vector = gemmi.GruberVector(gemmi.UnitCell(*cell), "P")
    vector.niggli_reduce()
    return cast(Cell, tuple(vector.cell_parameters()))


def orientation_matrix(ub: Float[Array, "3 3"], cell: Cell, source: str, name: str, notes: list[str]) -> np.ndarray:
    """Matrix [Å⁻¹] with g = orientation hkl at zero angles: polar(UB B^-1) B of the cell, or UB for source `ub`.

    polar(M) is the rotation nearest to M in the Frobenius norm, from the singular value decomposition. The misfit is
    the largest |s - 1| of the singular values s of UB B^-1: noted above 0.3 %, InputError above 5 %.
    """
    reciprocal = reciprocal_matrix(cell)
    if np.linalg.cond(ub) > 1e4:
        raise InputError(
            found=f"{name}: the UB matrix is singular (determinant {np.linalg.det(ub):.3g} Å⁻³)",
            expected=f"columns a*, b*, c*, determinant about {np.linalg.det(reciprocal):.3g} Å⁻³",
            do="correct the nine _diffrn_orient_matrix_UB_ items",
        )
    left, stretches, right = np.linalg.svd(ub @ np.linalg.inv(reciprocal))
    if np.linalg.det(left @ right) < 0:
        raise InputError(
            found=f"{name}: the UB matrix has the negative determinant {np.linalg.det(ub):.3g} Å⁻³",
            expected="a right-handed set a*, b*, c*",
            do="correct the indexing, because with the wrong hand the enantiomer would be refined",
        )
    misfit = float(np.abs(stretches - 1).max())
    found = f"{name}: UB departs from a rotation of the {'header' if source == 'ub' else source} cell by {misfit:.2%}"
    if misfit > METRIC_LIMIT:
        factor = float(stretches.mean())
        raise InputError(
            found=f"{found} (UB B^-1 stretches by {', '.join(f'{stretch:.4g}' for stretch in stretches)})",
            expected=f"at most {METRIC_LIMIT:.0%}, UB in Å⁻¹ without 2 pi and without the wavelength",
            do=f"divide UB by {factor:.5g}" if np.ptp(stretches) < 0.1 * factor else "check the cell and its setting",
        )
    if misfit > METRIC_NOTE:
        used = "UB is used as it stands" if source == "ub" else "the nearest rotation is used with the cell's lengths"
        notes.append(f"{found}; {used} (--cell)")
    return np.array(ub) if source == "ub" else left @ right @ reciprocal


def zone_axis_misfit(rotated_ub: Float[Array, "frames 3 3"], uvw: Float[Array, "frames 3"]) -> Float[Array, "frames"]:
    """Angle [deg] between the direct-lattice direction [u v w] and the laboratory z axis; rotated_ub = R UB."""
    direct = np.linalg.inv(np.swapaxes(rotated_ub, 1, 2))
    axis = np.einsum("fij,fj->fi", direct, uvw)
    return np.degrees(np.arctan2(np.hypot(axis[:, 0], axis[:, 1]), axis[:, 2]))


def check_zone_axes(
    rotated_ub: Float[Array, "frames 3 3"],
    frame_id: Array,
    uvw: Float[Array, "frames 3"] | None,
    name: str,
    notes: list[str],
) -> None:
    """[u v w] must be parallel to (Rx(alpha) Ry(beta) UB)^T (0, 0, 1): noted above 0.05 deg, InputError above 5 deg."""
    if uvw is None or not (np.isfinite(uvw).all() and np.any(uvw != 0, axis=1).all()):
        notes.append(f"{name}: zone axes are not given for all frames; angles and UB are not checked against them")
        return
    misfit = zone_axis_misfit(rotated_ub, uvw)
    worst = int(np.argmax(misfit))
    found = f"{name}: the zone axis of frame {frame_id[worst]} is {misfit[worst]:.3g} deg from its angles and UB"
    if misfit[worst] > ZONE_LIMIT_DEG:
        raise InputError(
            found=found,
            expected=f"at most {ZONE_LIMIT_DEG} deg (real files: 0.011)",
            do="check alpha, beta and UB, which must describe the same setting of the crystal",
        )
    if misfit[worst] > ZONE_NOTE_DEG:
        notes.append(f"{found} (real files: below 0.011); orientations follow the angles and UB")


def check_virtual_frames(details: str, alpha: Array, semi_angle: Array, name: str, notes: list[str]) -> None:
    """Under continuous rotation the step of alpha is 2 * semi-angle * step_frames / merged_frames; noted if it is not.

    Some files state continuous rotation and are precession data.
    """
    merged = re.search(r"merged frames\s*:\s*(\d+)", details, flags=re.IGNORECASE)
    step = re.search(r"step between frames\s*:\s*(\d+)", details, flags=re.IGNORECASE)
    if merged is None or step is None or not int(merged[1]) or not int(step[1]) or len(alpha) < 2:
        return
    expected = 2 * float(np.median(semi_angle)) * int(step[1]) / int(merged[1])
    found = float(np.median(np.abs(np.diff(alpha))))
    if abs(found - expected) > STEP_TOLERANCE * expected:
        notes.append(
            f"{name}: alpha advances by {found:.3g} deg a frame, but {merged[1]} merged frames with step {step[1]} and "
            f"semi-angle {np.median(semi_angle):.3g} deg imply {expected:.3g} deg under continuous rotation; if these "
            "are precession data, give --geometry precession"
        )


def _written(cell: Cell) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in cell) + ")"
