"""The sites of the asymmetric unit as columns, before symmetry has been looked at."""

from dataclasses import dataclass

from jaxtyping import Float

from pendel.base import Array


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Sites of the asymmetric unit; of isotropic ones only U_eq counts. Occupancies are in (0, 1]."""

    labels: tuple[str, ...]
    elements: tuple[str, ...]
    fract: Float[Array, "sites 3"]
    u_aniso: Float[Array, "sites 3 3"]  # CIF U_ij, Å²
    occupancy: Float[Array, " sites"]
    isotropic: tuple[bool, ...]
    disorder: tuple[tuple[str, str], ...] = ()  # assembly and group of every site, or empty
    free_variable: tuple[int, ...] = ()  # that an occupancy follows, its complement if negative, 0: none; or empty
