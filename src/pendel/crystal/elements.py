"""What says whether two atoms can be bonded: covalent radii, and which elements are metals."""

import gemmi
import numpy as np
from jaxtyping import Bool, Float

from pendel.base import Array


def covalent_radii(elements: tuple[str, ...]) -> Float[Array, " sites"]:
    """Covalent radius [Å] of each element symbol.

    Source: Cordero et al. (2008), Dalton Trans., 2832, table 2 (H to Cm), as tabulated in the library gemmi.

    >>> covalent_radii(("Si", "O")).round(2).tolist()
    [1.11, 0.66]
    """
    return np.array([gemmi.Element(element).covalent_r for element in elements], dtype=float)


def are_metals(elements: tuple[str, ...]) -> Bool[Array, " sites"]:
    """Whether each element is a metal, by gemmi's table; B, Si, As and Te are not."""
    return np.array([gemmi.Element(element).is_metal for element in elements], dtype=bool)
