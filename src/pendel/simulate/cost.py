"""What a plan will cost: beams, Chebyshev steps, memory and time, before anything is solved."""

import dataclasses
import os
import time
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pendel.base import InputError
from pendel.crystal.structure import Crystal
from pendel.experiment.equivalents import MOST
from pendel.simulate import Plan
from pendel.simulate.beams import weak_beams
from pendel.simulate.chebyshev import expansion_length
from pendel.simulate.coupling import largest_radius
from pendel.simulate.geometry import beam_axis_row
from pendel.simulate.plan import chunk_size, matrix_elements
from pendel.simulate.thickness import NODES

TANGENTS = 32  # of one site that inference pushes through a simulation together
FRAME_PARAMETERS = 6  # scale, two tilts, thickness, its taper, terraces
OTHER_GLOBALS = 8  # error model and means of the hierarchies
ROWS = 20  # for a unique reflection with an error of its own; 10 to 35 in real crystals
# A run up to the maximum takes RUN_SECONDS, most of them for compiling, and the time of FIT_SIMULATIONS, and of
# FOR_A_PARAMETER simulations more for each global. Runs of five crystals took 0.6 to 2.3 times that.
RUN_SECONDS, FIT_SIMULATIONS, FOR_A_PARAMETER = 180.0, 140.0, 0.5
MOSAIC = 2.6  # times as many simulations with a mosaicity: two nodes, and tilts beyond the ends of a sweep
BASE_BYTES = 6e8  # of Python, JAX and compiled programs, in one fit
RUN_BYTES = 2.2e9  # of all programs of a run beside that, and of the compiler
NOMINAL_THICKNESS = 800.0  # Å, as good a guess as any before a thickness is known
DRAWS = 40, 400  # of which intensities are calculated, at least and at most
DRAWS_OPERATIONS = 2e12  # what all of them together may cost
SHARE = 0.8  # of the machine's memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupCost:
    """One padded size of segments."""

    segments: int
    beams: int
    folded: int  # weak beams that act on the others by second order
    tilts: int
    radius: float  # R [rad/Å]
    steps: int  # of the Chebyshev expansion at the given thickness
    operations: float  # floating point operations of one simulation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one data set; of a run without what it takes whatever the data."""

    groups: tuple[GroupCost, ...]
    simulation_seconds: float
    fit_seconds: float
    fit_bytes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCost:
    """Cost of a run up to the maximum."""

    minutes: float
    gigabytes: float


def cost_of_run(costs: Sequence[Cost]) -> RunCost:
    """Cost of a run of these data sets on processors, within a factor of about two."""
    return RunCost(
        minutes=(RUN_SECONDS + sum(cost.fit_seconds for cost in costs)) / 60,
        gigabytes=(BASE_BYTES + RUN_BYTES + sum(cost.fit_bytes for cost in costs)) / 1e9,
    )


def estimate(crystal: Crystal, plan: Plan, thickness: float = NOMINAL_THICKNESS, *, is_mosaic: bool = False) -> Cost:
    """Beams, steps, memory and time of a data set at a thickness [Å].

    Args:
        is_mosaic: whether the run refines a mosaicity, for which its last plans have more tilts than this one.
    """
    row = beam_axis_row(jnp.zeros((plan.frames, 2)))
    radii = largest_radius(crystal, plan, row)
    groups = tuple(_group(group, radius, plan, thickness) for group, radius in zip(plan.groups, radii, strict=True))
    seconds = sum(group.operations / _speed(group, plan.dtype) for group in groups)
    parameters = len(crystal.position_basis) + len(crystal.adp_basis) + OTHER_GLOBALS
    more = MOSAIC if is_mosaic else 1.0
    return Cost(
        groups=groups,
        simulation_seconds=seconds,
        fit_seconds=more * seconds * (FIT_SIMULATIONS + FOR_A_PARAMETER * parameters),
        fit_bytes=more * (memory_bytes(crystal, plan) - BASE_BYTES),
    )


def operations(plan: Plan, thickness: float = NOMINAL_THICKNESS) -> float:
    """Floating point operations of one simulation at a thickness [Å], at most, by the plan's steps."""
    share = min(thickness / plan.settings.thickness_max, 1.0)
    return sum(_operations(group, plan, share * plan.max_steps) for group in plan.groups)


def affordable_draws(plans: Iterable[Plan]) -> int:
    """Draws at which intensities can be calculated in about a minute, within DRAWS."""
    return int(np.clip(DRAWS_OPERATIONS / sum(operations(plan) for plan in plans), *DRAWS))


def memory_bytes(crystal: Crystal, plan: Plan) -> float:
    """Peak of a fit: JAX, the Jacobian, and a chunk of segments with all tangents or what a gradient saves."""
    number = 4 if plan.dtype == "float32" else 8
    parts = 1 if plan.centre is not None and not plan.is_absorbing else 2
    largest_site = max(len(crystal.position_basis), len(crystal.adp_basis), FRAME_PARAMETERS)
    tangents = 1 + min(largest_site, TANGENTS)  # one site's at a time
    largest, saved = 0.0, 0.0
    for group in plan.groups:
        segments, beams, tilts = len(group.frame), group.hkl.shape[1], _tilts(group, plan)
        one = parts * beams**2 + 4 * beams * tilts  # matrix, diagonal, flux and two states
        sums = 8 * NODES * group.rows * tilts
        chunk = min(chunk_size(group, plan), segments)
        building = 4 * beams**2 + 2 * tangents * parts * beams * weak_beams(group)
        largest = max(largest, number * chunk * (tangents * (2 * one + sums) + building))
        saved += number * segments * (one + sums)
    passes = len(crystal.position_basis) + len(crystal.adp_basis) + OTHER_GLOBALS + FRAME_PARAMETERS
    passes += min(MOST, plan.measurements // ROWS)  # errors of reflections
    jacobian = 3 * 8 * passes * plan.measurements + tangents * 16 * float(np.prod(plan.box))
    return BASE_BYTES + max(largest, saved + largest / tangents) + jacobian


def within_memory(crystal: Crystal, plans: Sequence[Plan], gigabytes: float | None = None) -> tuple[Plan, ...]:
    """The plans with chunks of segments so small that a fit stays within memory.

    Args:
        gigabytes: of memory to use; four fifths of the machine's, or of its graphics card's, when not given.

    Raises:
        InputError: not even chunks of one segment fit.
    """
    limit = _machine_bytes() * SHARE if gigabytes is None else gigabytes * 1e9
    return tuple(_within(crystal, plan, limit) for plan in plans)


def _within(crystal: Crystal, plan: Plan, limit: float) -> Plan:
    beams = max(group.hkl.shape[1] for group in plan.groups)
    smallest = max(map(matrix_elements, plan.groups))
    while memory_bytes(crystal, plan) > limit and plan.matrix_numbers > smallest:
        plan = dataclasses.replace(plan, matrix_numbers=plan.matrix_numbers // 2)
    needed = memory_bytes(crystal, plan)
    if needed > limit:
        tilts = max(_tilts(group, plan) for group in plan.groups)
        raise InputError(
            found=f"{beams} beams at {tilts} tilts a segment and {NODES} thickness nodes need about "
            f"{needed / 1e9:.1f} GB one segment at a time",
            expected=f"at most {limit / 1e9:.1f} GB",
            do="lower --g-max or --sg-max, use fewer --frames, or raise --memory",
        )
    return plan


def _machine_bytes() -> float:
    """Memory of the device JAX works on: a graphics card's own, else the machine's."""
    of_card = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if of_card and "bytes_limit" in of_card:
        return float(of_card["bytes_limit"])
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return float("inf")
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _tilts(group, plan: Plan) -> int:
    """Columns of the state of a segment: its tilts, each at all nodes of a spread of the orientation."""
    return group.matrix.shape[1] * plan.tilts_of_each


def _group(group, radius: float, plan: Plan, thickness: float) -> GroupCost:
    segments, beams = group.hkl.shape[:2]
    tilts = _tilts(group, plan)
    steps = int(expansion_length(jnp.asarray(radius * thickness), plan.dtype))
    return GroupCost(
        segments=segments,
        beams=beams,
        folded=weak_beams(group),
        tilts=tilts,
        radius=radius,
        steps=steps,
        operations=_operations(group, plan, float(steps)),
    )


def _operations(group, plan: Plan, steps: float) -> float:
    segments, beams = group.hkl.shape[:2]
    return 8.0 * segments * beams**2 * (_tilts(group, plan) * steps + weak_beams(group))


def _speed(group: GroupCost, dtype: str) -> float:
    """Operations per second of this machine on products of the group's shape, measured."""
    count = max(1, min(group.segments, 20_000 // (group.beams * group.tilts)))
    matrix = jnp.ones((count, 2 * group.beams, group.beams), dtype) / group.beams
    state = jnp.ones((count, group.beams, 2 * group.tilts), dtype)

    @jax.jit
    def repeat(state):
        return jax.lax.fori_loop(0, 20, lambda _, x: (matrix @ x)[:, : group.beams], state)

    repeat(state).block_until_ready()
    began = time.perf_counter()
    repeat(state).block_until_ready()
    return 20 * 8.0 * group.beams**2 * group.tilts * count / (time.perf_counter() - began)
