"""The density of a model with the simulation cut off: what is left is so cheap that it can be evaluated many times."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.density import fisher_information, log_likelihood, pointwise_log_likelihood
from pendel.infer.layout import Layout
from pendel.infer.maximum.cheap import split_computation
from pendel.infer.maximum.normal_matrix import sites_in_loops
from pendel.infer.plates import frame_count, frame_of_elements, frame_of_observations

SHARED, UNSEEN, OF_FRAMES = 0.0, 1.0, 2.0
FARTHEST = 1.0  # scoring step of an unconstrained parameter, reached smoothly

type Values = Mapping[str, Array]  # unconstrained, by site


@dataclasses.dataclass(frozen=True)
class Cut:
    """Functions of z (a layout without spreads) and the unconstrained spreads by site, and which element of z is what.

    `unseen`: elements of the sites that the simulator does not see, but errors; `frames`: the others that belong to
    frames; `shared`: the rest, `errors` among them. Where the simulator sees no frame's parameter, nothing is unseen
    and no errors are told from the rest.
    """

    layout: Layout
    shared: Int[np.ndarray, " shared"]
    errors: Int[np.ndarray, " errors"]
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
        slope, information = self._scores(simulated, z, spreads)

        def log_prior(x):
            return self._evaluated(simulated, jnp.asarray(z).at[self.unseen].set(x), spreads)[1]

        slope = slope + jax.grad(log_prior)(z[self.unseen])
        factor = jnp.linalg.cholesky(information + of_prior)
        step = jax.scipy.linalg.cho_solve((factor, True), slope)
        return FARTHEST * jnp.tanh(step / FARTHEST), factor

    def frame_scoring_step(
        self,
        simulated,
        z: Float[Array, " n"],
        spreads: Values,
        of_prior: tuple[Float[Array, " unseen"], Float[Array, "unseen unseen"]],
    ) -> Float[Array, " unseen"]:
        """Step of every frame by itself, zero for what belongs to no frame.

        Args:
            of_prior: slope of the log prior and precision, taken as those of every frame alone.
        """
        # Observations whose prediction is not finite do not count, so that they spoil no other frame.
        slope, information = self._scores(simulated, z, spreads, only_finite=True)
        owner = frame_of_elements(self.layout)[self.unseen]
        alone = (owner[:, None] == owner[None, :]) & (owner >= 0)
        matrix = jnp.where(alone, information + of_prior[1], 0.0) + jnp.diag(jnp.where(owner >= 0, 0.0, 1.0))
        step = jnp.linalg.solve(matrix, jnp.where(owner >= 0, slope + of_prior[0], 0.0))
        return FARTHEST * jnp.tanh(step / FARTHEST)

    def frame_log_likelihood(self, simulated, z: Float[Array, " n"], spreads: Values) -> Float[Array, " frames"]:
        """Log density of the observations of every frame, frames counted over all plates."""
        parameters, _ = self._evaluated(simulated, z, spreads)
        likelihood = pointwise_log_likelihood(parameters, self.observed, self.used)
        return jnp.zeros(frame_count(self.layout)).at[frame_of_observations(self.layout)].add(likelihood)

    def _scores(self, simulated, z, spreads, only_finite=False):
        """Slope of the log likelihood by the unseen elements, and their information in the observations."""

        def predict(x):
            return self._evaluated(simulated, jnp.asarray(z).at[self.unseen].set(x), spreads)[0]

        here = z[self.unseen]
        parameters = predict(here)
        slope = jax.grad(lambda p: log_likelihood(p, self.observed, self.used))(parameters)
        jacobian = jax.jacfwd(lambda x: _finite(predict(x)))(here)
        information = fisher_information(parameters) * self.used
        slope = jnp.where(jnp.isfinite(parameters), slope, 0.0)
        if only_finite:
            sound = jnp.all(jnp.isfinite(information), axis=(0, 1)) & jnp.all(jnp.isfinite(slope), axis=0)
            slope, information = jnp.where(sound, slope, 0.0), jnp.where(sound, information, 0.0)
            jacobian = jnp.where(sound[:, None], jacobian, 0.0)
        return jnp.einsum("am,amp->p", slope, jacobian), jnp.einsum("abm,amp,bmq->pq", information, jacobian, jacobian)

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
    kind, errors = dict.fromkeys((site.name for site in layout.sites), SHARED), set()
    if any(site.plate is not None and site.name in seen for site in layout.sites):
        # Errors change how well the scales are known: they are not settled with them.
        errors = _errors(lambda some: _finite(jnp.reshape(second(first((known,)), some)[:-1], (3, -1))), others)
        kind |= dict.fromkeys(others.keys() - errors, UNSEEN)
    kind |= {site.name: OF_FRAMES for site in layout.sites if site.plate is not None and kind[site.name] != UNSEEN}

    def elements(of_site: Callable[[str], float]):
        return np.asarray(layout.join({site.name: jnp.full(site.shape, of_site(site.name)) for site in layout.sites}))

    kinds, is_error = elements(kind.__getitem__), elements(lambda name: float(name in errors))
    observed, used = data(dict(values))
    return Cut(
        layout=layout,
        shared=np.flatnonzero(kinds == SHARED),
        errors=np.flatnonzero((kinds == SHARED) & (is_error == 1)),
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
