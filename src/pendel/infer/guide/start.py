"""Where the neural guide starts: the conditionals of a Laplace approximation at all spreads of its hierarchies."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.infer.guide.neural import NeuralGuide, PlateShape, network
from pendel.infer.layout import Layout
from pendel.infer.maximum.arrow import ArrowRoot
from pendel.infer.maximum.spreads import Integrated

HIDDEN = 32
HARMONICS = 8  # of the angle's range; a profile that bends over 20 degrees of 100 needs five
MEANS, SLOPES = 4.0, 0.2  # importance of these outputs in the network's first fit, that of the others is 1
ASIDE = 1.0  # standard deviations of the spreads to either side, where the slopes are taken


class Conditionals(NamedTuple):
    """Of one plate in the order of the angle: profile given globals and the frame before, nuisance given both."""

    targets: Float[Array, "frames outputs"]  # of the network
    mean: Float[Array, "frames nuisance"]
    regression: Float[Array, "frames nuisance globals_and_profile"]
    root: Float[Array, "frames nuisance nuisance"]


def neural_guide(
    layout: Layout, full: Layout, angles: Mapping[str, Array], key: Array, integrated: Integrated
) -> NeuralGuide:
    """A guide that starts as the Markov approximation of Laplace at all spreads.

    Args:
        layout, full: of the model without its spreads and with them.
        angles: goniometer angle [deg] of the frames of every plate.
        key: for the start of the network's weights.
        integrated: the spreads, and the Laplace approximation at any of them.
    """
    elements = {name: _elements(layout, name, angles[name]) for name, (_, _, width) in layout.plates.items() if width}

    def around(log_spreads):
        """Centre, root of the globals, conditionals of every plate; whole roots for all spreads take much memory."""
        centre, root = integrated.at(log_spreads)
        conditionals = {name: _conditionals(*own, centre, root) for name, own in elements.items()}
        return centre, np.asarray(root.shared), conditionals

    centre, root, here = around(integrated.log_spreads)
    beside = [
        [around(integrated.log_spreads + sign * ASIDE * column) for sign in (1, -1)] for column in integrated.root.T
    ]
    count, spreads = layout.globals, len(beside)
    slopes = np.array([(up[0] - down[0])[:count] / (2 * ASIDE) for up, down in beside]).reshape(spreads, count)
    log_diagonals = [[np.log(np.diagonal(one[1])) for one in pair] for pair in beside]
    of_root = np.array([(up - down) / (2 * ASIDE) for up, down in log_diagonals]).reshape(spreads, count)
    start: dict[str, Array] = {
        "spread_shift": jnp.zeros(spreads),
        "spread_root": jnp.zeros((spreads, spreads)),
        "global_shift": jnp.zeros(count),
        "global_root": jnp.zeros((count, count)),
        "global_by_spreads": jnp.asarray(np.linalg.solve(root, slopes.T)),
        "global_root_by_spreads": jnp.asarray(of_root.T),
    }
    plates = []
    for name, own in elements.items():
        key, sub = jax.random.split(key)
        pairs = [(up[2][name], down[2][name]) for up, down in beside]
        plate, own = _plate(name, own, here[name], pairs, np.asarray(angles[name]), sub)
        start |= {f"{name}_{site}": value for site, value in own.items()}
        plates.append(plate)
    return NeuralGuide(
        layout,
        full,
        centre,
        root,
        integrated.log_spreads,
        integrated.root,
        integrated.unravel,
        tuple(plates),
        start,
    )


def _elements(layout: Layout, name: str, angle) -> tuple[Int[Array, "frames profile"], Int[Array, "frames nuisance"]]:
    """Elements of z of one plate, frames in the order of the angle."""
    offset, frames, width = layout.plates[name]
    flags = np.concatenate(
        [np.full(int(np.prod(s.shape)) // frames, s.profile) for s in layout.sites if s.plate == name]
    )
    element = (offset + width * np.arange(frames)[:, None] + np.arange(width))[np.argsort(angle)]
    return element[:, flags], element[:, ~flags]


def _plate(
    name: str, elements, here: Conditionals, pairs: Sequence[tuple[Conditionals, Conditionals]], angle, key
) -> tuple[PlateShape, dict[str, Array]]:
    """Shape of one plate and the start of its parameters; `pairs`: to either side along every spread."""
    (profile, nuisance), order, frames = elements, np.argsort(angle), len(angle)

    def slopes(of) -> np.ndarray:
        """Along every spread, on the leading axis."""
        found = [(of(up) - of(down)) / (2 * ASIDE) for up, down in pairs]
        return np.array(found).reshape(len(pairs), *np.shape(of(here)))

    of_targets = slopes(lambda c: c.targets)
    targets = np.concatenate([here.targets, *of_targets], axis=1)
    unit = np.concatenate([np.std(here.targets, axis=0), *np.sqrt(np.mean(of_targets**2, axis=1))]) + 1e-6
    scaled = 2 * (angle[order] - angle.min()) / max(np.ptp(angle), 1e-9) - 1
    phase = 0.5 * np.pi * np.outer(scaled + 1, np.arange(1, HARMONICS + 1))
    features = np.concatenate([scaled[:, None], np.cos(phase), np.sin(phase)], axis=1)
    plate = PlateShape(name, features, profile, nuisance, here.regression, here.root, targets, unit)

    by_spreads = np.moveaxis(slopes(lambda c: c.mean), 0, -1)
    of_roots = np.moveaxis(slopes(lambda c: np.log(np.diagonal(c.root, axis1=1, axis2=2))), 0, -1)
    number = nuisance.shape[1]
    start = {
        "shift": jnp.zeros((frames, number)),
        "root": jnp.zeros((frames, number, number)),
        "by_spreads": jnp.asarray(np.linalg.solve(here.root, by_spreads)),
        "root_by_spreads": jnp.asarray(of_roots),
    }
    return plate, start | (_fitted_network(plate, len(pairs), key) if profile.shape[1] else {})


def _conditionals(profile, nuisance, centre, root: ArrowRoot) -> Conditionals:
    """Of a normal distribution of all parameters with this root of its covariance."""
    places = np.concatenate([np.roll(profile, 1, axis=0), profile, nuisance], axis=1)
    within, with_shared = map(np.asarray, root.of_groups(places))
    of_shared = np.broadcast_to(root.shared @ root.shared.T, (len(profile), *root.shared.shape))
    covariances = np.block([[of_shared, np.swapaxes(with_shared, 1, 2)], [with_shared, within]])
    shared, before, here, rest_of_frame = np.split(
        np.arange(covariances.shape[1]), np.cumsum([len(root.shared), profile.shape[1], profile.shape[1]])
    )
    targets, regressions, roots = [], [], []
    for f, covariance in enumerate(covariances):
        slope, rest = _conditional(covariance, here, np.concatenate([shared, before]) if f else shared)
        link = slope[:, len(shared) :] if f else np.zeros((len(here), len(here)))
        lower = np.linalg.cholesky(rest) if len(here) else rest
        np.fill_diagonal(lower, np.log(np.diagonal(lower)))
        by_globals = _conditional(covariance, here, shared)[0]
        targets.append(np.concatenate([centre[profile[f]], link.ravel(), lower.ravel(), by_globals.ravel()]))
        slope, rest = _conditional(covariance, rest_of_frame, np.concatenate([shared, here]))
        regressions.append(slope)
        roots.append(np.linalg.cholesky(rest))
    return Conditionals(np.array(targets), centre[nuisance], np.array(regressions), np.array(roots))


def _conditional(covariance, here, given):
    """Regression slope of elements `here` on elements `given`, and the covariance that is left."""
    slope = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, here)]).T
    rest = covariance[np.ix_(here, here)] - slope @ covariance[np.ix_(given, here)]
    return slope, 0.5 * (rest + rest.T)


def _fitted_network(plate: PlateShape, spreads: int, key: Array, steps: int = 3000) -> dict[str, Array]:
    """Weights that reproduce Laplace's conditionals as smooth functions of the angle, by least squares."""
    inputs, outputs = plate.features.shape[1], plate.targets.shape[1]
    here = outputs // (1 + spreads)  # the conditionals themselves; their slopes follow
    first, second = jax.random.split(key)
    weights = {
        "w1": jax.random.normal(first, (inputs, HIDDEN)) / np.sqrt(inputs),
        "b1": jnp.zeros(HIDDEN),
        "w2": jax.random.normal(second, (HIDDEN, outputs)) * 0.1 / np.sqrt(HIDDEN),
        "b2": jnp.zeros(outputs),
    }
    wanted = (plate.targets - plate.targets.mean(axis=0)) / plate.unit
    importance = np.ones(outputs)
    importance[: plate.profile.shape[1]] = MEANS
    importance[here:] = SLOPES
    return _least_squares(weights, jnp.asarray(plate.features), jnp.asarray(wanted), jnp.asarray(importance), steps)


@partial(jax.jit, static_argnums=4)
def _least_squares(weights, features, wanted, importance, steps):
    optimiser = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    @jax.grad
    def slope(w):
        return jnp.mean(importance * (network(w, features) - wanted) ** 2)

    def step(_, carry):
        w, state = carry
        update, state = optimiser.update(slope(w), state)
        return optax.apply_updates(w, update), state

    weights = jax.lax.fori_loop(0, steps, step, (weights, optimiser.init(weights)))[0]
    # The last layer is linear: its best weights, held to moderate size, follow directly.
    hidden = jnp.tanh(features @ weights["w1"] + weights["b1"])
    inputs = jnp.concatenate([hidden, jnp.ones((len(hidden), 1))], axis=1)
    normal = inputs.T @ inputs + 1e-4 * jnp.eye(inputs.shape[1])
    last = jnp.concatenate([weights["w2"], weights["b2"][None]])
    last = last + jnp.linalg.solve(normal, inputs.T @ (wanted - inputs @ last))
    return {**weights, "w2": last[:-1], "b2": last[-1]}
