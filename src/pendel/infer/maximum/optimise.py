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
from pendel.infer.maximum.frame_moves import STEPS, moved_frames
from pendel.infer.maximum.objective import Held, Objective

MANY_GLOBALS = 200  # above this many, forward passes cost more than reverse-mode steps save
CONVERGED = 0.1  # gain of a pass in log density
ROUGH = 20 * CONVERGED  # where the spreads still move, or more frames or beams follow
DAMPED_STEPS = 3
SMALL_GAIN = 30.0  # in log density; below it L-BFGS is cheaper than another matrix
NOISE = 2e-3  # log density a parameter (draws scatter by half): gain too small for a costly step
SETTLING = 6  # of frames that have been near their maximum with other beams or globals
SHORT = 1.0  # standard deviations an element, up to which a matrix is still good
MEMORY = 40  # gradients L-BFGS remembers
Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Density:
    """A log density: its compiled functions, and the data they are given in either mode."""

    functions: Objective
    forward: tuple
    reverse: tuple
    progress: Progress | None

    def value(self, z: Array, held: Held) -> float:
        """Potential at z."""
        return float(self.functions.value(z, held, self.forward))

    def gradient(self, z: Array, held: Held) -> tuple[Float[Array, ""], Float[Array, " n"]]:
        """Potential and its gradient."""
        return self.functions.gradient(z, held, self.reverse)

    @property
    def is_large(self) -> bool:
        """Whether there are too many globals for a matrix."""
        return self.functions.layout.globals > MANY_GLOBALS

    def matrix(self, z: Array, held: Held) -> tuple[Array, Array, Array, Array]:
        """Potential, gradient, the Gauss-Newton matrix and the credit of the errors; its diagonal for many globals."""
        if self.is_large:
            return *self.functions.diagonal(z, held, self.reverse), held.credit
        return self.functions.matrix(z, held, self.forward)

    def cheap(self, z: Array, held: Held) -> Float[Array, " n"]:
        """z with the parameters that the simulator does not see at their maximum."""
        return self.functions.cheap(z, held.spreads, self.forward, held.credit)


@dataclasses.dataclass(frozen=True)
class Optimum:
    """A maximum, or the place where the steps ran out."""

    z: Float[Array, " n"]
    potential: float  # without the credit of the errors
    matrix: Float[Array, "n n"] | Float[Array, " n"]  # a diagonal for many globals
    credit: Float[Array, " n"]  # of the errors there
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
    density: Density, z: Array, held: Held, moves: Sequence[Mapping[str, Array]], steps: int = STEPS
) -> Float[Array, " n"]:
    """z with frames moved to better maxima where the log density of all of it grows."""
    began = time.monotonic()

    def tell(done, log_likelihood):
        if density.progress is not None:
            info = {"log_likelihood": log_likelihood, "seconds": time.monotonic() - began}
            density.progress("frames", done, len(moves) + 1, info)

    trial = moved_frames(density.functions.frames, z, moves, held.spreads, density.forward, steps=steps, tell=tell)
    trial = density.cheap(trial, held)
    return trial if density.value(trial, held) < density.value(z, held) else z


def from_start(density: Density, z: Array, held: Held, max_steps: int, tolerance: float) -> Optimum:
    """Cheap parameters, damped Fisher-scoring steps where the globals are few, then `in_metric`."""
    z = density.cheap(z, held)
    potential, gradient, matrix, _ = density.matrix(z, held)
    steps = 0
    if not density.is_large:
        z, matrix, steps = _damped_scoring(density, z, (potential, gradient, matrix), held, DAMPED_STEPS)
    return in_metric(density, z, matrix, held, max_steps, tolerance, steps)


def from_near(density: Density, z: Array, held: Held, max_steps: int, tolerance: float) -> Optimum:
    """Cheap parameters, every frame to its maximum, then L-BFGS in the metric of the matrix there, errors credited.

    The matrix is made again only if the fit ends farther from there than `SHORT` standard deviations an element. A
    tolerance above `CONVERGED` asks for one pass in the first metric; `CONVERGED` grows with the number of parameters.
    """
    z = moved(density, density.cheap(z, held), held, [], SETTLING)
    matrix, credit = density.matrix(z, held)[2:]
    held = held._replace(credit=jnp.asarray(credit))
    steps, made_at, is_rough = 0, z, tolerance > CONVERGED
    if tolerance == CONVERGED:
        tolerance = min(max(CONVERGED, NOISE * len(z)), ROUGH)
    while True:
        z, before, potential, promised, more = _metric_lbfgs(density, z, matrix, held, max_steps - steps, tolerance)
        steps += more
        if is_rough:
            return _optimum(z, potential, matrix, credit, held, steps, promised < 10 * tolerance)
        if _distance(matrix, z - made_at) > SHORT:
            potential, gradient, matrix, credit = density.matrix(z, held)
            made_at, promised = z, _promise(matrix, gradient)
        converged = promised < 10 * tolerance or before - float(potential) < tolerance
        if converged or steps >= max_steps or not np.isfinite(float(potential)):
            return _optimum(z, potential, matrix, credit, held, steps, converged)


def in_metric(
    density: Density, z: Array, matrix: Array, held: Held, max_steps: int, tolerance: float, steps: int = 0
) -> Optimum:
    """L-BFGS in the metric of a matrix until a Newton step from the end promises no more gain, and the matrix there.

    A pass that gains nothing in a fresh metric ends it, too: what a Newton step promises beyond that is curvature the
    matrix leaves out. A tolerance above `CONVERGED` asks for one pass only: what follows moves the maximum again.
    """
    before = np.inf
    while True:
        z, _, _, _, more = _metric_lbfgs(density, z, matrix, held, max_steps - steps, tolerance)
        steps += more
        potential, gradient, matrix, credit = density.matrix(z, held)
        promised, gained = _promise(matrix, gradient), before - float(potential)
        converged = promised < 10 * tolerance or gained < tolerance
        if converged or tolerance > CONVERGED or steps >= max_steps or not np.isfinite(float(potential)):
            return _optimum(z, potential, matrix, credit, held, steps, converged)
        before = float(potential)


def _optimum(z, potential, matrix, credit, held, steps, converged) -> Optimum:
    return Optimum(z, float(potential + held.credit @ z), matrix, credit, steps, converged)


def _damped_scoring(density, z, state, held, max_steps):
    """Levenberg-Marquardt; the damping follows the ratio of actual to predicted gain (Nielsen 1999)."""
    damping, growth, step, began = 1e-3, 2.0, 0, time.monotonic()
    potential, gradient, matrix = state
    for step in range(1, max_steps + 1):
        move, predicted = damped_step(matrix, gradient, damping)
        trial = density.value(z + move, held)
        gain = (float(potential) - trial) / float(predicted)
        if np.isfinite(trial) and gain > 1e-3:
            damping, growth = damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
            improvement = float(potential) - trial
            z = density.cheap(z + move, held)
            potential, gradient, matrix, _ = density.matrix(z, held)
        else:
            improvement = np.inf
            damping, growth = damping * growth, growth * 2
        _report(density, step, max_steps, -float(potential + held.credit @ z), began)
        if improvement < SMALL_GAIN:
            break
    return z, matrix, step


def _metric_lbfgs(density, z, matrix, held, max_steps, tolerance) -> _Pass:
    """SciPy's L-BFGS in coordinates y with z = z_0 + H^(-1/2) y, so that a unit step is a Newton step."""
    forth, back = whitening(np.asarray(matrix))
    origin, began, count = np.asarray(z), time.monotonic(), 0
    first = density.gradient(jnp.asarray(origin), held)
    before = float(first[0])

    def whitened(y):
        potential, gradient = density.gradient(jnp.asarray(origin + forth(y)), held) if np.any(y) else first
        if not np.isfinite(float(potential)):
            return 1e30, np.zeros_like(y)
        return float(potential), back(np.asarray(gradient))

    def tell(intermediate_result):
        nonlocal count
        count += 1
        bonus = float(held.credit @ (origin + forth(intermediate_result.x)))
        _report(density, count, max_steps, -float(intermediate_result.fun) - bonus, began)

    ftol = tolerance / max(abs(before), 1.0)  # SciPy's is relative to the value
    options = {"maxiter": max_steps, "maxcor": MEMORY, "gtol": np.sqrt(tolerance) / 10, "ftol": ftol}
    end = minimize(whitened, np.zeros(len(origin)), jac=True, method="L-BFGS-B", callback=tell, options=options)
    promised = 0.5 * float(end.jac @ end.jac)
    return _Pass(jnp.asarray(origin + forth(end.x)), before, float(end.fun), promised, max(count, 1))


def whitening(matrix: np.ndarray) -> tuple[Callable, Callable]:
    """y -> H^(-1/2) y and its transpose, for a matrix or the diagonal of one."""
    if matrix.ndim == 1:
        width = 1 / np.sqrt(matrix)
        return (lambda y: width * y), (lambda g: width * g)
    value, vector = np.linalg.eigh(matrix)
    root = vector / np.sqrt(np.maximum(value, 1e-6 * value[-1]))
    return (lambda y: root @ y), (lambda g: root.T @ g)


def _distance(matrix, step) -> float:
    """Root mean square of a step's elements, in standard deviations."""
    square = jnp.sum(step**2 * matrix) if matrix.ndim == 1 else step @ matrix @ step
    return float(jnp.sqrt(square / len(step)))


def _promise(matrix, gradient) -> float:
    """The gain in log density that the quadratic model predicts for a full step."""
    if matrix.ndim == 1:
        return float(0.5 * jnp.sum(gradient**2 / matrix))
    return float(damped_step(matrix, gradient, 0.0)[1])


def _report(density, step, total, log_density, began):
    if density.progress is not None:
        info = {"log_density": log_density, "seconds": time.monotonic() - began}
        density.progress("map", step, total, info)


@jax.jit
def damped_step(matrix: Array, gradient: Array, damping: float | Array) -> tuple[Array, Array]:
    """Solve (H + damping diag H) step = -g; also the gain the quadratic model predicts."""
    diagonal = jnp.maximum(jnp.diag(matrix), 1e-6)
    damped = matrix + jnp.diag(damping * diagonal)
    value, vector = jnp.linalg.eigh(damped / jnp.sqrt(jnp.outer(diagonal, diagonal)))
    scaled = gradient / jnp.sqrt(diagonal)
    step = -(vector @ ((vector.T @ scaled) / jnp.maximum(value, 1e-9))) / jnp.sqrt(diagonal)
    return step, -(gradient @ step + 0.5 * step @ matrix @ step)
