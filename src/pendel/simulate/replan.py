"""A plan for other measurements or other tilts with everything that another plan was made with."""

import dataclasses

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.simulate.plan import Plan
from pendel.simulate.planning import plan_with
from pendel.simulate.shard import shard_plan


def replan(crystal: Crystal, experiment: Experiment, plan: Plan, *, tilt: Float[Array, "frames 2"] | None) -> Plan:
    """A plan of `experiment` with what another plan was made with: settings, bound on memory, mode, devices, and
    whether absorption matters, which decides on the parameters of a model.

    Args:
        tilt: frame tilts around which the beams are selected [deg]; None for the file's orientations.

    Raises InputError as `make_plan` and `shard_plan`.
    """
    found = plan_with(crystal, experiment, plan.settings, None if tilt is None else np.asarray(tilt))
    same = {name: getattr(plan, name) for name in ("mode", "matrix_numbers", "is_absorbing")}
    found = dataclasses.replace(found, **same)
    return found if plan.mesh is None else shard_plan(found)
