"""What is known of a molecule before the measurement, as records named after the cards of SHELXL.

A restraint says that some numbers are near zero: a distance minus its target, a difference of two displacement
tensors. `pendel.crystal.residuals` calculates them, `pendel.model.restrain` makes normal priors of them. Atoms may be
symmetry images. A crystal carries its restraints in `Crystal.restraints`.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from pendel.crystal.atom import Atom

type Pair = tuple[Atom, Atom]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """DFIX and DANG: every distance is near `distance`; with `at_least`, only a smaller one is unlikely."""

    card: str  # "DFIX" or "DANG"
    pairs: tuple[Pair, ...]
    distance: float  # Å
    sd: float  # Å
    at_least: bool = False


@dataclass(frozen=True, kw_only=True)
class SameDistances:
    """SADI: all distances are near one another; the difference of two of them has the standard deviation `sd`."""

    card: str = "SADI"
    pairs: tuple[Pair, ...]
    sd: float  # Å


@dataclass(frozen=True, kw_only=True)
class Plane:
    """FLAT: the atoms, four or more, are near the plane that fits them best."""

    card: str = "FLAT"
    atoms: tuple[Atom, ...]
    sd: float  # Å


@dataclass(frozen=True, kw_only=True)
class SimilarTensors:
    """SIMU: the displacement tensors of the two atoms of each pair are alike, component by component."""

    card: str = "SIMU"
    pairs: tuple[Pair, ...]
    sds: tuple[float, ...]  # Å², one for each pair


@dataclass(frozen=True, kw_only=True)
class RigidBonds:
    """RIGU: the two atoms of each pair move alike along the line that joins them, and with it."""

    card: str = "RIGU"
    pairs: tuple[Pair, ...]
    sds: tuple[float, ...]  # Å², one for each pair


@dataclass(frozen=True, kw_only=True)
class NearlyIsotropic:
    """ISOR: the displacement tensor of each atom is near a sphere."""

    card: str = "ISOR"
    atoms: tuple[Atom, ...]
    sds: tuple[float, ...]  # Å², one for each atom


type Restraint = Distance | SameDistances | Plane | SimilarTensors | RigidBonds | NearlyIsotropic


def atoms_of(restraint: Restraint) -> tuple[Atom, ...]:
    """Every atom that a restraint names, pair after pair."""
    if isinstance(restraint, Plane | NearlyIsotropic):
        return restraint.atoms
    return tuple(atom for pair in restraint.pairs for atom in pair)


def with_atoms(restraint: Restraint, changed: dict[Atom, Atom]) -> Restraint:
    """The restraint with other atoms in place of its own."""
    new: dict[str, Any] = {}
    if isinstance(restraint, Plane | NearlyIsotropic):
        new["atoms"] = tuple(changed[atom] for atom in restraint.atoms)
    else:
        new["pairs"] = tuple((changed[first], changed[second]) for first, second in restraint.pairs)
    return replace(restraint, **new)


def check_restraint(restraint: Restraint) -> str:
    """What is wrong with a restraint in a few words, empty if nothing is."""
    values = {entry.name: getattr(restraint, entry.name) for entry in fields(restraint)}
    deviations = values.get("sds", (values.get("sd"),))
    if not all(value > 0 for value in deviations):
        return "a standard deviation that is not above zero"
    if values.get("distance", 1.0) <= 0:
        return "a distance that is not above zero"
    smallest = {Plane: 4, NearlyIsotropic: 1, SameDistances: 2}.get(type(restraint), 1)
    count = len(values.get("pairs", values.get("atoms", ())))
    if count < smallest:
        return f"{count} {'atoms' if 'atoms' in values else 'pairs of atoms'} where {smallest} or more are needed"
    if any(first == second for first, second in values.get("pairs", ())):
        return "an atom paired with itself"
    return ""
