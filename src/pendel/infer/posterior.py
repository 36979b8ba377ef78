"""From draws to a posterior file: what the model derives from every draw, and one ArviZ DataTree of it all."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset
from numpyro import handlers

from pendel.constants import Array
from pendel.infer.layout import fixed_values

CHUNK = 8  # draws per compiled call: progress and Ctrl-C between them

type Draws = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a model says at every draw; arrays have the draws on the leading axis."""

    deterministic: dict[str, np.ndarray]
    log_likelihood: dict[str, np.ndarray]  # one value per observation of each observed site
    replicated: dict[str, np.ndarray]  # observations drawn anew
    scale: dict[str, np.ndarray]  # of the observations' error distribution
    log_density: np.ndarray  # joint log density of the constrained sites and the observations


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Draws and everything about them, in the schema of ArviZ 1.x."""

    data: xr.DataTree

    def save(self, path: Path) -> None:
        """Write NetCDF; the file appears complete or not at all. Raises OSError when it cannot be written."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.data.to_netcdf(temporary, engine="h5netcdf")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> "Posterior":
        """Read a file written by `save` into memory."""
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            return Posterior(tree.load())


def predict(
    model: Callable,
    args: tuple,
    draws: Draws,
    *,
    intensities: tuple[Array, ...],
    key: Array,
    progress: Callable | None = None,
) -> Predicted:
    """Run the model at every draw of its latent sites.

    Args:
        model: called as model(*args, intensities=...); without a mask, so that left-out observations are judged too.
        draws: constrained values of the latent sites, draws leading; spreads that MAP fixes may be missing.
        intensities: the observations.
        key: for the replicated observations.
        progress: called as progress(stage, step, total, info).
    """
    kwargs = {"intensities": intensities}
    fixed = fixed_values(model, args, kwargs)
    count = len(next(iter(draws.values())))
    keys = jax.random.split(key, count)
    size = min(CHUNK, count)
    parts = []
    for first in range(0, count, size):
        rows = np.minimum(np.arange(first, first + size), count - 1)  # the last chunk repeats its last draw
        chunk = {name: jnp.asarray(values)[rows] for name, values in draws.items()}
        parts.append(jax.tree.map(np.asarray, _predict_chunk(model, args, kwargs, fixed, keys[rows], chunk)))
        if progress is not None:
            progress("predict", min(first + size, count), count, {})
    return Predicted(**jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts))


@partial(jax.jit, static_argnums=0)
def _predict_chunk(model, args, kwargs, fixed, keys, chunk):
    """The fields of `Predicted` for a few draws, one after the other."""

    def one(item):
        key, draw = item
        sites = _trace(model, args, kwargs, {**fixed, **draw}, key)
        samples = [site for site in sites.values() if site["type"] == "sample"]
        observed = {site["name"]: site for site in samples if site["is_observed"]}
        terms = [jnp.sum(site["fn"].log_prob(site["value"])) for site in samples]
        return {
            "deterministic": _deterministic(sites),
            "log_likelihood": {name: site["fn"].log_prob(site["value"]) for name, site in observed.items()},
            "replicated": {name: site["fn"].sample(key) for name, site in observed.items()},
            "scale": {name: _scale(site) for name, site in observed.items()},
            "log_density": sum(terms, jnp.zeros(())),
        }

    return jax.lax.map(one, (keys, chunk))


def derive(model: Callable, args: tuple, draws: Draws, *, leave_out: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Deterministic sites at every draw but those whose name begins like one in `leave_out`.

    What only those left out need is not computed, so that thousands of draws cost little.
    """
    fixed = fixed_values(model, args, {})
    values = {name: jnp.asarray(value) for name, value in draws.items()}
    return jax.tree.map(np.asarray, _derive(model, leave_out, args, fixed, values))


@partial(jax.jit, static_argnums=(0, 1))
def _derive(model, leave_out, args, fixed, draws):
    def one(draw):
        sites = _trace(model, args, {}, {**fixed, **draw}, jax.random.key(0))
        return {name: x for name, x in _deterministic(sites).items() if not name.startswith(leave_out)}

    return jax.vmap(one)(draws)


def prior_draws(
    model: Callable, args: tuple, *, key: Array, draws: int, leave_out: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Latent and deterministic sites drawn from the prior, but those whose name begins like one in `leave_out`."""
    return jax.tree.map(np.asarray, _draw_prior(model, leave_out, args, jax.random.split(key, draws)))


@partial(jax.jit, static_argnums=(0, 1))
def _draw_prior(model, leave_out, args, keys):
    def one(key):
        sites = _trace(model, args, {}, {}, key)
        latent = {name: site["value"] for name, site in sites.items() if site["type"] == "sample"}
        found = {**latent, **_deterministic(sites)}
        return {name: x for name, x in found.items() if not name.startswith(leave_out)}

    return jax.vmap(one)(keys)


def to_datatree(
    groups: Mapping[str, Mapping[str, Array]],
    *,
    dims: Mapping[str, list[str]],
    coords: Mapping[str, Any],
    labels: Mapping[str, tuple[str, Array]],
    rows: Mapping[str, Mapping[str, Array]] | None = None,
    attributes: Mapping[str, str | int | float] | None = None,
    chains: Mapping[str, int] | None = None,
) -> xr.DataTree:
    """A DataTree in the ArviZ 1.x schema.

    Args:
        groups: arrays of every group; draws lead, except in groups whose name ends in "data".
        dims: names of the axes of every variable behind the draws.
        coords: values of the axes. labels: further coordinates, name -> (axis, values).
        rows: for some groups, the positions they hold along some axes, e.g. {"log_likelihood": {"draw": ...}}.
        attributes: of the whole tree.
        chains: of the groups whose draws are several chains one after the other; one where not given.
    """
    datasets = {}
    for group, variables in groups.items():
        own = {axis: np.asarray(positions) for axis, positions in (rows or {}).get(group, {}).items()}
        local: dict[str, Any] = {axis: np.asarray(x)[own[axis]] if axis in own else x for axis, x in coords.items()}
        constant = group.endswith("data")
        count = (chains or {}).get(group, 1)
        arrays = {name: np.asarray(x) if constant else by_chain(x, count) for name, x in variables.items()}
        if "draw" in own:
            local["draw"] = own["draw"]
        dataset = dict_to_dataset(
            arrays,
            dims={name: list(dims[name]) for name in arrays if name in dims},
            coords=local,
            sample_dims=[] if constant else None,
        )
        extra = {
            name: (axis, np.asarray(values)[own[axis]] if axis in own else values)
            for name, (axis, values) in labels.items()
            if axis in dataset.dims
        }
        datasets[group] = dataset.assign_coords(extra)
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs.update(attributes or {})
    return tree


def by_chain(draws: Array, chains: int) -> np.ndarray:
    """Draws of several chains, one after the other on the leading axis, as [chain draw ...]."""
    draws = np.asarray(draws)
    return draws.reshape(chains, len(draws) // chains, *draws.shape[1:])


def _trace(model: Callable, args: tuple, kwargs: dict, values: Draws, key: Array) -> dict[str, dict]:
    substituted = handlers.substitute(
        handlers.seed(model, jnp.asarray(key)), data={name: jnp.asarray(value) for name, value in values.items()}
    )
    return handlers.trace(substituted).get_trace(*args, **kwargs)


def _scale(site: dict) -> Array:
    """Scale of an observation's distribution, its standard deviation where it has none."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    scale = fn.scale if hasattr(fn, "scale") else jnp.sqrt(fn.variance)
    return jnp.broadcast_to(scale, jnp.shape(site["value"]))


def _deterministic(sites: Mapping[str, dict]) -> dict[str, Array]:
    return {name: jnp.asarray(site["value"]) for name, site in sites.items() if site["type"] == "deterministic"}
