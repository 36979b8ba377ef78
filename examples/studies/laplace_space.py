"""What the races share: a fit of the demo or of real quartz, and plain Laplace coordinates of its posterior."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import pendel
from pendel.datasets import example
from pendel.experiment.select import drop_poor_frames
from pendel.infer.maximum.map import MapFit
from pendel.infer.maximum.objective import differentiable
from pendel.infer.target import Target
from pendel.model import data_sets
from pendel.run.scan import tilt_moves
from pendel.run.settings import parse_frames

QUARTZ = Path(__file__).resolve().parents[3] / "shared" / "data" / "quartz"
SPREAD_WIDTH = 0.3  # standard deviation of the log of a spread
KINDS = {
    "coordinates": ("displacement",),
    "log strains": ("log_strain",),
    "errors": ("a", "b", "nu"),
    "scales": ("log_scale",),
    "thickness, taper": ("log_thickness", "log_taper"),
    "tilts": ("tilt",),
    "spreads": ("scale_spread", "tilt_spread", "thickness_spread", "thickness_jump", "taper_spread", "taper_jump"),
}


def fitted(data: str, frames: str, tilts: int) -> tuple[Target, MapFit, np.ndarray]:
    """The target of `robust` on "demo" or "quartz", its MAP, and the goniometer angles of the frames [deg]."""
    if data == "demo":
        crystal, rows = pendel.read_crystal(example().structure), pendel.read_pets(example().data)
        experiment = drop_poor_frames(pendel.select(pendel.thin(rows, parse_frames(frames))), 1)
        plan = pendel.make_plan(crystal, experiment, tilts=tilts, thickness_max=2000.0)
    else:
        rows = pendel.thin(pendel.read_pets(QUARTZ / "quartz.cif_pets"), parse_frames(frames))
        experiment = drop_poor_frames(pendel.select(rows, "klar", rsg=0.9, dsg=0.0015), 1)
        crystal = pendel.read_crystal(QUARTZ / "quartz_dynamical.cif")
        plan = pendel.make_plan(crystal, experiment, g_max=2.0, sg_max=0.01, tilts=tilts, thickness_max=3000.0)
    sets = data_sets([experiment], [plan])
    target = pendel.make_target(pendel.load_model("robust"), crystal, sets, intensities=(experiment.intensity,))
    start = pendel.find_start(crystal, sets).values[0]
    known = {site.name for site in target.layout.sites}
    start = {name: value for name, value in start.items() if name in known}
    fit = pendel.fit_map(target, start=start, moves=tilt_moves(sets))
    print(f"{len(experiment.frame_id)} frames, {len(experiment.hkl)} measurements: {fit.message}", flush=True)
    return target, fit, np.asarray(experiment.alpha)


@dataclasses.dataclass(frozen=True)
class LaplaceSpace:
    """y = (y_z, y_s) with z = MAP + L y_z and log spreads = those of MAP + 0.3 y_s; L L^T is the Laplace covariance."""

    size: int
    potential: Callable  # y -> -log p(y | observations) but for a constant
    values: Callable  # y -> constrained values by site


def laplace_space(target: Target, fit: MapFit) -> LaplaceSpace:
    """Coordinates of all latent sites around a maximum."""
    target = differentiable(target, "reverse")
    centre = jnp.asarray(fit.unconstrained)
    middle, unravel = ravel_pytree({name: jnp.log(jnp.asarray(value)) for name, value in fit.spreads.items()})

    def unconstrained(y):
        z = centre + fit.root.forth(y[: len(centre)])
        return {**target.layout.split(z), **unravel(middle + SPREAD_WIDTH * y[len(centre) :])}

    return LaplaceSpace(
        size=len(centre) + len(middle),
        potential=lambda y: target.negative_log_density(unconstrained(y)),
        values=lambda y: target.full.constrain_values(unconstrained(y)),
    )


def least_effective(draws: dict[str, np.ndarray]) -> dict[str, float]:
    """Smallest bulk effective sample size of the numbers of every kind; draws are [chain draw ...]."""
    tree = az.from_dict({"posterior": {name: np.asarray(value) for name, value in draws.items()}})
    sizes = az.ess(tree, method="bulk")
    return {kind: min(float(np.min(sizes[n].values)) for n in names if n in draws) for kind, names in KINDS.items()}


def deviations(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Standard deviations of the numbers of every kind, those of spreads of their logarithms; draws lead."""
    found = {}
    for kind, names in KINDS.items():
        values = [np.asarray(draws[n]).reshape(len(draws[n]), -1) for n in names if n in draws]
        values = [np.log(x) if kind == "spreads" else x for x in values]
        found[kind] = np.concatenate([x.std(axis=0) for x in values])
    return found


def constrained(space: LaplaceSpace, points: jax.Array) -> dict[str, np.ndarray]:
    """Site values of many points [draws n]."""
    return jax.tree.map(np.asarray, jax.jit(lambda y: jax.lax.map(space.values, y))(points))
