"""pendel: Bayesian refinement of crystal structures from three-dimensional electron diffraction.

Files to objects (`read_crystal`, `read_pets`, `select`), objects to intensities (`make_plan`, `simulate_intensities`),
a statistical model (`load_model`), inference (`find_start`, `fit_map`, `fit_svi`,
`sample_nuts`), or all of it at once (`refine`).
"""

# ruff: noqa: E402, I001
import jax

jax.config.update("jax_enable_x64", True)  # before anything makes an array

from pendel.base import InputError
from pendel.constants import wavelength
from pendel.crystal.hand import invert
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.experiment.select import select, split, thin
from pendel.files.cif import read_crystal
from pendel.files.pets import read_pets
from pendel.simulate import Illumination, Plan, make_plan, simulate_intensities, thickness_table
from pendel.model.dataset import DataSet, data_sets
from pendel.run.scan import find_start
from pendel.model.load import load_model
from pendel.infer.target import Target, make_target
from pendel.infer.maximum.map import MapFit, fit_map, laplace_draws
from pendel.infer.chains.smc import Tempered, sample_smc
from pendel.infer.guide.svi import SviFit, fit_svi
from pendel.infer.chains.nuts import Sampled, sample_nuts
from pendel.infer.chains.mclmc import sample_mclmc
from pendel.folder.posterior_file import Posterior
from pendel.judge.agreement import agreement
from pendel.run.settings import Settings
from pendel.refine import Outcome, refine
from pendel.check.synthetic import Imperfections, simulate_files

__all__ = [
    "Crystal",
    "DataSet",
    "Experiment",
    "Illumination",
    "Imperfections",
    "InputError",
    "MapFit",
    "Outcome",
    "Plan",
    "Posterior",
    "Sampled",
    "Settings",
    "SviFit",
    "Target",
    "Tempered",
    "agreement",
    "data_sets",
    "find_start",
    "fit_map",
    "fit_svi",
    "invert",
    "laplace_draws",
    "load_model",
    "make_plan",
    "make_target",
    "read_crystal",
    "read_pets",
    "refine",
    "sample_mclmc",
    "sample_nuts",
    "sample_smc",
    "select",
    "simulate_files",
    "simulate_intensities",
    "split",
    "thickness_table",
    "thin",
    "wavelength",
]
