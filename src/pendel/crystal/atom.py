"""One atom of the crystal: a site of the asymmetric unit and the operation that makes the atom from it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Atom:
    """The atom at R x + t + shift: x a site's coordinates, R and t of one operation of the crystal, whole cells."""

    site: int
    operation: int
    shift: tuple[int, int, int]
