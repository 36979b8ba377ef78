"""The density of a model with the simulation cut off: what is left is so cheap that it can be evaluated many times."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.constants import Array
from pendel.infer.cheap import split_computation
from pendel.infer.density import fisher_information, log_likelihood
from pendel.infer.layout import Layout
from pendel.infer.normal_matrix import sites_in_loops

SHARED, UNSEEN, OF_FRAMES = 0.0, 1.0, 2.0
FARTHEST = 1.0  # scoring step of an unconstrained parameter, reached smoothly

type Values = Mapping[str, Array]  # unconstrained, by site


@dataclasses.dataclass(frozen=True)
class Cut:
    """Functions of z (a layout without spreads) and the unconstrained spreads by site, and which element of z is what.

    `unseen`: elements of the sites that the simulator does not see, but errors; `frames`: the others that belong to
    frames; `shared`: the rest. Where the simulator sees no frame's parameter, nothing is unseen.
    """

    layout: Layout
    shared: Int[np.ndarray, " shared"]
    unseen: Int[np.ndarray, " unseen"]
    frames: Int[np.ndarray, " frames"]
    seen: tuple[str, ...]  # sites that reach the simulator
    first: Callable  # values of the seen sites -> what the simulator makes of them
    second: Callable  # (that, values of the other sites) -> predictions and log prior in one vector
    observed: Float[Array, " observations"]
    used: Float[Array, " observations"]

    def simulate(self, z: Float[Array, " n"], spreads: Values):
        """What the simulator makes of z."""
        values = {**self.layout.split(z), **spreads}
        return self.first(({name: values[name] for name in self.seen},))

    def negative_log_density(self, simulated, z: Float[Array, " n"], spreads: Values) -> Float[Array, ""]:
        """-log p(z, spreads, observations)."""
        parameters, log_prior = self._evaluated(simulated, z, spreads)
        return -(log_prior + log_likelihood(parameters, self.observed, self.used))

    def scoring_step(
        self, simulated, z: Float[Array, " n"], spreads: Values, of_prior: Float[Array, "unseen unseen"]
    ) -> tuple[Float[Array, " unseen"], Float[Array, "unseen unseen"]]:
        """Fisher-scoring step of the unseen elements, and the Cholesky factor of its matrix.

        Args:
            of_prior: precision of their prior.
        """

        def moved(x):
            return jnp.asarray(z).at[self.unseen].set(x)

        here = z[self.unseen]
        gradient = jax.grad(lambda x: self.negative_log_density(simulated, moved(x), spreads))(here)
        slope = jax.jacfwd(lambda x: _finite(self._evaluated(simulated, moved(x), spreads)[0]))(here)
        information = fisher_information(self._evaluated(simulated, z, spreads)[0]) * self.used
        factor = jnp.linalg.cholesky(jnp.einsum("abm,amp,bmq->pq", information, slope, slope) + of_prior)
        step = -jax.scipy.linalg.cho_solve((factor, True), gradient)
        return FARTHEST * jnp.tanh(step / FARTHEST), factor

    def _evaluated(self, simulated, z, spreads):
        values = {**self.layout.split(z), **spreads}
        vector = self.second(simulated, {name: value for name, value in values.items() if name not in self.seen})
        return jnp.reshape(vector[:-1], (3, -1)), vector[-1]


def cut_off_simulation(layout: Layout, evaluate: Callable, values: Values) -> Cut:
    """Cut a density in two.

    Args:
        layout: of z, without the spreads.
        evaluate: unconstrained values of all sites, the spreads included -> log prior and prediction.
        values: an example of them.
    """

    def together(seen, others):
        log_prior, prediction = evaluate({**seen, **others})
        return jnp.append(jnp.ravel(prediction.parameters), log_prior)

    @jax.jit
    def data(values):
        prediction = evaluate(values)[1]
        return prediction.observed, prediction.used

    seen = tuple(sites_in_loops(lambda values: evaluate(values)[1].parameters, dict(values)))
    known = {name: values[name] for name in seen}
    others = {name: value for name, value in values.items() if name not in seen}
    first, second = split_computation(together, (known,), others)
    kind = dict.fromkeys((site.name for site in layout.sites), SHARED)
    if any(site.plate is not None and site.name in seen for site in layout.sites):
        # Errors change how well the scales are known: they are not settled with them.
        errors = _errors(lambda some: _finite(jnp.reshape(second(first((known,)), some)[:-1], (3, -1))), others)
        kind |= dict.fromkeys(others.keys() - errors, UNSEEN)
    kind |= {site.name: OF_FRAMES for site in layout.sites if site.plate is not None and kind[site.name] != UNSEEN}
    kinds = np.asarray(layout.join({site.name: jnp.full(site.shape, kind[site.name]) for site in layout.sites}))
    observed, used = data(dict(values))
    return Cut(
        layout=layout,
        shared=np.flatnonzero(kinds == SHARED),
        unseen=np.flatnonzero(kinds == UNSEEN),
        frames=np.flatnonzero(kinds == OF_FRAMES),
        seen=seen,
        first=first,
        second=second,
        observed=observed,
        used=used,
    )


def _errors(predict: Callable, values: Values) -> set[str]:
    """Sites that change how predictions scatter, and not where they are."""
    found = set()
    for name, value in values.items():
        slope = jax.jvp(lambda x, name=name: predict({**values, name: x}), (value,), (jnp.ones_like(value),))[1]
        if np.all(np.asarray(slope)[0] == 0) and np.any(np.asarray(slope)[1:] != 0):
            found.add(name)
    return found


def _finite(parameters):
    """Predictions without the infinite degrees of freedom of a normal distribution."""
    return jnp.where(jnp.isfinite(parameters), parameters, 0.0)
