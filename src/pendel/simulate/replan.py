"""A plan for other measurements or other tilts with everything that another plan was made with."""

import dataclasses

import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.simulate.plan import Plan, plan_with
from pendel.simulate.shard import shard_plan


def replan(crystal: Crystal, experiment: Experiment, plan: Plan, *, tilt: Float[Array, "frames 2"] | None) -> Plan:
    """A plan of `experiment` with the settings, the bound on memory, the mode and the devices of another plan.

    Args:
        tilt: frame tilts around which the beams are selected [deg]; None for the file's orientations.

    Raises InputError as `make_plan` and `shard_plan`.
    """
    found = plan_with(crystal, experiment, plan.settings, None if tilt is None else np.asarray(tilt))
    found = dataclasses.replace(found, mode=plan.mode, matrix_numbers=plan.matrix_numbers)
    return found if plan.mesh is None else shard_plan(found)
