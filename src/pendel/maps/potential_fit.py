"""The change of the crystal potential that explains what a dynamical fit leaves over.

With many scattering events an intensity is no longer proportional to |V_g|^2, so sqrt(I_obs / I_calc) says little about
V_g. What the data say about it are the derivatives of every intensity with respect to every V_g, those of unmeasured
beams included. All changes are solved for together, and with them the frames, which a fit of an incomplete structure
has bent to its needs:

    minimise over x, z   sum_i ((I_obs,i - k_f I_i(V + dV, frames)) / s_i)^2 + sum_g |x_g|^2 + sum_f |z_f|^2
    dV = P (p x),        tilt_f + 0.1 deg (z_f1, z_f2),        t_f exp(0.1 z_f3)

k_f is the best scale of frame f, P the projection on what the space group allows, and p_g the amplitude with which a
standard normal x is the effect of a missing carbon atom at a random position: Gaussian priors, or ridges. Every round
takes the derivatives at the present point and solves the linear problem by conjugate gradients, which need products
with the Jacobian and its transpose only: some hundreds of simulations, whatever the number of unknowns.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Int

from pendel.base import Array, InputError
from pendel.constants import ELECTRON_MASS, ELEMENTARY_CHARGE, PLANCK, relativistic_gamma
from pendel.crystal.form_factors import form_factors
from pendel.crystal.structure import Crystal, reciprocal_matrix, volume
from pendel.model.dataset import DataSet
from pendel.simulate import Illumination, simulate_intensities
from pendel.simulate.beams import reflections_within

VOLT_ANGSTROM2 = PLANCK**2 / (2 * ELECTRON_MASS * ELEMENTARY_CHARGE) * 1e20  # V_g gamma / U_g = h^2 / (2 m e) [V Å²]
PRIOR_ELEMENT, PRIOR_U = "C", 0.015  # the missing atom of the prior, and its U_iso [Å²]
TILT_DEG, THICKNESS = 0.1, 0.1  # prior standard deviations of a frame's tilt about x and y, and of log thickness
ROUNDS, STEPS = 8, 10  # linearisations, and conjugate-gradient steps in each
SETTLED = 0.95  # a round that leaves more of the mean squared residual is the last


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedData:
    """One measured crystal and what a fit says about it: the illumination of its frames, and the errors."""

    data: DataSet
    illumination: Illumination
    scatter: Float[Array, " reflections"]  # standard deviation of I_obs about I_calc, in the unit of the data


@dataclasses.dataclass(frozen=True, kw_only=True)
class PotentialChange:
    """Fourier coefficients of a change of the potential, for all hkl of a sphere, Friedel mates included."""

    hkl: Int[Array, "g 3"]
    coefficient: Complex[Array, " g"]  # dV_g [V], of exp(-2 pi i h.r)
    misfit_before: float  # mean squared residual in units of `scatter`, scales refitted
    misfit_after: float


def fit_potential(
    crystal: Crystal, data: Sequence[FittedData], *, resolution: float, rounds: int = ROUNDS
) -> PotentialChange:
    """The change dV_g [V] of all reflections with |g| < resolution; see the formula of the module.

    Errors s_i are `scatter`, in every round times the fourth root of the mean squared residual while that is above 1:
    far from the solution residuals are more than errors of measurement.

    Args:
        crystal: the structure at the fit.
        data: measured crystals; scale, tilt and thickness of every frame are refitted.
        resolution: [Å⁻¹], no more than that of the data.
        rounds: largest number of times that derivatives are taken; no more once the residuals settle.

    Raises:
        InputError: no reflection below the resolution, scatter that is not positive, intensities that are not finite.
    """
    data = tuple(data)
    _check(data)
    hkl, image, phase = symmetric_sphere(crystal, resolution)
    amplitude = prior_amplitude(crystal, hkl)
    support = tuple(_positions(hkl, np.asarray(item.data.plan.support_hkl)) for item in data)
    unknown = jnp.zeros((2, len(hkl))), tuple(jnp.zeros((item.data.plan.frames, 3)) for item in data)
    misfits = []
    for _ in range(rounds):
        moved, before, after = _round(unknown, crystal, data, support, image, phase, amplitude)
        misfits = misfits or [float(before)]
        if not np.isfinite(misfits[0]):
            raise InputError(
                found="calculated intensities are not finite",
                expected="thickness nodes within the plan's thickness_max",
                do="make the plan with a larger thickness_max",
            )
        if not float(after) < misfits[-1]:
            break
        unknown = moved
        misfits.append(float(after))
        if misfits[-1] > SETTLED * misfits[-2]:
            break
    coefficient = np.asarray(_project(unknown[0], image, phase, amplitude))
    return PotentialChange(hkl=hkl, coefficient=coefficient, misfit_before=misfits[0], misfit_after=misfits[-1])


def symmetric_sphere(
    crystal: Crystal, resolution: float
) -> tuple[Int[np.ndarray, "g 3"], Int[np.ndarray, "images g"], Complex[np.ndarray, "ops g"]]:
    """All hkl with |g| < resolution, where their images h R (ops) and then -h stand, and exp(2 pi i h.t) of every op.

    F(h R) = F(h) exp(-2 pi i h.t) for an operation x' = R x + t. Raises InputError when the sphere is empty.
    """
    hkl = reflections_within(crystal, resolution)
    rotations = np.asarray(crystal.rotations)
    # A measured cell may miss its symmetry a little: orbits that the sphere cuts are left out.
    hkl = hkl[np.all([_positions(hkl, hkl @ rotation) < len(hkl) for rotation in rotations], axis=0)]
    if not len(hkl):
        raise InputError(
            found=f"there is no reflection below {resolution} Å⁻¹",
            expected="a resolution above the shortest reciprocal vector",
            do="raise the resolution of the map",
        )
    image = np.stack([*(_positions(hkl, hkl @ rotation) for rotation in rotations), _positions(hkl, -hkl)])
    phase = np.exp(2j * np.pi * (hkl @ np.asarray(crystal.translations).T)).T
    return hkl, image, phase


def prior_amplitude(crystal: Crystal, hkl: Int[Array, "g 3"]) -> Float[np.ndarray, " g"]:
    """p_g [V]: P (p x) with standard normal x has the variance of one missing site, n^2 f^2 / n for n operations.

    V_g = h^2 / (2 pi m e V_cell) f(g) exp(-2 pi^2 U g^2) per atom.
    """
    g = np.linalg.norm(np.asarray(hkl) @ reciprocal_matrix(crystal.cell).T, axis=1)
    factor = form_factors((PRIOR_ELEMENT,), g)[0] * np.exp(-2 * np.pi**2 * PRIOR_U * g**2)
    return np.asarray(len(crystal.rotations) * VOLT_ANGSTROM2 / (np.pi * volume(crystal.cell)) * factor)


@jax.jit
def _round(unknown, *shared):
    """The unknowns after some conjugate-gradient steps, and the mean squared residuals before and after them.

    They solve (J^T J / q + 1) dx = -J^T r / q - x with J = dr / dx and q the square root of mean r^2, or 1.
    """
    forward, reverse = (partial(_residuals, shared=shared, mode=mode) for mode in ("forward", "reverse"))
    residual, transpose = jax.vjp(reverse, unknown)
    before = jnp.mean(residual**2)
    inflation = jnp.sqrt(jnp.maximum(before, 1.0))

    def product(direction):
        (back,) = transpose(jax.jvp(forward, (unknown,), (direction,))[1])
        return jax.tree.map(lambda data, prior: data / inflation + prior, back, direction)

    right = jax.tree.map(lambda data, prior: -data / inflation - prior, transpose(residual)[0], unknown)
    step, _ = jax.scipy.sparse.linalg.cg(product, right, tol=1e-4, maxiter=STEPS)
    unknown = jax.tree.map(jnp.add, unknown, step)
    return unknown, before, jnp.mean(forward(unknown) ** 2)


def _residuals(unknown, *, shared, mode):
    """(I_obs - k I_calc) / s of all measurements, with the k of every frame that makes their squares smallest."""
    crystal, data, support, image, phase, amplitude = shared
    change = _project(unknown[0], image, phase, amplitude)
    parts = []
    for item, places, z in zip(data, support, unknown[1], strict=True):
        experiment, plan, fitted = item.data.experiment, item.data.plan.with_mode(mode), item.illumination
        own = jnp.append(change, 0.0)[places] * relativistic_gamma(plan.wavelength) / VOLT_ANGSTROM2
        bent = dataclasses.replace(
            fitted,
            tilt=fitted.tilt + TILT_DEG * z[:, :2],
            thickness=fitted.thickness * jnp.exp(THICKNESS * z[:, 2:]),
        )
        calculated = simulate_intensities(crystal, plan, bent, u_change=own) / item.scatter
        measured = jnp.asarray(experiment.intensity) / item.scatter
        frame, count = jnp.asarray(experiment.frame_index), plan.frames
        top = jax.ops.segment_sum(calculated * measured, frame, count)
        bottom = jax.ops.segment_sum(calculated**2, frame, count)
        scale = top / jnp.where(bottom > 0, bottom, 1.0)
        parts.append(measured - scale[frame] * calculated)
    return jnp.concatenate(parts)


def _project(x, image, phase, amplitude):
    """dV_g [V]: the mean over all equivalents, Friedel mates included, of p x."""
    free = amplitude * (x[0] + 1j * x[1])
    symmetric = jnp.mean(free[image[:-1]] * phase, axis=0)
    return 0.5 * (symmetric + jnp.conj(symmetric[image[-1]]))


def _positions(hkl: Int[np.ndarray, "g 3"], wanted: Int[np.ndarray, "w 3"]) -> Int[np.ndarray, " w"]:
    """Where the wanted rows stand in hkl; len(hkl) where they do not."""
    reach = int(max(np.abs(hkl).max(initial=0), np.abs(wanted).max(initial=0)))
    base = np.array([(2 * reach + 1) ** 2, 2 * reach + 1, 1])
    keys, asked = hkl @ base, wanted @ base
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys, asked, sorter=order), len(keys) - 1)
    return np.where(keys[order[place]] == asked, order[place], len(keys)) if len(keys) else np.zeros(len(wanted), int)


def _check(data: tuple[FittedData, ...]) -> None:
    if not data:
        raise InputError(found="no data", expected="at least one measured crystal", do="give the data of the fit")
    for item in data:
        scatter = np.asarray(item.scatter)
        if not (np.all(np.isfinite(scatter)) and np.all(scatter > 0)):
            raise InputError(
                found=f"the smallest standard deviation is {np.min(scatter)} in {item.data.name}",
                expected="positive standard deviations",
                do="give the standard deviations of the error model",
            )
