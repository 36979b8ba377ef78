"""A model with its data: the log density of its sites, cut where the model asks for its simulations.

A model is run through NumPyro's handlers. Its simulations (`pendel.model.simulation`) can be recorded, replayed or
skipped, so the prior costs no simulation, and parameters that reach no simulation are moved without one.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro import handlers
from numpyro.infer import init_to_mean

from pendel.base import Array, InputError
from pendel.infer.families import Family, family_of
from pendel.infer.layout import Layout, make_layout
from pendel.model.simulation import SIMULATION, replayed, skipped

type Values = Mapping[str, Array]
type Data = tuple[tuple, dict[str, Any]]  # arguments of a model


@partial(
    jax.tree_util.register_dataclass, data_fields=["parameters", "observed", "used"], meta_fields=["families", "counts"]
)
@dataclasses.dataclass(frozen=True)
class Prediction:
    """Parameters of every observation's distribution, all observed sites one after the other.

    `parameters`: rows as the site's family has them, zero below its last one; `used`: 1 where an observation counts, 0
    where it is masked; `families` and `counts`: of the sites.
    """

    parameters: Float[Array, "rows observations"]
    observed: Float[Array, " observations"]
    used: Float[Array, " observations"]
    families: tuple[Family, ...]
    counts: tuple[int, ...]

    def pointwise(self, parameters: Float[Array, "rows observations"] | None = None) -> Float[Array, " observations"]:
        """Log density of every observation, zero where it does not count; at other `parameters` when given."""
        parts = self._by_site(self.parameters if parameters is None else parameters, self.observed)
        return self.used * jnp.concatenate([family.log_density(own, value) for family, own, value in parts])

    def log_likelihood(self, parameters: Float[Array, "rows observations"] | None = None) -> Float[Array, ""]:
        """Sum of the log densities of the observations that count."""
        return jnp.sum(self.pointwise(parameters))

    def slope(self) -> Float[Array, "rows observations"]:
        """Derivative of the log likelihood by the parameters."""
        return jax.grad(self.log_likelihood)(self.parameters)

    def information(self, parameters: Float[Array, "rows observations"] | None = None) -> Float[Array, "rows rows obs"]:
        """Expected information of every observation on its parameters, zero where it does not count."""
        everything = self.parameters if parameters is None else parameters
        rows = len(everything)
        found = []
        for family, own, _ in self._by_site(everything, self.observed):
            more = (0, rows - family.rows)
            found.append(jnp.pad(family.information(own), (more, more, (0, 0))))
        return jnp.concatenate(found, axis=2) * self.used

    def _by_site(self, parameters, observed):
        edges = np.cumsum([0, *self.counts])
        slices = [slice(first, last) for first, last in itertools.pairwise(edges)]
        return [
            (family, parameters[: family.rows, own], observed[own])
            for family, own in zip(self.families, slices, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Target:
    """A model and its data as inference sees them.

    `layout`: latent sites without the spreads of hierarchies, as MAP takes them; `full`: with them; `spreads`: the
    values that the model names for MAP. `simulated`: sites that reach a simulation; `errors`: sites that change how
    observations scatter and nothing else; `integrated`: spreads that are estimated with their parameters
    integrated out. Methods take unconstrained values by site, those of spreads among them or
    constrained in `spreads`, and other `data` of the same shapes where they are given.
    """

    model: Callable
    data: Data
    layout: Layout
    full: Layout
    spreads: dict[str, Array]
    simulated: frozenset[str]
    errors: frozenset[str]
    integrated: frozenset[str] = frozenset()

    def log_prior(self, values: Values, spreads: Values | None = None, data: Data | None = None) -> Float[Array, ""]:
        """Log prior density of unconstrained values, with everything observed that belongs to no frame; no simulation.

        The Jacobian of the constraints is in it.
        """
        return self._log_prior(values, self._trace(values, spreads, data, skipped))

    def prior_sites(
        self, values: Values, spreads: Values | None = None, data: Data | None = None
    ) -> dict[str, dict[str, Any]]:
        """The sites of the model that count as prior, latent or observed, by name; no simulation."""
        return _priors(self._trace(values, spreads, data, skipped))

    def simulate(self, values: Values, spreads: Values | None = None, data: Data | None = None) -> dict[str, Any]:
        """Results of the model's simulations, by name."""
        trace = self._trace(values, spreads, data, lambda program: program)
        return {name: site["value"] for name, site in trace.items() if site["type"] == SIMULATION}

    def predict(
        self,
        values: Values,
        spreads: Values | None = None,
        data: Data | None = None,
        results: Mapping[str, Any] | None = None,
    ) -> tuple[Float[Array, ""], Prediction]:
        """Log prior density and prediction of the observations; simulates unless the `results` are known."""
        handler = (lambda program: program) if results is None else partial(replayed, results=results)
        trace = self._trace(values, spreads, data, handler)
        return self._log_prior(values, trace), prediction_of(trace)

    def negative_log_density(
        self, values: Values, spreads: Values | None = None, data: Data | None = None
    ) -> Float[Array, ""]:
        """-log p(values, observations) of unconstrained values."""
        log_prior, prediction = self.predict(values, spreads, data)
        return -(log_prior + prediction.log_likelihood())

    def with_data(self, data: Data) -> "Target":
        """The same target for other data of the same shapes."""
        return dataclasses.replace(self, data=data)

    def _trace(self, values, spreads, data, handler):
        constrained: Any = {**(spreads or {}), **self.full.constrain_values(values)}
        args, kwargs = self.data if data is None else data
        return handlers.trace(handler(handlers.substitute(self.model, data=constrained))).get_trace(*args, **kwargs)

    def _log_prior(self, values, trace):
        return sum(_log_priors(trace).values(), self.full.log_det_jacobian(values))


def make_target(model: Callable, /, *args: Any, **kwargs: Any) -> Target:
    """The target of model(*args, **kwargs), whatever the arguments are called.

    A latent site belongs to a frame when it stands in a plate whose name begins with "frames", or says so with
    `infer={"plate": name}`; it is a hierarchy's spread when it says `infer={"fixed_in_map": value}`. Observed sites of
    the measurements say `infer={"plate": name, "frame": frame of every observation}`; what is observed without a frame,
    a restraint or a `numpyro.factor`, counts as prior.

    Raises:
        InputError: a prior or an observed site without frames depends on a simulation, or the observations of a site
            have a joint distribution.
    """
    trace = _abstract_trace(model, args, kwargs)
    full = make_layout(trace, with_fixed=True)
    spreads: dict[str, Array] = dict(_spreads_of(trace))
    bare = Target(model, (args, kwargs), make_layout(trace, with_fixed=False), full, spreads, frozenset(), frozenset())
    reached, scatter, location, faulty = _dependences(bare)
    if np.any(faulty):
        name = list(_priors(trace))[int(np.argmax(faulty))]
        raise InputError(
            found=f"the observed site {name!r} has no frames and depends on a simulation",
            expected="the plate and the frame of every observation of an intensity",
            do='sample it with infer={"plate": name of the plate of frames, "frame": experiment.frame_index}',
        )
    names = [site.name for site in full.sites]
    simulated = frozenset(name for name, found in zip(names, reached, strict=True) if found)
    errors = frozenset(
        name for name, a, b in zip(names, scatter, location, strict=True) if a and not b and name not in simulated
    )
    integrated = frozenset(name for name in spreads if trace[name]["infer"].get("integrated"))
    return dataclasses.replace(bare, simulated=simulated, errors=errors, integrated=integrated)


def spread_values(model: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Array]:
    """The spreads of hierarchies that a model fixes in MAP, with the values it names."""
    return _spreads_of(_abstract_trace(model, args, kwargs))


def _spreads_of(trace: Mapping[str, dict]) -> dict[str, Array]:
    return {
        name: jnp.full(site["value"].shape, site["infer"]["fixed_in_map"])
        for name, site in trace.items()
        if site["type"] == "sample" and site["infer"].get("fixed_in_map") is not None
    }


def is_measured(site: Mapping[str, Any]) -> bool:
    """Whether a site of a trace holds measurements of frames."""
    return site["type"] == "sample" and site["is_observed"] and "frame" in site["infer"]


def _priors(trace: Mapping[str, dict]) -> dict[str, dict]:
    """Sites that belong to the prior, observed or not."""
    return {name: site for name, site in trace.items() if site["type"] == "sample" and not is_measured(site)}


def _log_priors(trace: Mapping[str, dict]) -> dict[str, Float[Array, ""]]:
    """Log density of every site that belongs to the prior."""
    return {name: jnp.sum(site["fn"].log_prob(site["value"])) for name, site in _priors(trace).items()}


def prediction_of(trace: Mapping[str, dict]) -> Prediction:
    """What a trace says about the distributions of its measurements."""
    parts, families, observed, used = [], [], [], []
    for site in trace.values():
        if not is_measured(site):
            continue
        fn, mask = unmasked(site["fn"])
        value = jnp.asarray(site["value"])
        if fn.event_dim:
            raise InputError(
                found=f"{type(fn).__name__} at the observed site {site['name']!r}",
                expected="a distribution of one value for every observation",
                do="use one such as Normal or StudentT, or make what correlates the observations a latent site",
            )
        families.append(family_of(fn))
        parts.append(families[-1].parameters(fn, value))
        observed.append(value)
        used.append(jnp.broadcast_to(jnp.asarray(mask, dtype=float), value.shape))
    if not parts:
        return Prediction(jnp.zeros((1, 0)), jnp.zeros(0), jnp.zeros(0), (), ())
    rows = max(len(part) for part in parts)
    padded = [jnp.pad(part, ((0, rows - len(part)), (0, 0))) for part in parts]
    counts = tuple(part.shape[1] for part in parts)
    joined = jnp.concatenate(padded, axis=1), jnp.concatenate(observed), jnp.concatenate(used)
    return Prediction(*joined, tuple(families), counts)


def prior_means(target: Target, spreads: Values) -> dict[str, Array]:
    """Constrained value of every latent site at the mean of its prior, given the spreads."""
    args, kwargs = target.data

    def mean(site):
        return spreads[site["name"]] if site["name"] in spreads else init_to_mean(site)

    central = handlers.substitute(handlers.seed(target.model, 0), substitute_fn=mean)
    trace = handlers.trace(skipped(central)).get_trace(*args, **kwargs)
    return {site.name: trace[site.name]["value"] for site in target.layout.sites}


def _abstract_trace(model: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, dict]:
    """A trace whose values are shapes; nothing is computed."""
    captured: dict[str, dict] = {}

    def run():
        program = skipped(handlers.seed(model, jax.random.key(0)))
        captured.update(handlers.trace(program).get_trace(*args, **kwargs))
        return 0

    jax.eval_shape(run)
    return captured


def _dependences(target: Target) -> tuple[Array, Array, Array, Array]:
    """Which sites reach a simulation, scatter or location of a measurement; which priors depend on a simulation.

    A site that is not a number makes everything not a number that depends on it.
    """
    sites, middle = target.full.sites, {site.name: jnp.zeros(site.shape) for site in target.full.sites}

    @jax.jit
    def probe(data):
        def one(flags):
            constrained = target.full.constrain_values(middle)
            doubtful: Any = {
                name: jnp.where(flag, jnp.nan, value)
                for flag, (name, value) in zip(flags, constrained.items(), strict=True)
            }
            program = skipped(handlers.substitute(target.model, data=doubtful))
            trace = handlers.trace(program).get_trace(*data[0], **data[1])
            asked = [(s["args"], s["kwargs"]) for s in trace.values() if s["type"] == SIMULATION]
            rows = jnp.isnan(prediction_of(trace).parameters)
            return _any_nan(asked), jnp.any(rows[1:]), jnp.any(rows[:1])

        def unknown(fill):
            found = _log_priors(target._trace(middle, None, data, partial(skipped, fill=fill)))
            return jnp.isnan(jnp.stack([jnp.zeros(()), *found.values()]))[1:]

        found = jax.vmap(one)(jnp.eye(len(sites), dtype=bool))
        # A share of all intensities, say, is not a number for zeros either; then ones tell.
        return *found, unknown(jnp.nan) & ~(unknown(0.0) & unknown(1.0))

    return jax.tree.map(np.asarray, probe(target.data))


def _any_nan(tree: Any) -> Array:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in leaves])) if leaves else jnp.zeros((), dtype=bool)


def unmasked(fn: Any) -> tuple[Any, Any]:
    """A distribution without the masks and expansions around it, and the product of the masks."""
    mask: Any = 1.0
    while isinstance(fn, dist.MaskedDistribution | dist.Independent | dist.ExpandedDistribution):
        mask = mask * fn._mask if isinstance(fn, dist.MaskedDistribution) else mask
        fn = fn.base_dist
    return fn, mask
