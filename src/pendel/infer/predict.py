"""From draws to a posterior file: what the model derives from every draw, and one ArviZ DataTree of it all."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from pendel.base import Array
from pendel.infer.target import is_measured, spread_values
from pendel.model.simulation import skipped

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
    fixed = spread_values(model, args, kwargs)
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
        observed = {site["name"]: site for site in samples if is_measured(site)}
        terms = [jnp.sum(site["fn"].log_prob(site["value"])) for site in samples]
        return {
            "deterministic": _deterministic(sites),
            "log_likelihood": {name: site["fn"].log_prob(site["value"]) for name, site in observed.items()},
            "replicated": {
                name: site["fn"].sample(jax.random.fold_in(key, number))
                for number, (name, site) in enumerate(observed.items())
            },
            "scale": {name: _scale(site) for name, site in observed.items()},
            "log_density": sum(terms, jnp.zeros(())),
        }

    return jax.lax.map(one, (keys, chunk))


def derive(model: Callable, args: tuple, draws: Draws, *, leave_out: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Deterministic sites at every draw but those whose name begins like one in `leave_out`.

    What only those left out need is not computed, so that thousands of draws cost little.
    """
    fixed = spread_values(model, args, {})
    values = {name: jnp.asarray(value) for name, value in draws.items()}
    return jax.tree.map(np.asarray, _derive(model, leave_out, args, fixed, values))


@partial(jax.jit, static_argnums=(0, 1))
def _derive(model, leave_out, args, fixed, draws):
    def one(draw):
        sites = _trace(skipped(model), args, {}, {**fixed, **draw}, jax.random.key(0))
        return {name: x for name, x in _deterministic(sites).items() if not name.startswith(leave_out)}

    return jax.vmap(one)(draws)


def log_prior(model: Callable, args: tuple, draws: Draws) -> dict[str, np.ndarray]:
    """Log density of the prior of every latent site at every draw [draws], summed over the numbers of the site.

    What a prior depends on has the values of the draw; nothing is simulated.
    """
    values = {name: jnp.asarray(value) for name, value in draws.items()}
    return jax.tree.map(np.asarray, _log_prior(model, args, spread_values(model, args, {}), values))


@partial(jax.jit, static_argnums=0)
def _log_prior(model, args, fixed, draws):
    def one(draw):
        sites = _trace(skipped(model), args, {}, {**fixed, **draw}, jax.random.key(0))
        latent = {name: site for name, site in sites.items() if site["type"] == "sample" and name in draws}
        return {name: jnp.sum(site["fn"].log_prob(site["value"])) for name, site in latent.items()}

    return jax.vmap(one)(draws)


def prior_draws(
    model: Callable, args: tuple, *, key: Array, draws: int, leave_out: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Latent and deterministic sites drawn from the prior, but those whose name begins like one in `leave_out`."""
    return jax.tree.map(np.asarray, _draw_prior(model, leave_out, args, jax.random.split(key, draws)))


@partial(jax.jit, static_argnums=(0, 1))
def _draw_prior(model, leave_out, args, keys):
    def one(key):
        sites = _trace(skipped(model), args, {}, {}, key)
        samples = {name: site for name, site in sites.items() if site["type"] == "sample"}
        latent = {name: site["value"] for name, site in samples.items() if not site["is_observed"]}
        found = {**latent, **_deterministic(sites)}
        return {name: x for name, x in found.items() if not name.startswith(leave_out)}

    return jax.vmap(one)(keys)


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
