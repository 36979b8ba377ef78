"""The `DataSet`: one measured crystal as models and inference take it."""

import dataclasses
from collections.abc import Iterable
from functools import partial

import jax

from pendel.base import suffix
from pendel.experiment.frames import Experiment
from pendel.simulate import Plan


@partial(jax.tree_util.register_dataclass, data_fields=["experiment", "plan"], meta_fields=["number"])
@dataclasses.dataclass(frozen=True)
class DataSet:
    """The measurements of one crystal and the plan of their simulation; a pytree.

    `number`: its place among the data sets of a model, counted from 0; names of sites and plates follow from it.
    """

    experiment: Experiment
    plan: Plan
    number: int = 0

    @property
    def name(self) -> str:
        """Name of the measurements."""
        return self.experiment.name

    @property
    def suffix(self) -> str:
        """Ending of the names of this data set's sites: none for the first, then _2, _3 ..."""
        return suffix(self.number)

    @property
    def frames(self) -> str:
        """Name of the plate of frames."""
        return f"frames{self.suffix}"


def data_sets(experiments: Iterable[Experiment], plans: Iterable[Plan]) -> tuple[DataSet, ...]:
    """The data sets of a model, one for each experiment with its plan, numbered in their order."""
    pairs = enumerate(zip(experiments, plans, strict=True))
    return tuple(DataSet(experiment, plan, number) for number, (experiment, plan) in pairs)
