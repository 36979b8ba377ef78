"""The `Plan`: everything about a simulation that stays fixed while parameters move."""

import dataclasses
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.simulate.beams import SegmentGroup, weak_beams

# Elements of the matrices of a chunk, which bounds the memory of their tangents. Four times as many take three times
# the memory and no less time (albite, urea).
MATRIX_NUMBERS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What a plan is made with: the arguments of `make_plan` with numbers for what follows from the data."""

    g_max: float  # Å⁻¹
    sg_max: float = 0.0  # Å⁻¹; not used where `beam_error` chooses the beams
    tilts: int
    thickness_max: float  # Å
    dtype: str = "float32"
    form_factor_table: str = "lobato"  # or "peng"
    mosaicity: float = 0.0  # deg, expected spread of the orientation; 0: the plan is for none
    nodes_across: int = 2  # of the spread across the path of the sweep, for every tilt
    beam_error: float | None = None  # R of amplitudes; None where sg_max chooses the beams
    folded_sg_max: float = 0.0  # Å⁻¹; where sg_max chooses, beams between both are folded in


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["groups", "support_hkl", "support_form_factor", "wavelength", "same_as", "semi_angle", "wanted"],
    meta_fields=[
        "measurements",
        "frames",
        "geometry",
        "beyond",
        "box",
        "mode",
        "max_steps",
        "is_absorbing",
        "absorption_steps",
        "centre",
        "settings",
        "mesh",
        "matrix_numbers",
    ],
)
@dataclasses.dataclass(frozen=True)
class Plan:
    """Beams, tilts, padding and precision of a simulation; a pytree that models pass on to the simulator."""

    groups: tuple[SegmentGroup, ...]
    support_hkl: Int[Array, "g 3"]  # Friedel-unique reflections whose U_g is needed
    support_form_factor: Float[Array, "sites g"]  # [Å]
    same_as: Int[Array, " measurements"]  # the first measurement of the same hkl in the same frame
    semi_angle: Float[Array, " frames"]  # half the sweep, or semi-angle of the precession cone [deg]
    measurements: int
    frames: int
    geometry: str  # "rotation" or "precession"
    beyond: int  # tilts beyond each end of a sweep, for mosaicity or for reflections integrated beyond it
    wavelength: Float[Array, ""] | float  # Å
    box: tuple[int, int, int]  # shape of the box of all differences of beams
    mode: str  # "forward" (jax.jvp) or "reverse" (jax.grad)
    max_steps: int
    centre: tuple[float, float, float] | None  # fractional coordinates of an inversion centre; there all U_g are real
    settings: PlanSettings  # that it was made with
    mesh: Mesh | None = None  # of devices over which the segments are spread, see `shard_plan`
    matrix_numbers: int = MATRIX_NUMBERS  # elements of the matrices of segments handled together
    wanted: Bool[Array, " frames"] | None = None  # frames whose intensities matter; None for all
    is_absorbing: bool = False  # whether absorption matters in the structure the plan was made for, see `absorbs`
    absorption_steps: int = 0  # steps beyond `max_steps` that strong absorption may take

    @property
    def is_mosaic(self) -> bool:
        """Whether there are tilts for a spread of the orientation."""
        return self.settings.mosaicity > 0

    @property
    def tilts_of_each(self) -> int:
        """How many orientations of the crystal are simulated for one tilt: the nodes across its path, 1 without."""
        return self.settings.nodes_across if self.is_mosaic else 1

    @property
    def dtype(self) -> str:
        """Precision of the propagator."""
        return self.settings.dtype

    def with_mode(self, mode: str) -> "Plan":
        """The same plan for `jax.grad` ("reverse", as plans are made) or for `jax.jvp` and `jax.jacfwd` ("forward")."""
        return dataclasses.replace(self, mode=mode)

    def with_wanted(self, frames: Bool[Array, " frames"]) -> "Plan":
        """The same plan, which takes no trouble over other frames: their intensities mean nothing."""
        return dataclasses.replace(self, wanted=frames)


def only_frames(plan: Plan, wanted: Bool[np.ndarray, " frames"]) -> Plan:
    """The plan without the segments of unwanted frames, whose intensities become zero; the order stays."""
    groups = []
    for group in plan.groups:
        keep = np.flatnonzero(wanted[np.asarray(group.frame)])
        if len(keep):
            groups.append(jax.tree.map(lambda x, keep=keep: np.asarray(x)[keep], group))
    return dataclasses.replace(plan, groups=tuple(groups))


def chunk_size(group: SegmentGroup, plan: Plan) -> int:
    """Segments handled together, so that memory stays bounded."""
    return max(1, plan.matrix_numbers // matrix_elements(group))


def matrix_elements(group: SegmentGroup) -> int:
    """Elements of the structure matrix of one segment, and of the two matrices that fold weak beams into it."""
    beams = group.hkl.shape[1]
    return beams * (beams + 2 * weak_beams(group))
