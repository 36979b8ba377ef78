"""The density of a target where the results of its simulations are known: it costs little and is evaluated often."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.plates import by_frame, frame_of_elements
from pendel.infer.target import Target, Values

FEW = 20  # numbers of a site without frames, up to which they are settled in every step; its cost grows as their cube
LONGEST = 1.0  # scoring step of an unconstrained parameter, reached smoothly


@dataclasses.dataclass(frozen=True)
class Replay:
    """Functions of z (a layout without spreads) and the unconstrained spreads by site, and which element of z is what.

    `free`: elements of the sites that reach no simulation, but errors and sites of many numbers that belong to no
    frame; `frames`: the others that belong to frames; `shared`: the rest, `errors` among them. Where no frame's
    parameter reaches a simulation, nothing is free and no errors are told from the rest.
    """

    target: Target
    shared: Int[np.ndarray, " shared"]
    errors: Int[np.ndarray, " errors"]
    free: Int[np.ndarray, " free"]
    frames: Int[np.ndarray, " frames"]

    @property
    def layout(self) -> Layout:
        """Of z."""
        return self.target.layout

    def simulate(self, z: Float[Array, " n"], spreads: Values):
        """Results of the simulations at z."""
        return self.target.simulate({**self.layout.split(z), **spreads})

    def negative_log_density(self, results, z: Float[Array, " n"], spreads: Values) -> Float[Array, ""]:
        """-log p(z, spreads, observations)."""
        log_prior, prediction = self._predicted(results, z, spreads)
        return -(log_prior + prediction.log_likelihood())

    def scoring_step(
        self, results, z: Float[Array, " n"], spreads: Values, of_prior: Float[Array, "free free"]
    ) -> tuple[Float[Array, " free"], Float[Array, "free free"]]:
        """Fisher-scoring step of the free elements, and the Cholesky factor of its matrix.

        Args:
            of_prior: precision of their prior.
        """
        slope, information = self._scores(results, z, spreads)

        def log_prior(x):
            return self.target.log_prior({**self.layout.split(jnp.asarray(z).at[self.free].set(x)), **spreads})

        slope = slope + jax.grad(log_prior)(z[self.free])
        factor = jnp.linalg.cholesky(information + of_prior)
        step = jax.scipy.linalg.cho_solve((factor, True), slope)
        return LONGEST * jnp.tanh(step / LONGEST), factor

    def frame_scoring_step(
        self,
        results,
        z: Float[Array, " n"],
        spreads: Values,
        of_prior: tuple[Float[Array, " free"], Float[Array, "free free"]],
    ) -> Float[Array, " free"]:
        """Step of every frame by itself, zero for what belongs to no frame.

        Args:
            of_prior: slope of the log prior and precision, taken as those of every frame alone.
        """
        # Observations whose prediction is not finite do not count, so that they spoil no other frame.
        slope, information = self._scores(results, z, spreads, only_finite=True)
        owner = frame_of_elements(self.layout)[self.free]
        alone = (owner[:, None] == owner[None, :]) & (owner >= 0)
        matrix = jnp.where(alone, information + of_prior[1], 0.0) + jnp.diag(jnp.where(owner >= 0, 0.0, 1.0))
        step = jnp.linalg.solve(matrix, jnp.where(owner >= 0, slope + of_prior[0], 0.0))
        return LONGEST * jnp.tanh(step / LONGEST)

    def frame_log_likelihood(self, results, z: Float[Array, " n"], spreads: Values) -> Float[Array, " frames"]:
        """Log density of the observations of every frame, frames counted over all plates."""
        return by_frame(self.layout, self._predicted(results, z, spreads)[1].pointwise())

    def _scores(self, results, z, spreads, only_finite=False):
        """Slope of the log likelihood by the free elements, and their information in the observations."""

        def parameters(x):
            return self._predicted(results, jnp.asarray(z).at[self.free].set(x), spreads)[1].parameters

        prediction = self._predicted(results, z, spreads)[1]
        slope, information = prediction.slope(), prediction.information()
        jacobian = jax.jacfwd(parameters)(z[self.free])
        if only_finite:
            sound = jnp.all(jnp.isfinite(information), axis=(0, 1)) & jnp.all(jnp.isfinite(slope), axis=0)
            slope, information = jnp.where(sound, slope, 0.0), jnp.where(sound, information, 0.0)
            jacobian = jnp.where(sound[:, None], jacobian, 0.0)
        return jnp.einsum("am,amp->p", slope, jacobian), jnp.einsum("abm,amp,bmq->pq", information, jacobian, jacobian)

    def _predicted(self, results, z, spreads):
        return self.target.predict({**self.layout.split(z), **spreads}, results=results)


def make_replay(target: Target) -> Replay:
    """Sort the elements of z by what their sites reach."""
    layout = target.layout
    kind, errors = dict.fromkeys((site.name for site in layout.sites), "shared"), frozenset()
    if any(site.plate is not None and site.name in target.simulated for site in layout.sites):
        # Errors change how well the scales are known: they are not settled with them.
        errors = target.errors
        many = {site.name for site in layout.sites if site.plate is None and np.prod(site.shape) > FEW}
        kind |= {name: "free" for name in kind if name not in target.simulated | errors | many}
    kind |= {site.name: "frames" for site in layout.sites if site.plate is not None and kind[site.name] != "free"}

    def elements(chosen: set[str] | frozenset[str]) -> np.ndarray:
        flags = {site.name: jnp.full(site.shape, float(site.name in chosen)) for site in layout.sites}
        return np.flatnonzero(np.asarray(layout.join(flags)))

    shared, free, frames = (
        elements({name for name, own in kind.items() if own == wanted}) for wanted in ("shared", "free", "frames")
    )
    return Replay(
        target=target, shared=shared, errors=np.intersect1d(shared, elements(errors)), free=free, frames=frames
    )
