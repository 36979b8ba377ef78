"""Restraints in fits: what silent data leave is what the restraints say, and chains get along with many of them."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from pendel.crystal.atom import Atom
from pendel.crystal.parameters import displaced, with_parameters
from pendel.crystal.residuals import residuals
from pendel.crystal.restraints import Distance, NearlyIsotropic, Plane, RigidBonds, SameDistances, SimilarTensors
from pendel.crystal.sites import Sites
from pendel.crystal.structure import make_crystal
from pendel.infer.chains.nuts import ChainTuning, sample_nuts
from pendel.infer.maximum.map import fit_map
from pendel.infer.maximum.optimise import MapTuning
from pendel.infer.target import make_target
from pendel.judge.chains import chain_quality
from pendel.model import sample_structure
from pendel.model.simulation import simulated

FRAME = np.repeat(np.arange(2), 9)
RING = 1.4 * np.array([[np.cos(x), np.sin(x), 0.0] for x in np.arange(6) * np.pi / 3])


def here(*sites):
    return tuple(Atom(site, 0, (0, 0, 0)) for site in sites)


def ring(*restraints):
    """Six carbon atoms in P 1, displaced by 0.1 Å from a regular hexagon."""
    moved = RING + 5.0 + 0.1 * np.random.default_rng(2).standard_normal((6, 3))
    made = make_crystal(
        name="ring",
        cell=(10.0, 10.0, 10.0, 90.0, 90.0, 90.0),
        spacegroup="P 1",
        rotations=np.eye(3, dtype=int)[None],
        translations=np.zeros((1, 3)),
        sites=Sites(
            labels=tuple(f"C{n}" for n in range(6)),
            elements=("C",) * 6,
            fract=moved / 10.0,
            u_aniso=np.tile(0.03 * np.eye(3), (6, 1, 1)),
            occupancy=np.ones(6),
            isotropic=(False,) * 6,
        ),
    )
    return replace(made, restraints=restraints)


def model(displacement, crystal, *, y=None):
    """Positions with much noise: the data say next to nothing."""
    structure = sample_structure(crystal, displacement=displacement, log_strain=0.5)
    with numpyro.plate("frames", 2):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
    places = simulated("simulated", lambda fract: fract.ravel(), structure.fract)
    infer = {"plate": "frames", "frame": FRAME}
    numpyro.sample("intensity", dist.Normal(places + offset[FRAME], 1e4), obs=y, infer=infer)


def bonded(*numbers, target=1.40, sd=0.02):
    pairs = tuple(here(a, b) for a, b in numbers)
    return Distance(card="DFIX", pairs=pairs, distance=target, sd=sd)


@pytest.mark.parametrize(("target", "sd"), [(1.40, 0.02), (1.52, 0.05)])
def test_silent_data_leave_the_restraint(target, sd):
    """The distance at the maximum is the target, and its standard deviation is that of the restraint."""
    crystal = ring(bonded((0, 1), target=target, sd=sd))
    fit = fit_map(make_target(partial(model, 3.0), crystal, y=np.zeros(18)), tuning=MapTuning(rounds=0, tolerance=1e-4))

    def length(z):
        moved = with_parameters(crystal, displacement=fit.layout.constrain(z)["displacement"])
        return target + residuals(moved, crystal.restraints[0])[0][0]

    z = jnp.asarray(fit.unconstrained)
    slope = jax.grad(length)(z)
    assert float(length(z)) == pytest.approx(target, abs=2e-4)
    assert float(np.sqrt(slope @ fit.covariance @ slope)) == pytest.approx(sd, rel=1e-3)


def twenty():
    """One restraint each of the cards, and single distances."""
    around = [(n, (n + 1) % 6) for n in range(6)]
    across = [(n, (n + 2) % 6) for n in range(6)]
    single = [bonded(pair, sd=0.02) for pair in around] + [bonded(pair, target=2.425, sd=0.04) for pair in across]
    pairs = tuple(here(*pair) for pair in around)
    return (
        *single,
        SameDistances(pairs=pairs, sd=0.02),
        Plane(atoms=here(*range(6)), sd=0.05),
        SimilarTensors(pairs=pairs[:3], sds=(0.04,) * 3),
        SimilarTensors(pairs=pairs[3:], sds=(0.04,) * 3),
        RigidBonds(pairs=pairs[:3], sds=(0.004,) * 3),
        RigidBonds(pairs=pairs[3:], sds=(0.004,) * 3),
        NearlyIsotropic(atoms=here(0, 1, 2), sds=(0.1,) * 3),
        NearlyIsotropic(atoms=here(3, 4, 5), sds=(0.1,) * 3),
    )


def test_many_restraints_lead_back_from_a_place_where_their_curvature_is_negative():
    """Six atoms 0.1 Å off twelve distances with silent data: there the exact second derivatives are no metric."""
    crystal = ring(*twenty()[:12])
    target = make_target(partial(model, 0.05), crystal, y=np.zeros(18))
    fit = fit_map(target, tuning=MapTuning(rounds=0))

    def potential(z):
        return target.negative_log_density(target.layout.split(z), fit.spreads, target.data)

    exact = jax.jit(jax.hessian(potential))
    start, end = (jnp.zeros(target.layout.size), jnp.asarray(fit.unconstrained))
    assert np.linalg.eigvalsh(np.asarray(exact(start)))[0] < -100
    assert not fit.root.raised
    slope = np.asarray(jax.grad(potential)(end))
    assert 0.5 * slope @ fit.covariance @ slope < 0.1  # what a Newton step would still gain
    width, true = np.sqrt(np.diag(fit.covariance)), np.sqrt(np.diag(np.linalg.inv(np.asarray(exact(end)))))
    np.testing.assert_allclose(width, true, rtol=0.05)


def lengths(crystal, draws, pair):
    fract = np.asarray(jax.vmap(lambda d: displaced(crystal, d))(draws.reshape(-1, draws.shape[-1])))
    return np.linalg.norm((fract[:, pair[1]] - fract[:, pair[0]]) * 10.0, axis=1)


@pytest.mark.slow
def test_chains_sample_twenty_restraints_without_divergences():
    crystal = ring(*twenty())
    assert len(crystal.restraints) == 20
    target = make_target(partial(model, 0.05), crystal, y=np.zeros(18))
    fit = fit_map(target, tuning=MapTuning(rounds=0))
    assert fit.converged
    tuning = ChainTuning(chains=2, warmup=100, draws=300)
    found = sample_nuts(target, start=fit, key=jax.random.key(0), tuning=tuning)
    assert not np.any(found.statistics["diverging"])
    quality = chain_quality({name: np.asarray(x) for name, x in found.draws.items()})
    assert quality["max_r_hat"] < 1.05
    assert quality["min_ess_bulk"] > 100
    between = lengths(crystal, np.asarray(found.draws["displacement"]), (0, 1))
    assert np.mean(between) == pytest.approx(1.40, abs=0.02)
    assert np.std(between) < 0.02
