"""Maximising a log density: damped Fisher scoring, moves of single frames, L-BFGS in the metric of a matrix.

The Gauss-Newton matrix leaves out the curvature of I_calc itself, which is large along thicknesses; so damped steps
come near the maximum in a few forward-mode matrices, and L-BFGS in coordinates whitened by the last one finishes
with reverse-mode gradients, about ten times cheaper. With very many global parameters L-BFGS works alone, in the
metric of the matrix's diagonal.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from pendel.base import Array
from pendel.infer.maximum.arrow import LEAST, Arrow, ArrowRoot, arrow_of_diagonal
from pendel.infer.maximum.frame_moves import ClimbTuning, moved_frames
from pendel.infer.maximum.objective import Fixed, Objective

CONVERGED = 0.1  # gain of a pass of L-BFGS in log density
APPROXIMATE = 20 * CONVERGED  # where the spreads still move, or more frames or beams follow
WHITENED = 1e-6  # eigenvalues of scaled blocks for L-BFGS: flatter directions would take steps that leave the matrix


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapTuning:
    """Numbers of a maximisation; gains are in log density.

    `rounds` in which spreads move (an EM step each): with fewer, spreads stay near where they begin; more change the
    maximum by less than the tolerance. `max_steps` of L-BFGS in a round: a fit that needs more is reported as not
    converged. `tolerance`: the fit has converged when a pass of L-BFGS gained less, or a Newton step from its end
    promises less than ten times as much; above CONVERGED the last round is one pass, which others go on from.
    `many_globals`: that reach a simulation; above it forward passes cost more than reverse-mode steps save. `largest`:
    such globals up to which the matrix is made at the end; it costs a pass each. `damped_steps` before L-BFGS: with
    fewer, L-BFGS starts in a poorer metric; more are dearer than its steps. `small_gain`: below it L-BFGS costs less
    than another matrix.
    `noise`: gain for each parameter that is too small for a costly step, as draws of the posterior scatter by half a
    unit. `frame_steps`: of scoring for frames that have been at their maximum with other beams or globals. `short`:
    standard deviations an element up to which a matrix serves on; with larger ones L-BFGS works in a wrong metric.
    `same_errors`: change of the logarithm of an error up to which a matrix and a correction serve on; uncertainties are
    wrong by as much, and with less the matrix of many frames is made twice for nothing.
    `memory`: gradients that L-BFGS remembers; with fewer it takes more steps.
    """

    rounds: int = 3
    max_steps: int = 200
    tolerance: float = CONVERGED
    many_globals: int = 200
    largest: int = 1000
    damped_steps: int = 3
    small_gain: float = 30.0
    noise: float = 2e-3
    frame_steps: int = 6
    short: float = 1.0
    same_errors: float = 0.1
    memory: int = 40


Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Density:
    """A log density: its compiled functions, and the data they are given in either mode."""

    functions: Objective
    forward: tuple
    reverse: tuple
    progress: Progress | None
    tuning: MapTuning = MapTuning()

    def value(self, z: Array, fixed: Fixed) -> float:
        """Potential at z."""
        return float(self.functions.value(z, fixed, self.forward))

    def gradient(self, z: Array, fixed: Fixed) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Potential and its gradient."""
        return self.functions.gradient(z, fixed, self.reverse)

    @property
    def is_large(self) -> bool:
        """Whether there are too many globals for a matrix."""
        return self.functions.simulated > self.tuning.many_globals

    def matrix(self, z: Array, fixed: Fixed) -> tuple[Array, Array, Arrow | Array, Array]:
        """Potential, gradient, Gauss-Newton matrix and correction; the diagonal of the matrix for many globals."""
        if self.progress is not None:
            self.progress("matrix", 0, 1, {})  # it may take minutes
        if self.is_large:
            found = *self.functions.diagonal(z, fixed, self.reverse), fixed.correction
        else:
            found = self.functions.matrix(z, fixed, self.forward)
        if self.progress is not None:
            self.progress("matrix", 1, 1, {"log_density": -float(found[0] + fixed.correction @ z)})
        return found

    def settled(self, z: Array, fixed: Fixed) -> Float[Array, " n"]:
        """z with the parameters that reach no simulation at their maximum."""
        return self.functions.settle(z, fixed.spreads, self.forward, fixed.correction)


@dataclasses.dataclass(frozen=True)
class Optimum:
    """A maximum, or the place where the steps ran out."""

    z: Float[Array, " n"]
    potential: float  # without the correction of the errors
    matrix: Arrow | Float[Array, " n"]  # the diagonal for many globals
    correction: Float[Array, " n"]  # of the errors there
    steps: int
    converged: bool


class _Pass(NamedTuple):
    """One run of L-BFGS: its end, the potentials there and at its start, and what a Newton step from there promises."""

    z: Float[Array, " n"]
    before: float
    potential: float
    promised: float
    steps: int


def moved(
    density: Density, z: Array, fixed: Fixed, moves: Sequence[Mapping[str, Array]], steps: int = ClimbTuning().steps
) -> Float[Array, " n"]:
    """z with frames moved to better maxima where the log density of all of it grows."""
    began = time.monotonic()

    def tell(done, log_likelihood):
        if density.progress is not None:
            info = {"log_likelihood": log_likelihood, "seconds": time.monotonic() - began}
            density.progress("frames", done, len(moves) + 1, info)

    trial = moved_frames(
        density.functions.frames, z, moves, fixed.spreads, density.forward, tuning=ClimbTuning(steps=steps), tell=tell
    )
    trial = density.settled(trial, fixed)
    return trial if density.value(trial, fixed) < density.value(z, fixed) else z


def from_start(density: Density, z: Array, fixed: Fixed, tolerance: float) -> Optimum:
    """Parameters without simulation, damped Fisher-scoring steps where the globals are few, then `in_metric`."""
    z = density.settled(z, fixed)
    potential, gradient, matrix, _ = density.matrix(z, fixed)
    steps = 0
    if not density.is_large:
        z, matrix, steps = _damped_scoring(density, z, (potential, gradient, matrix), fixed)
    return in_metric(density, z, matrix, fixed, tolerance, steps)


def from_fitted(density: Density, z: Array, fixed: Fixed, tolerance: float) -> Optimum:
    """Every frame to its maximum, then L-BFGS in the metric of the matrix there, with the correction of the errors.

    The matrix and the correction are made at the errors of the start: at their maximum without a correction errors are
    too small, and so would the correction be wrong. Both are made again only if the fit ends farther from there than
    `short` standard deviations an element, or with other errors. A tolerance above `CONVERGED` asks for one pass in
    the first metric; `CONVERGED` grows with the number of parameters.
    """
    errors, tuning = density.functions.errors, density.tuning
    fitted = moved(density, density.settled(z, fixed), fixed, [], tuning.frame_steps)
    z = made_at = jnp.where(errors, z, fitted)
    matrix, correction = density.matrix(z, fixed)[2:]
    fixed = fixed._replace(correction=jnp.asarray(correction))
    steps, is_approximate = 0, tolerance > CONVERGED
    if tolerance == CONVERGED:
        tolerance = _by_number(density, len(z))
    while True:
        z = density.settled(z, fixed)
        z, before, potential, promised, more = _metric_lbfgs(
            density, z, matrix, fixed, tuning.max_steps - steps, tolerance
        )
        steps += more
        if is_approximate:
            return _optimum(z, potential, matrix, fixed.correction, fixed, steps, promised < 10 * tolerance)
        gained = before - potential
        has_other_errors = bool(np.any(np.abs(z - made_at)[errors] > tuning.same_errors))
        if has_other_errors or _distance(matrix, z - made_at) > tuning.short:
            potential, gradient, matrix, correction = density.matrix(z, fixed)
            change = jnp.asarray(correction) - fixed.correction
            potential, fixed = potential - change @ z, fixed._replace(correction=jnp.asarray(correction))
            made_at, promised, gained = z, _promise(matrix, gradient - change), np.inf
        converged = not has_other_errors and (promised < 10 * tolerance or gained < tolerance)
        if converged or steps >= tuning.max_steps or not np.isfinite(float(potential)):
            return _optimum(z, potential, matrix, fixed.correction, fixed, steps, converged)


def in_known_metric(density: Density, z: Array, matrix: Arrow, fixed: Fixed) -> Optimum:
    """L-BFGS from a maximum whose spreads have moved, in the metric of a matrix that is right there and serves on."""
    z, tolerance = density.settled(z, fixed), _by_number(density, len(z))
    z, _, potential, promised, steps = _metric_lbfgs(density, z, matrix, fixed, density.tuning.max_steps, tolerance)
    return _optimum(z, potential, matrix, fixed.correction, fixed, steps, promised < 10 * tolerance)


def _by_number(density: Density, parameters: int) -> float:
    """Tolerance that grows with the number of parameters, as the posterior's own scatter does."""
    return min(max(CONVERGED, density.tuning.noise * parameters), APPROXIMATE)


def in_metric(
    density: Density, z: Array, matrix: Arrow | Array, fixed: Fixed, tolerance: float, steps: int = 0
) -> Optimum:
    """L-BFGS in the metric of a matrix until a Newton step from the end promises no more gain, and the matrix there.

    A pass that gains nothing in a fresh metric ends it, too: what a Newton step promises beyond that is curvature the
    matrix leaves out. A tolerance above `CONVERGED` asks for one pass only: what follows moves the maximum again.
    """
    before = np.inf
    while True:
        z, _, _, _, more = _metric_lbfgs(density, z, matrix, fixed, density.tuning.max_steps - steps, tolerance)
        steps += more
        potential, gradient, matrix, correction = density.matrix(z, fixed)
        promised, gained = _promise(matrix, gradient), before - float(potential)
        converged = promised < 10 * tolerance or gained < tolerance
        if converged or tolerance > CONVERGED or steps >= density.tuning.max_steps or not np.isfinite(float(potential)):
            return _optimum(z, potential, matrix, correction, fixed, steps, converged)
        before = float(potential)


def _optimum(z, potential, matrix, correction, fixed, steps, converged) -> Optimum:
    return Optimum(z, float(potential + fixed.correction @ z), matrix, correction, steps, converged)


def _damped_scoring(density, z, state, fixed):
    """Levenberg-Marquardt; the damping follows the ratio of actual to predicted gain (Nielsen 1999)."""
    damping, growth, step, began = 1e-3, 2.0, 0, time.monotonic()
    max_steps = density.tuning.damped_steps
    potential, gradient, matrix = state
    for step in range(1, max_steps + 1):
        move, predicted = damped_step(matrix, gradient, damping)
        trial = density.value(z + move, fixed)
        gain = (float(potential) - trial) / float(predicted)
        if np.isfinite(trial) and gain > 1e-3:
            damping, growth = damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
            improvement = float(potential) - trial
            z = density.settled(z + move, fixed)
            potential, gradient, matrix, _ = density.matrix(z, fixed)
        else:
            improvement = np.inf
            damping, growth = damping * growth, growth * 2
        _report(density, step, -float(potential + fixed.correction @ z), began)
        if improvement < density.tuning.small_gain:
            break
    return z, matrix, step


def _metric_lbfgs(density, z, matrix, fixed, max_steps, tolerance) -> _Pass:
    """SciPy's L-BFGS in coordinates y with z = z_0 + H^(-1/2) y, so that a unit step is a Newton step."""
    forth, back = whitening(matrix)
    origin, began, count = np.asarray(z), time.monotonic(), 0
    first = density.gradient(jnp.asarray(origin), fixed)
    before = float(first[0])

    def whitened(y):
        potential, gradient = density.gradient(jnp.asarray(origin + forth(y)), fixed) if np.any(y) else first
        if not np.isfinite(float(potential)):
            return 1e30, np.zeros_like(y)
        return float(potential), back(np.asarray(gradient))

    def tell(intermediate_result):
        nonlocal count
        count += 1
        bonus = float(fixed.correction @ (origin + forth(intermediate_result.x)))
        _report(density, count, -float(intermediate_result.fun) - bonus, began)

    ftol = tolerance / max(abs(before), 1.0)  # SciPy's is relative to the value
    options = {"maxiter": max_steps, "maxcor": density.tuning.memory, "gtol": np.sqrt(tolerance) / 10, "ftol": ftol}
    end = minimize(whitened, np.zeros(len(origin)), jac=True, method="L-BFGS-B", callback=tell, options=options)
    promised = 0.5 * float(end.jac @ end.jac)
    return _Pass(jnp.asarray(origin + forth(end.x)), before, float(end.fun), promised, max(count, 1))


def whitening(matrix: Arrow | Float[Array, " n"]) -> tuple[Callable, Callable]:
    """y -> H^(-1/2) y and its transpose, for a matrix or the diagonal of one."""
    if not isinstance(matrix, Arrow):
        width = 1 / np.sqrt(np.asarray(matrix))
        return (lambda y: width * y), (lambda g: width * g)
    root = matrix.root(WHITENED)
    return (lambda y: np.asarray(_forth(root, y))), (lambda g: np.asarray(_back(root, g)))


_forth, _back = jax.jit(ArrowRoot.forth), jax.jit(ArrowRoot.back)


def _distance(matrix, step) -> float:
    """Root mean square of a step's elements, in standard deviations."""
    return float(jnp.sqrt(step @ (matrix @ step if isinstance(matrix, Arrow) else matrix * step) / len(step)))


def _promise(matrix, gradient) -> float:
    """The gain in log density that the quadratic model predicts for a full step; no end where it has no maximum."""
    if not isinstance(matrix, Arrow):
        return float(0.5 * jnp.sum(gradient**2 / matrix))
    gain = float(damped_step(matrix, gradient, 0.0)[1])
    return gain if gain >= 0 else np.inf


def _report(density, step, log_density, began):
    if density.progress is not None:
        info = {"log_density": log_density, "seconds": time.monotonic() - began}
        density.progress("map", step, 0, info)  # nobody knows how many it will take


@jax.jit
def damped_step(matrix: Arrow, gradient: Array, damping: float | Array) -> tuple[Array, Array]:
    """Solve (H + damping diag H) step = -g; also the gain the quadratic model predicts."""
    diagonal = jnp.maximum(matrix.diagonal(), LEAST)
    damped = matrix + arrow_of_diagonal(damping * diagonal, len(matrix.shared), matrix.sizes)
    step = -damped.root().solve(gradient)
    return step, -(gradient @ step + 0.5 * step @ (matrix @ step))
