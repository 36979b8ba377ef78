"""The two hands of a crystal: making the other one, and recognising two structures that are each other's inverse."""

from dataclasses import replace

import gemmi
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.crystal import symmetry
from pendel.crystal.atom import Atom
from pendel.crystal.cell import direct_matrix
from pendel.crystal.restraints import Restraint, atoms_of, with_atoms
from pendel.crystal.structure import Crystal, is_centrosymmetric
from pendel.crystal.tabulated import tabulated

SAME_SITE = 0.3  # Å, between a structure and the inverse of another that is its other hand
EQUAL_FIT = 1e-6  # Å a site; a smaller difference between two distances is rounding
GRID = 12  # origin shifts that a space group allows, other than along polar axes, are multiples of 1/12
NEIGHBOURS = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3), axis=-1).reshape(-1, 3)


def invert(crystal: Crystal) -> Crystal:
    """The opposite hand in the standard setting of the enantiomorphic space group (P 32 2 1 becomes P 31 2 1).

    x' = c - x with the origin shift c that the group needs, e.g. (1/2, 0, 0) in I 41. An operation (R, t) becomes
    (R, c - R c - t). Reflection h of the result has the amplitude of -h of `crystal`. In a space group or setting that
    is not tabulated, c is zero. A crystal with inversion centres that is tabulated comes back as it is. Hydrogen keeps
    its sites, no groups.

    Source: the table of gemmi (after the computational crystallography toolbox cctbx), `SpaceGroup.change_of_hand_op`.
    """
    rotations, translations = np.asarray(crystal.rotations), np.asarray(crystal.translations)
    known = tabulated(rotations, translations)
    name = f"{crystal.name} inverted"
    if known is not None and known.is_centrosymmetric():
        return replace(crystal, name=name)
    shift = np.zeros(3) if known is None else np.array(known.change_of_hand_op().tran) / gemmi.Op.DEN
    turned = np.mod(shift - rotations @ shift - translations, 1.0)
    partner = tabulated(rotations, turned)
    symbol = crystal.spacegroup
    if partner is not None and (known is None or partner.xhm() != known.xhm()):
        symbol = partner.xhm()
    return replace(
        crystal,
        name=name,
        spacegroup=symbol,
        fract=shift - np.asarray(crystal.fract),
        translations=turned,
        hydrogen=(),
        cloud=None if crystal.cloud is None else -np.asarray(crystal.cloud),
        restraints=_inverted_restraints(
            crystal, np.round(shift - rotations @ shift - translations - turned).astype(int)
        ),
    )


def _inverted_restraints(crystal: Crystal, cells: Int[Array, "ops 3"]) -> tuple[Restraint, ...]:
    """The restraints of the other hand: the atom at R x + t + n becomes that at R (c - x) + (c - R c - t) - n.

    cells: whole cells between c - R c - t and the translations of the other hand.
    """

    def turned(atom: Atom) -> Atom:
        a, b, c = (cells[atom.operation] - np.array(atom.shift)).tolist()
        return Atom(atom.site, atom.operation, (a, b, c))

    return tuple(
        with_atoms(restraint, {atom: turned(atom) for atom in atoms_of(restraint)}) for restraint in crystal.restraints
    )


def are_opposite_hands(one: Crystal, other: Crystal) -> bool:
    """Whether `one` agrees with the inverse of `other` within 0.3 Å at every site, and better than with `other` itself.

    Sites that both have are compared by label, after the origin shift that the space group allows and that suits best.
    Hydrogen does not count where there are other atoms: torsions of methyl groups, and which hydrogen has which label,
    differ between fits. Polar structures that are nearly centrosymmetric agree with both hands of the other; then the
    closer one counts.
    """
    if is_centrosymmetric(one):
        return False
    turned, straight = _distances(one, invert(other)), _distances(one, other)
    if turned is None or max(turned) > SAME_SITE:
        return False
    return straight is None or bool(np.mean(turned) < np.mean(straight) - EQUAL_FIT)


def _distances(one: Crystal, other: Crystal) -> Float[np.ndarray, " sites"] | None:
    """Distance [Å] of every compared site to the nearest image of that site of the other crystal, at the best origin.

    None in different space groups or without a label that both have.
    """
    shared = [site for site, label in enumerate(one.labels) if label in other.labels]
    if other.spacegroup.replace(" ", "") != one.spacegroup.replace(" ", "") or not shared:
        return None
    direct = np.asarray(direct_matrix(one.cell))
    rotations = np.asarray(one.rotations)
    compared = [site for site in shared if one.elements[site] != "H"] or shared
    same = [other.labels.index(one.labels[site]) for site in compared]
    sites, turned = np.asarray(one.fract)[compared], np.asarray(other.fract)[same]
    images = np.einsum("oij,sj->soi", rotations, turned) + np.asarray(one.translations)
    polar = symmetry.polar_directions(rotations, direct)
    floating = np.linalg.inv(direct) @ polar.T @ polar @ direct  # projects a fractional shift on the polar directions
    candidates = [
        _nearest(sites, images + fixed + shift, direct, floating)
        for fixed in _fixed_shifts(rotations, np.asarray(one.translations), floating)
        for shift in _floating_shifts(sites[0] - images[0] - fixed, floating)
    ]
    return min(candidates, key=np.max)


def _nearest(sites, images, direct, floating):
    """Distances [Å, sites] to the nearest images after their mean difference along the polar directions is removed."""
    for _ in range(2):  # the second time with the origin that the first one found
        differences = sites[:, None] - images
        differences -= np.round(differences)
        lengths = np.linalg.norm(differences @ direct.T, axis=-1)
        nearest = np.take_along_axis(differences, np.argmin(lengths, axis=1)[:, None, None], axis=1)[:, 0]
        images = images + floating @ np.mean(nearest, axis=0)
    return np.min(lengths, axis=1)


def _fixed_shifts(rotations, translations, floating):
    """Origin shifts in twelfths [shifts 3] that carry the operations onto themselves, without those that float.

    A shift t is allowed if R t - t is a translation of the lattice, centring included, for every rotation R.
    """
    lattice = translations[np.all(rotations == np.eye(3, dtype=int), axis=(1, 2))]
    shifts = np.stack(np.meshgrid(*[np.arange(GRID) / GRID] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts = shifts[np.max(np.abs(shifts @ floating.T), axis=1) < 1e-6]
    for rotation in np.unique(rotations, axis=0):
        moved = shifts @ rotation.T - shifts
        residual = moved[:, None] - lattice
        residual -= np.round(residual)
        shifts = shifts[np.any(np.max(np.abs(residual), axis=2) < 1e-6, axis=1)]
    return shifts


def _floating_shifts(differences, floating):
    """Shifts along the polar directions [shifts 3] that bring some image of the first site onto that site."""
    if not floating.any():
        return np.zeros((1, 3))
    shifts = (differences[:, None] + NEIGHBOURS).reshape(-1, 3) @ floating.T
    return np.unique(np.round(shifts, 9), axis=0)
