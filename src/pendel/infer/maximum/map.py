"""Maximum a posteriori and the Laplace approximation around it: rounds of fits, between which what they hold moves."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.layout import Layout, fixed_values, inspect_model, prior_means
from pendel.infer.maximum.errors import positive_inverse
from pendel.infer.maximum.objective import Held, differentiable, objective
from pendel.infer.maximum.optimise import CONVERGED, ROUGH, Density, Progress, from_near, from_start, in_metric, moved
from pendel.infer.maximum.spreads import best_spreads
from pendel.infer.threads import one_blas_thread

LARGEST = 1000  # globals for which the matrix is made once, at the end
FAR = 16  # scoring steps of frames that start from a scan
PASSES = 2  # of climbing, each with fresh damping: the second gained more than eight larger moves of every frame


@dataclasses.dataclass(frozen=True)
class MapFit:
    """A maximum of the posterior density and the Laplace approximation around it.

    `values`: constrained value of every latent site, the spreads included; `unconstrained`: the vector z [n] of
    `layout`; `covariance`: inverse of the Gauss-Newton matrix at z [n n], above LARGEST globals of its diagonal only;
    `potential`: negative log density.
    """

    values: dict[str, Array]
    unconstrained: Float[Array, " n"]
    covariance: Float[Array, "n n"]
    layout: Layout
    spreads: dict[str, Array]
    potential: float
    steps: int
    converged: bool
    method: str
    message: str


@one_blas_thread
def fit_map(
    model: Callable,
    *args: Any,
    start: Mapping[str, Array] | Sequence[Mapping[str, Array]] = (),
    spreads: Mapping[str, Array] | None = None,
    moves: Sequence[Sequence[Mapping[str, Array]]] = (),
    near: bool = False,
    max_steps: int = 200,
    spread_rounds: int = 3,
    tolerance: float = CONVERGED,
    progress: Progress | None = None,
    **kwargs: Any,
) -> MapFit:
    """Maximise the log density of a model over its unconstrained parameters.

    The spreads of hierarchies have no joint mode with what they spread; they are held, and moved in every round to the
    maximum of their expected log density under the Laplace approximation (one EM step each). Errors have one, but
    a poor one: from the second round on they get the credit of `error_credit`. The last round converges.

    Args:
        model: a NumPyro model, called as model(*args, **kwargs).
        start: constrained start values by site (others start at the mean of their prior), or several such sets: each
            is fitted and the best one is returned.
        spreads: values of the spreads; the model's own when not given.
        moves: for every round what is tried on every frame, see `moved_frames`.
        near: the globals start near the maximum, as after a fit of some of the frames. Then every frame climbs by
            itself first, and one Gauss-Newton matrix serves to the end. Pass no `moves` and `spread_rounds=0` for a
            single round.
        max_steps: of the optimisers, per start and round.
        spread_rounds: how often the spreads are moved, and the credit of the errors.
        tolerance: converged when a pass of L-BFGS gained less log density than this, or a Newton step from its end
            promises less than ten times as much; with `near` the default is 0.002 for every parameter. Above
            `CONVERGED` the last round is one pass, which others go on from.
        progress: called as progress(stage, step, total, info) after every step.

    Returns:
        the best fit, with its Laplace covariance.

    Raises:
        FloatingPointError: the density is not finite at any start.
    """
    density, held, centre = _density(model, args, kwargs, spreads, progress)
    functions, forward, layout = density.functions, density.forward, density.functions.layout
    starts = [{**centre, **one} for one in ([start] if isinstance(start, Mapping) else list(start) or [{}])]
    rounds = max(spread_rounds, len(moves))
    rough = max(ROUGH, tolerance)
    begin = from_near if near else from_start
    fits = [begin(density, layout.unconstrain(one), held, max_steps, rough if rounds else tolerance) for one in starts]
    best = min(fits, key=lambda fit: fit.potential if np.isfinite(fit.potential) else np.inf)
    if not np.isfinite(best.potential):
        raise FloatingPointError(
            "The log density is not finite. Expected finite intensities at the start. "
            "To fix: check structure, U and --thickness, or make the plan with a larger thickness_max (in Python)."
        )
    steps = best.steps
    for number in range(1, rounds + 1):
        if number < rounds and not (held.spreads or moves or np.any(best.credit)):
            continue  # nothing but the tolerance changes
        spreads = held.spreads
        if spreads:
            found = best_spreads(functions.spread, layout, best.z, _inverse(best.matrix), spreads, forward)
            spreads = _as_arrays(found)
        held = Held(spreads, best.credit)
        z = density.cheap(best.z, held)
        if number <= len(moves):
            z = moved(density, z, held, moves[number - 1])
        best = in_metric(density, z, best.matrix, held, max_steps, tolerance if number == rounds else rough)
        steps += best.steps
    matrix = best.matrix
    if density.is_large and layout.globals <= LARGEST:
        matrix = functions.matrix(best.z, held, forward)[2]
    method = "L-BFGS in a diagonal metric" if density.is_large else "Fisher scoring, then L-BFGS in its metric"
    state = "converged" if best.converged else "NOT converged"
    return MapFit(
        values={**layout.constrain(best.z), **held.spreads},
        unconstrained=np.asarray(best.z),
        covariance=_inverse(matrix),
        layout=layout,
        spreads=dict(held.spreads),
        potential=best.potential,
        steps=steps,
        converged=best.converged,
        method=method,
        message=f"{method}: {layout.globals} global and {layout.size - layout.globals} frame parameters, "
        f"{state} after {steps} steps",
    )


@one_blas_thread
def climb_frames(
    model: Callable,
    *args: Any,
    start: Mapping[str, Array],
    spreads: Mapping[str, Array] | None = None,
    progress: Progress | None = None,
    **kwargs: Any,
) -> dict[str, Array]:
    """Every frame by itself at the maximum it climbs to from the start; all else that the simulator sees is held.

    Args:
        as those of `fit_map`, but `start` is one set of values.

    Returns:
        constrained values of all sites of the model but its spreads.
    """
    density, held, centre = _density(model, args, kwargs, spreads, progress)
    layout = density.functions.layout
    z = density.cheap(layout.unconstrain({**centre, **start}), held)
    for _ in range(PASSES):
        z = moved(density, z, held, [], FAR)
    return layout.constrain(z)


def laplace_draws(fit: MapFit, key: Array, draws: int) -> dict[str, Array]:
    """Draws of all latent sites from the normal distribution around a maximum; the spreads are constant.

    Returns:
        constrained values by site, the draws on the leading axis.
    """
    root = np.linalg.cholesky(fit.covariance)
    noise = jax.random.normal(key, (draws, fit.layout.size))
    values = fit.layout.constrain_many(jnp.asarray(fit.unconstrained) + noise @ root.T)
    return {**values, **{k: jnp.broadcast_to(v, (draws, *jnp.shape(v))) for k, v in fit.spreads.items()}}


def laplace_evidence(fit: MapFit) -> float:
    """Log of the integral of the density around a maximum, the spreads held: -U + log det(2 pi C) / 2.

    Source: MacKay, Information Theory, Inference, and Learning Algorithms (2003), eq. 27.4.
    """
    return float(-fit.potential + 0.5 * np.linalg.slogdet(2 * np.pi * fit.covariance)[1])


def _density(model, args, kwargs, spreads, progress):
    """The density of a model, what it holds (no credit yet), and the means of the priors by site."""
    forward = differentiable((args, kwargs), "forward")
    layout = inspect_model(model, *forward, with_fixed=False)
    spreads = _as_arrays({**fixed_values(model, *forward), **(spreads or {})})
    functions = objective(model, layout, spreads, forward)
    density = Density(functions, forward, differentiable(forward, "reverse"), progress)
    held = Held(spreads, jnp.zeros(layout.size))
    return density, held, prior_means(model, layout, spreads, *forward)


def _as_arrays(values: Mapping[str, Array]) -> dict[str, Array]:
    """Double precision arrays of one kind, so that nothing is compiled twice."""
    return {name: jnp.asarray(np.asarray(value, dtype=float)) for name, value in values.items()}


def _inverse(matrix) -> Float[np.ndarray, "n n"]:
    """Inverse of the Gauss-Newton matrix or of its diagonal."""
    return np.diag(1 / np.asarray(matrix)) if np.ndim(matrix) == 1 else np.asarray(positive_inverse(matrix))
