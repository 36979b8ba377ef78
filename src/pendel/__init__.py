"""pendel: Bayesian refinement of crystal structures from three-dimensional electron diffraction.

Files to objects (`read_crystal`, `read_pets`, `select`), objects to intensities (`make_plan`, `simulate_intensities`),
a statistical model (`load_model`), inference (`find_start`, `fit_map`, `fit_svi`,
`sample_nuts`), or all of it at once (`refine`).
"""

import importlib
import importlib.metadata
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # as PLACES says
    from pendel.check.synthetic import Imperfections as Imperfections
    from pendel.check.synthetic import simulate_files as simulate_files
    from pendel.constants import wavelength as wavelength
    from pendel.crystal.hand import invert as invert
    from pendel.crystal.structure import Crystal as Crystal
    from pendel.experiment.equivalents import with_equivalents as with_equivalents
    from pendel.experiment.frames import Experiment as Experiment
    from pendel.experiment.select import select as select
    from pendel.experiment.select import split as split
    from pendel.experiment.select import thin as thin
    from pendel.failures import InputError as InputError
    from pendel.files.cif import read_crystal as read_crystal
    from pendel.files.pets import read_pets as read_pets
    from pendel.folder.posterior_file import Posterior as Posterior
    from pendel.infer.chains.mclmc import sample_mclmc as sample_mclmc
    from pendel.infer.chains.nuts import Sampled as Sampled
    from pendel.infer.chains.nuts import sample_nuts as sample_nuts
    from pendel.infer.chains.smc import Tempered as Tempered
    from pendel.infer.chains.smc import sample_smc as sample_smc
    from pendel.infer.guide.svi import SviFit as SviFit
    from pendel.infer.guide.svi import fit_svi as fit_svi
    from pendel.infer.maximum.map import MapFit as MapFit
    from pendel.infer.maximum.map import fit_map as fit_map
    from pendel.infer.maximum.map import laplace_draws as laplace_draws
    from pendel.infer.target import Target as Target
    from pendel.infer.target import make_target as make_target
    from pendel.judge.agreement import agreement as agreement
    from pendel.model.dataset import DataSet as DataSet
    from pendel.model.dataset import data_sets as data_sets
    from pendel.model.load import load_model as load_model
    from pendel.refinement import Outcome as Outcome
    from pendel.refinement import refine as refine
    from pendel.run.scan import find_start as find_start
    from pendel.run.settings import Settings as Settings
    from pendel.simulate import Illumination as Illumination
    from pendel.simulate import Plan as Plan
    from pendel.simulate import make_plan as make_plan
    from pendel.simulate import simulate_intensities as simulate_intensities
    from pendel.simulate import thickness_table as thickness_table

if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_enable_x64", True)
else:  # JAX reads it when it is imported
    os.environ["JAX_ENABLE_X64"] = "1"

# Where the public names live: they are imported when they are first used, because all of them take seconds.
PLACES = {
    "pendel.check.synthetic": ("Imperfections", "simulate_files"),
    "pendel.constants": ("wavelength",),
    "pendel.crystal.hand": ("invert",),
    "pendel.crystal.structure": ("Crystal",),
    "pendel.experiment.equivalents": ("with_equivalents",),
    "pendel.experiment.frames": ("Experiment",),
    "pendel.experiment.select": ("select", "split", "thin"),
    "pendel.failures": ("InputError",),
    "pendel.files.cif": ("read_crystal",),
    "pendel.files.pets": ("read_pets",),
    "pendel.folder.posterior_file": ("Posterior",),
    "pendel.infer.chains.mclmc": ("sample_mclmc",),
    "pendel.infer.chains.nuts": ("Sampled", "sample_nuts"),
    "pendel.infer.chains.smc": ("Tempered", "sample_smc"),
    "pendel.infer.guide.svi": ("SviFit", "fit_svi"),
    "pendel.infer.maximum.map": ("MapFit", "fit_map", "laplace_draws"),
    "pendel.infer.target": ("Target", "make_target"),
    "pendel.judge.agreement": ("agreement",),
    "pendel.model.dataset": ("DataSet", "data_sets"),
    "pendel.model.load": ("load_model",),
    "pendel.refinement": ("Outcome", "refine"),
    "pendel.run.scan": ("find_start",),
    "pendel.run.settings": ("Settings",),
    "pendel.simulate": ("Illumination", "Plan", "make_plan", "simulate_intensities", "thickness_table"),
}
HOME = {name: module for module, names in PLACES.items() for name in names}
__all__ = sorted(HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported now and then kept."""
    if name == "__version__":
        return importlib.metadata.version("pendel")
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(HOME[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
