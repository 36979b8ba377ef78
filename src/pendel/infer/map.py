"""Maximum a posteriori: Levenberg-Marquardt with Fisher scoring, then L-BFGS in the metric of its last matrix.

The Gauss-Newton matrix leaves out the curvature of I_calc itself, which is large along thicknesses; so damped steps
come near the maximum in a few forward-mode matrices, and L-BFGS in coordinates whitened by the last one finishes
with reverse-mode gradients, about ten times cheaper. With very many global parameters L-BFGS works alone, in the
metric of the matrix's diagonal.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from pendel.constants import Array
from pendel.infer.errors import positive_inverse
from pendel.infer.frame_moves import STEPS, moved_frames
from pendel.infer.layout import Layout, fixed_values, inspect_model, prior_means
from pendel.infer.objective import Held, Objective, differentiable, objective
from pendel.infer.spreads import best_spreads

MANY_GLOBALS = 200  # above this many, forward passes cost more than reverse-mode steps save
LARGEST = 1000  # globals for which the matrix is made once, at the end
CONVERGED = 0.1  # predicted gain of a step in log density
DAMPED_STEPS = 3
SMALL_GAIN = 30.0  # in log density; below it L-BFGS is cheaper than another matrix
ROUGH = 20  # times the tolerance, where the spreads still move
FAR = 16  # scoring steps of frames that start from a scan
PASSES = 2  # of climbing, each with fresh damping: the second gained more than eight larger moves of every frame
SETTLING = 6  # of frames that have been near their maximum with other beams or globals
SHORT = 1.0  # standard deviations an element, up to which a matrix is still good
MEMORY = 40  # gradients L-BFGS remembers
Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class MapFit:
    """A maximum of the posterior density and the Laplace approximation around it.

    `values`: constrained value of every latent site, the spreads included; `unconstrained`: the vector z [n] of
    `layout`; `covariance`: inverse of the Gauss-Newton matrix at z [n n]; `potential`: negative log density.
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


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Compiled functions with the data they are given in either mode."""

    functions: Objective
    forward: tuple
    reverse: tuple
    progress: Progress | None

    def value(self, z, held):
        return float(self.functions.value(z, held, self.forward))

    def gradient(self, z, held):
        return self.functions.gradient(z, held, self.reverse)

    @property
    def is_large(self):
        return self.functions.layout.globals > MANY_GLOBALS

    def matrix(self, z, held):
        """Potential, gradient, the Gauss-Newton matrix and the credit of the errors; its diagonal for many globals."""
        if self.is_large:
            return *self.functions.diagonal(z, held, self.reverse), held.credit
        return self.functions.matrix(z, held, self.forward)

    def cheap(self, z, held):
        return self.functions.cheap(z, held.spreads, self.forward, held.credit)


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
        tolerance: converged when a Newton step promises less gain in log density.
        progress: called as progress(stage, step, total, info) after every step.

    Returns:
        the best fit, with its Laplace covariance.

    Raises:
        FloatingPointError: the density is not finite at any start.
    """
    problem, held, centre = _problem(model, args, kwargs, spreads, progress)
    functions, forward, layout = problem.functions, problem.forward, problem.functions.layout
    starts = [{**centre, **one} for one in ([start] if isinstance(start, Mapping) else list(start) or [{}])]
    rounds = max(spread_rounds, len(moves))
    first = ROUGH * tolerance if rounds else tolerance
    begin = _from_near if near else _from_start
    fits = [begin(problem, layout.unconstrain(one), held, max_steps, first) for one in starts]
    best = min(fits, key=lambda fit: fit.potential if np.isfinite(fit.potential) else np.inf)
    if not np.isfinite(best.potential):
        raise FloatingPointError(
            "found a log density that is not finite; expected finite intensities at the start; "
            "do: start from a smaller thickness or make the plan with a larger thickness_max"
        )
    steps = best.steps
    idle = not (held.spreads or moves or np.any(best.credit))
    for number in range(rounds if idle else 1, rounds + 1):
        spreads = held.spreads
        if spreads:
            found = best_spreads(functions.spread, layout, best.z, _inverse(best.matrix), spreads, forward)
            spreads = _as_arrays(found)
        held = Held(spreads, best.credit)
        z = problem.cheap(best.z, held)
        if number <= len(moves):
            z = _moved(problem, z, held, moves[number - 1])
        enough = tolerance if number == rounds else ROUGH * tolerance
        best = _in_metric(problem, z, best.matrix, held, max_steps, enough)
        steps += best.steps
    matrix = best.matrix
    if problem.is_large and layout.globals <= LARGEST:
        matrix = functions.matrix(best.z, held, forward)[2]
    method = "L-BFGS in a diagonal metric" if problem.is_large else "Fisher scoring, then L-BFGS in its metric"
    state = "converged" if best.converged else "NOT converged"
    return MapFit(
        values={**layout.constrain(best.z), **held.spreads},
        unconstrained=np.asarray(best.z),
        covariance=_inverse(matrix),
        layout=layout,
        spreads=dict(held.spreads),
        potential=problem.value(best.z, held._replace(credit=jnp.zeros(layout.size))),
        steps=steps,
        converged=best.converged,
        method=method,
        message=f"{method}: {layout.globals} global and {layout.size - layout.globals} frame parameters, "
        f"{state} after {steps} steps",
    )


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
    problem, held, centre = _problem(model, args, kwargs, spreads, progress)
    layout = problem.functions.layout
    z = problem.cheap(layout.unconstrain({**centre, **start}), held)
    for _ in range(PASSES):
        z = _moved(problem, z, held, [], FAR)
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


def _problem(model, args, kwargs, spreads, progress):
    """The compiled problem, what it holds (no credit yet), and the means of the priors by site."""
    forward = differentiable((args, kwargs), "forward")
    layout = inspect_model(model, *forward, with_fixed=False)
    spreads = _as_arrays({**fixed_values(model, *forward), **(spreads or {})})
    functions = objective(model, layout, spreads, forward)
    problem = _Problem(functions, forward, differentiable(forward, "reverse"), progress)
    held = Held(spreads, jnp.zeros(layout.size))
    return problem, held, prior_means(model, layout, spreads, *forward)


@dataclasses.dataclass(frozen=True)
class _Optimum:
    z: Float[Array, " n"]
    potential: float
    matrix: Float[Array, "n n"] | Float[Array, " n"]  # a diagonal for many globals
    credit: Float[Array, " n"]  # of the errors there
    steps: int
    converged: bool


def _moved(problem, z, held, moves, steps=STEPS):
    """z with frames moved to better maxima where the log density of all of it grows."""
    began = time.monotonic()

    def tell(done, log_likelihood):
        if problem.progress is not None:
            info = {"log_likelihood": log_likelihood, "seconds": time.monotonic() - began}
            problem.progress("frames", done, len(moves) + 1, info)

    trial = moved_frames(problem.functions.frames, z, moves, held.spreads, problem.forward, steps=steps, tell=tell)
    trial = problem.cheap(trial, held)
    return trial if problem.value(trial, held) < problem.value(z, held) else z


def _from_start(problem, z, held, max_steps, tolerance) -> _Optimum:
    """Cheap parameters, damped Fisher-scoring steps where the globals are few, then `_in_metric`."""
    z = problem.cheap(z, held)
    potential, gradient, matrix, _ = problem.matrix(z, held)
    steps = 0
    if not problem.is_large:
        z, matrix, steps = _damped_scoring(problem, z, (potential, gradient, matrix), held, DAMPED_STEPS)
    return _in_metric(problem, z, matrix, held, max_steps, tolerance, steps)


def _from_near(problem, z, held, max_steps, tolerance) -> _Optimum:
    """Cheap parameters, every frame to its maximum, then L-BFGS in the metric of the matrix there, errors credited.

    The matrix is made again only if the fit ends farther from there than `SHORT` standard deviations an element.
    """
    z = _moved(problem, problem.cheap(z, held), held, [], SETTLING)
    _, _, matrix, credit = problem.matrix(z, held)
    held = held._replace(credit=credit)
    steps, made_at = 0, z
    while True:
        before = problem.value(z, held)
        z, more = _metric_lbfgs(problem, z, matrix, held, max_steps - steps, tolerance)
        steps += max(more, 1)
        moved = np.asarray(z - made_at)
        distance = float(np.sum(moved**2 * matrix) if matrix.ndim == 1 else moved @ matrix @ moved)
        if distance > SHORT**2 * len(moved):
            potential, gradient, matrix, credit = problem.matrix(z, held)
            made_at = z
        else:
            potential, gradient = problem.gradient(z, held)
        converged = _promise(matrix, gradient) < 10 * tolerance or before - float(potential) < tolerance
        if converged or steps >= max_steps or not np.isfinite(float(potential)):
            return _Optimum(z, float(potential), matrix, credit, steps, converged)


def _in_metric(problem, z, matrix, held, max_steps, tolerance, steps=0) -> _Optimum:
    """L-BFGS in the metric of a matrix until a Newton step from the end promises no more gain, and the matrix there.

    A pass that gains nothing in a fresh metric ends it, too: what a Newton step promises beyond that is curvature the
    matrix leaves out. A tolerance above `CONVERGED` asks for one pass only: what follows moves the maximum again.
    """
    before = np.inf
    while True:
        z, more = _metric_lbfgs(problem, z, matrix, held, max_steps - steps, tolerance)
        steps += max(more, 1)
        potential, gradient, matrix, credit = problem.matrix(z, held)
        promised, gained = _promise(matrix, gradient), before - float(potential)
        converged = promised < 10 * tolerance or gained < tolerance
        if converged or tolerance > CONVERGED or steps >= max_steps or not np.isfinite(float(potential)):
            return _Optimum(z, float(potential), matrix, credit, steps, converged)
        before = float(potential)


def _damped_scoring(problem, z, state, held, max_steps):
    """Levenberg-Marquardt; the damping follows the ratio of actual to predicted gain (Nielsen 1999)."""
    damping, growth, step, began = 1e-3, 2.0, 0, time.monotonic()
    potential, gradient, matrix = state
    for step in range(1, max_steps + 1):
        move, predicted = _damped_step(matrix, gradient, damping)
        trial = problem.value(z + move, held)
        gain = (float(potential) - trial) / float(predicted)
        if np.isfinite(trial) and gain > 1e-3:
            damping, growth = damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
            improvement = float(potential) - trial
            z = problem.cheap(z + move, held)
            potential, gradient, matrix, _ = problem.matrix(z, held)
        else:
            improvement = np.inf
            damping, growth = damping * growth, growth * 2
        _report(problem, step, max_steps, -float(potential), began)
        if improvement < SMALL_GAIN:
            break
    return z, matrix, step


def _metric_lbfgs(problem, z, matrix, held, max_steps, tolerance):
    """SciPy's L-BFGS in coordinates y with z = z_0 + H^(-1/2) y, so that a unit step is a Newton step."""
    forth, back = _whitening(np.asarray(matrix))
    origin, began, count = np.asarray(z), time.monotonic(), 0

    def whitened(y):
        potential, gradient = problem.gradient(jnp.asarray(origin + forth(y)), held)
        if not np.isfinite(float(potential)):
            return 1e30, np.zeros_like(y)
        return float(potential), back(np.asarray(gradient))

    def tell(intermediate_result):
        nonlocal count
        count += 1
        _report(problem, count, max_steps, -float(intermediate_result.fun), began)

    start = float(problem.gradient(jnp.asarray(origin), held)[0])
    ftol = tolerance / max(abs(start), 1.0)  # SciPy's is relative to the value
    options = {"maxiter": max_steps, "maxcor": MEMORY, "gtol": np.sqrt(tolerance) / 10, "ftol": ftol}
    result = minimize(whitened, np.zeros(len(origin)), jac=True, method="L-BFGS-B", callback=tell, options=options)
    return jnp.asarray(origin + forth(result.x)), count


def _whitening(matrix):
    """y -> H^(-1/2) y and its transpose, for a matrix or the diagonal of one."""
    if matrix.ndim == 1:
        width = 1 / np.sqrt(matrix)
        return (lambda y: width * y), (lambda g: width * g)
    value, vector = np.linalg.eigh(matrix)
    root = vector / np.sqrt(np.maximum(value, 1e-6 * value[-1]))
    return (lambda y: root @ y), (lambda g: root.T @ g)


def _promise(matrix, gradient) -> float:
    """The gain in log density that the quadratic model predicts for a full step."""
    if matrix.ndim == 1:
        return float(0.5 * jnp.sum(gradient**2 / matrix))
    return float(_damped_step(matrix, gradient, 0.0)[1])


def _report(problem, step, total, log_density, began):
    if problem.progress is not None:
        info = {"log_density": log_density, "seconds": time.monotonic() - began}
        problem.progress("map", step, total, info)


@jax.jit
def _damped_step(matrix, gradient, damping):
    """Solve (H + damping diag H) step = -g; also the gain the quadratic model predicts."""
    diagonal = jnp.maximum(jnp.diag(matrix), 1e-6)
    damped = matrix + jnp.diag(damping * diagonal)
    value, vector = jnp.linalg.eigh(damped / jnp.sqrt(jnp.outer(diagonal, diagonal)))
    scaled = gradient / jnp.sqrt(diagonal)
    step = -(vector @ ((vector.T @ scaled) / jnp.maximum(value, 1e-9))) / jnp.sqrt(diagonal)
    return step, -(gradient @ step + 0.5 * step @ matrix @ step)


def _as_arrays(values: Mapping[str, Array]) -> dict[str, Array]:
    """Double precision arrays of one kind, so that nothing is compiled twice."""
    return {name: jnp.asarray(np.asarray(value, dtype=float)) for name, value in values.items()}


def _inverse(matrix) -> Float[np.ndarray, "n n"]:
    """Inverse of the Gauss-Newton matrix or of its diagonal."""
    return np.diag(1 / np.asarray(matrix)) if np.ndim(matrix) == 1 else np.asarray(positive_inverse(matrix))
