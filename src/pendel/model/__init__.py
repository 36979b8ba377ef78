"""What a model file imports: blocks, errors, thickness families, and the simulator as an effect.

A model is a NumPyro program `model(crystal, datasets, *, intensities=None, mask=None)` with one `DataSet` for each
measured crystal; further keyword arguments are its options. The files in `models/` are the examples.
"""

from pendel.model.blocks import (
    observe,
    sample_absorption,
    sample_background,
    sample_errors,
    sample_frames,
    sample_mosaicity,
    sample_reflection_errors,
    sample_structure,
    simulate,
)
from pendel.model.dataset import DataSet, data_sets
from pendel.model.errors import gaussian, student_t, weighted_least_squares
from pendel.model.hydrogen import sample_hydrogen
from pendel.model.restrain import restrain
from pendel.model.simulation import simulated
from pendel.model.spread import Spread
from pendel.model.thickness_prior import Curve, Family, Number, sample_thickness
from pendel.simulate.illumination import Illumination

__all__ = [
    "Curve",
    "DataSet",
    "Family",
    "Illumination",
    "Number",
    "Spread",
    "data_sets",
    "gaussian",
    "observe",
    "restrain",
    "sample_absorption",
    "sample_background",
    "sample_errors",
    "sample_frames",
    "sample_hydrogen",
    "sample_mosaicity",
    "sample_reflection_errors",
    "sample_structure",
    "sample_thickness",
    "simulate",
    "simulated",
    "student_t",
    "weighted_least_squares",
]
