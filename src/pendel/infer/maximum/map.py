"""Maximum a posteriori and the Laplace approximation around it: rounds of fits, with spreads that move between them."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pendel.base import Array
from pendel.infer.layout import Layout
from pendel.infer.maximum.arrow import Arrow, ArrowRoot, arrow_of_diagonal
from pendel.infer.maximum.objective import Fixed, Objective, compiled_once, differentiable, objective
from pendel.infer.maximum.optimise import (
    APPROXIMATE,
    CONVERGED,
    Density,
    MapTuning,
    Optimum,
    Progress,
    from_fitted,
    from_start,
    in_known_metric,
    in_metric,
    moved,
)
from pendel.infer.maximum.spreads import best_integrated, best_spreads, integrated_functions
from pendel.infer.target import Data, Target, Values, prior_means
from pendel.infer.threads import one_blas_thread

FROM_A_SCAN = 16  # scoring steps of frames that start from a scan; with half as many some stop short of their maximum
PASSES = 2  # of climbing, each with fresh damping: the second gained more than eight larger moves of every frame


@dataclasses.dataclass(frozen=True)
class MapFit:
    """A maximum of the posterior density and the Laplace approximation around it.

    `values`: constrained value of every latent site, the spreads included; `unconstrained`: the vector z [n] of
    `layout`; `precision`: the Gauss-Newton matrix at z, for very many globals its diagonal only; `potential`: negative
    log density.
    """

    values: dict[str, Array]
    unconstrained: Float[Array, " n"]
    precision: Arrow
    layout: Layout
    spreads: dict[str, Array]
    potential: float
    steps: int
    converged: bool
    method: str
    message: str

    @cached_property
    def root(self) -> ArrowRoot:
        """Root of the Laplace covariance."""
        return self.precision.root()

    @cached_property
    def covariance(self) -> Float[Array, "n n"]:
        """Laplace covariance of everything; only for problems where an array of this size fits."""
        return np.asarray(self.root.dense())


@one_blas_thread
def fit_map(
    target: Target,
    *,
    start: Values | Sequence[Values] = (),
    spreads: Values | None = None,
    moves: Sequence[Sequence[Values]] = (),
    globals_fitted: bool = False,
    tuning: MapTuning = MapTuning(),
    progress: Progress | None = None,
) -> MapFit:
    """Maximise the log density of a target over its unconstrained parameters.

    The spreads of hierarchies have no joint mode with what they spread. They are fixed, and moved in every round to the
    maximum of their expected log density under the Laplace approximation (one EM step each). Errors have a joint mode,
    but a poor one: from the second round on they get the correction of `error_correction`. The last round converges.

    Args:
        target: model and data, from `make_target`.
        start: constrained start values by site (others start at the mean of their prior), or several such sets: each
            is fitted and the best one is returned.
        spreads: values of the spreads; the model's own when not given.
        moves: for every round what is tried on every frame, see `moved_frames`.
        globals_fitted: the globals start near the maximum, as after a fit of some of the frames. Then every frame
            climbs by itself first, and one Gauss-Newton matrix serves to the end. Pass no `moves` and no rounds.
        tuning: tolerance, rounds, and the numbers of the optimisers.
        progress: called as progress(stage, step, total, info) after every step.

    Returns:
        the best fit, with the precision of its Laplace approximation.

    Raises:
        FloatingPointError: the density is not finite at any start.
    """
    density, fixed, centre = _density(target, spreads, progress, tuning)
    functions, forward, layout = density.functions, density.forward, density.functions.layout
    starts = [{**centre, **one} for one in ([start] if isinstance(start, Mapping) else list(start) or [{}])]
    rounds, tolerance = max(tuning.rounds, len(moves)), tuning.tolerance
    approximate = max(APPROXIMATE, tolerance)
    begin = from_fitted if globals_fitted else from_start
    fits = [begin(density, layout.unconstrain(one), fixed, approximate if rounds else tolerance) for one in starts]
    best = min(fits, key=lambda fit: fit.potential if np.isfinite(fit.potential) else np.inf)
    if not np.isfinite(best.potential):
        raise FloatingPointError(
            "The log density is not finite at the start. Expected finite intensities there. To fix: check structure, U "
            "and --thickness, or make the plan with a larger thickness_max (in Python)."
        )
    steps = best.steps
    if not rounds and tolerance <= CONVERGED and target.integrated and not density.is_large:
        best, fixed = _with_integrated(target, density, best, fixed)
        steps += best.steps
    for number in range(1, rounds + 1):
        if number < rounds and not (fixed.spreads or moves or np.any(best.correction)):
            continue  # nothing but the tolerance changes
        spreads = fixed.spreads
        if spreads:
            found = best_spreads(functions.spread, best.z, _as_arrow(best.matrix, functions).root(), spreads, forward)
            if target.integrated and not density.is_large:
                found |= _integrated(target, best, fixed, forward)[0]
            spreads = _as_arrays(found)
        fixed = Fixed(spreads, best.correction)
        z = density.settled(best.z, fixed)
        if number <= len(moves):
            z = moved(density, z, fixed, moves[number - 1])
        best = in_metric(density, z, best.matrix, fixed, tolerance if number == rounds else approximate)
        steps += best.steps
    method = "Fisher scoring, then L-BFGS in its metric"
    if density.is_large:
        method = "L-BFGS in a diagonal metric"
        if functions.simulated <= tuning.largest:
            best, fixed = _with_errors_corrected(density, best, fixed)
            method += ", then in that of the whole matrix"
            steps += best.steps
    state = "converged" if best.converged else "NOT converged"
    return MapFit(
        values={**layout.constrain(best.z), **fixed.spreads},
        unconstrained=np.asarray(best.z),
        precision=jax.tree.map(np.asarray, _as_arrow(best.matrix, functions)),
        layout=layout,
        spreads=dict(fixed.spreads),
        potential=best.potential,
        steps=steps,
        converged=best.converged,
        method=method,
        message=f"{method}: {layout.globals} global and {layout.size - layout.globals} frame parameters, "
        f"{state} after {steps} steps",
    )


@one_blas_thread
def climb_frames(
    target: Target, *, start: Values, spreads: Values | None = None, progress: Progress | None = None
) -> dict[str, Array]:
    """Every frame by itself at the maximum it climbs to from the start; what else reaches a simulation stays.

    Args:
        as those of `fit_map`, but `start` is one set of values.

    Returns:
        constrained values of all sites of the model but its spreads.
    """
    density, fixed, centre = _density(target, spreads, progress, MapTuning())
    layout = density.functions.layout
    z = density.settled(layout.unconstrain({**centre, **start}), fixed)
    for _ in range(PASSES):
        z = moved(density, z, fixed, [], FROM_A_SCAN)
    return layout.constrain(z)


def laplace_draws(fit: MapFit, key: Array, draws: int) -> dict[str, Array]:
    """Draws of all latent sites from the normal distribution around a maximum; the spreads are constant.

    Returns:
        constrained values by site, the draws on the leading axis.
    """
    noise = jax.random.normal(key, (draws, fit.layout.size))
    values = fit.layout.constrain_many(jnp.asarray(fit.unconstrained) + jax.vmap(fit.root.forth)(noise))
    return {**values, **{k: jnp.broadcast_to(v, (draws, *jnp.shape(v))) for k, v in fit.spreads.items()}}


def laplace_evidence(fit: MapFit) -> float:
    """Log of the integral of the density around a maximum, the spreads fixed: -U + log det(2 pi C) / 2.

    Source: MacKay, Information Theory, Inference, and Learning Algorithms (2003), eq. 27.4.
    """
    return float(-fit.potential + 0.5 * (fit.layout.size * np.log(2 * np.pi) - fit.root.log_det()))


def _density(target: Target, spreads: Values | None, progress: Progress | None, tuning: MapTuning):
    """The density of a target, what is fixed in it (no correction yet), and the means of the priors by site."""
    forward, reverse = differentiable(target, "forward"), differentiable(target, "reverse")
    values = _as_arrays({**target.spreads, **(spreads or {})})
    density = Density(objective(forward), forward.data, reverse.data, progress, tuning)
    return density, Fixed(values, jnp.zeros(target.layout.size)), prior_means(target, values)


def _with_errors_corrected(density: Density, best: Optimum, fixed: Fixed) -> tuple[Optimum, Fixed]:
    """The maximum with the whole matrix and the correction of the errors, which needs it; and what was fixed in it.

    Where the errors came out much too small at first, the correction there is not yet that of the end, so it is made
    twice. A fit with a tolerance above `CONVERGED` gets the matrix alone: what follows moves the maximum again.
    """
    tuning = dataclasses.replace(density.tuning, many_globals=density.tuning.largest)
    whole = dataclasses.replace(density, tuning=tuning)
    matrix, correction = whole.matrix(best.z, fixed)[2:]
    if tuning.tolerance > CONVERGED:
        return dataclasses.replace(best, matrix=matrix, steps=0), fixed
    steps = 0
    for tolerance in (APPROXIMATE, tuning.tolerance):
        fixed = fixed._replace(correction=jnp.asarray(correction))
        best = in_metric(whole, whole.settled(best.z, fixed), matrix, fixed, tolerance)
        matrix, correction, steps = best.matrix, best.correction, steps + best.steps
    return dataclasses.replace(best, steps=steps), fixed


def _with_integrated(target: Target, density: Density, best: Optimum, fixed: Fixed) -> tuple[Optimum, Fixed]:
    """The maximum with spreads that are estimated with their parameters integrated out; and what was fixed in it."""
    found, matrix = _integrated(target, best, fixed, density.forward)
    fixed = Fixed(_as_arrays({**fixed.spreads, **found}), best.correction)
    end = in_known_metric(density, best.z, matrix, fixed)
    return dataclasses.replace(end, converged=best.converged and end.converged), fixed


def _integrated(target: Target, best: Optimum, fixed: Fixed, data: Data) -> tuple[dict[str, Array], Arrow]:
    """Spreads that are estimated with their parameters integrated out, and the matrix at the maximum with them."""
    functions = compiled_once("integrated spreads", partial(integrated_functions, target), target)
    assert isinstance(best.matrix, Arrow)  # no diagonal: the density is not large
    return best_integrated(functions, target.integrated, best.z, best.matrix, fixed.spreads, data)


def _as_arrays(values: Mapping[str, Array]) -> dict[str, Array]:
    """Double precision arrays of one kind, so that nothing is compiled twice."""
    return {name: jnp.asarray(np.asarray(value, dtype=float)) for name, value in values.items()}


def _as_arrow(matrix: Arrow | Array, functions: Objective) -> Arrow:
    """The Gauss-Newton matrix, or its diagonal as a matrix."""
    is_whole = isinstance(matrix, Arrow)
    return matrix if is_whole else arrow_of_diagonal(matrix, functions.layout.globals, functions.sizes)
