"""pendel: Bayesian refinement of crystal structures from three-dimensional electron diffraction.

Files to objects (`read_crystal`, `read_pets`, `select`), objects to intensities (`make_plan`, `simulate_intensities`),
a statistical model (`load_model`), inference (`find_start`, `fit_map`, `fit_svi`,
`sample_nuts`), or all of it at once (`refine`).
"""

# ruff: noqa: E402, I001
import jax

jax.config.update("jax_enable_x64", True)  # before anything makes an array

from pendel.constants import InputError, wavelength
from pendel.crystal import Crystal, invert
from pendel.experiment import Experiment, select, split, thin
from pendel.io.cif import read_crystal
from pendel.io.pets import read_pets
from pendel.simulate import Plan, make_plan, simulate_intensities, thickness_table
from pendel.start import find_start
from pendel.load_model import load_model
from pendel.infer.map import MapFit, fit_map, laplace_draws
from pendel.infer.smc import Tempered, sample_smc
from pendel.infer.svi import SviFit, fit_svi
from pendel.infer.hmc import Sampled, sample_nuts
from pendel.infer.mclmc import sample_mclmc
from pendel.infer.posterior import Posterior
from pendel.report.diagnostics import agreement
from pendel.problem import Settings
from pendel.refine import Outcome, refine
from pendel.synthetic import Imperfections, simulate_files

__all__ = [
    "Crystal",
    "Experiment",
    "Imperfections",
    "InputError",
    "MapFit",
    "Outcome",
    "Plan",
    "Posterior",
    "Sampled",
    "Settings",
    "SviFit",
    "Tempered",
    "agreement",
    "find_start",
    "fit_map",
    "fit_svi",
    "invert",
    "laplace_draws",
    "load_model",
    "make_plan",
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
