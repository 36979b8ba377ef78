"""Hydrogen in a model: which sites it has, with which priors, and that the structure follows them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from pendel.base import InputError
from pendel.crystal.cell import direct_matrix
from pendel.crystal.recognise import with_hydrogen
from pendel.crystal.sites import Sites
from pendel.crystal.structure import make_crystal
from pendel.infer.target import make_target
from pendel.model import sample_structure
from pendel.model.simulation import simulated

CELL = (9.0, 10.0, 11.0, 90.0, 95.0, 90.0)
ATOMS = {
    "C1": (2.0, 2.0, 2.0),
    "C2": (3.5, 2.0, 2.0),
    "O1": (4.1, 3.25, 2.0),
    "H1": (4.95, 3.2, 2.0),
    "H1A": (1.64, 3.02, 2.0),
    "H1B": (1.64, 1.49, 2.88),
    "H1C": (1.64, 1.49, 1.12),
    "O9": (6.0, 7.0, 6.0),
    "H9A": (6.8, 7.0, 6.5),
    "H9B": (5.2, 7.0, 6.5),
}


def ethanoid(mode):
    inverse = np.linalg.inv(direct_matrix(CELL))
    made = make_crystal(
        name="molecule",
        cell=CELL,
        spacegroup="P 1",
        rotations=np.eye(3, dtype=int)[None],
        translations=np.zeros((1, 3)),
        sites=Sites(
            labels=tuple(ATOMS),
            elements=tuple(label[0] for label in ATOMS),
            fract=np.array([inverse @ np.array(xyz) for xyz in ATOMS.values()]),
            u_aniso=np.tile(0.03 * np.eye(3), (len(ATOMS), 1, 1)),
            occupancy=np.ones(len(ATOMS)),
            isotropic=(True,) * len(ATOMS),
        ),
    )
    return with_hydrogen(made, mode) if mode else made


def trace_of(mode, **options):
    def model():
        return sample_structure(ethanoid(mode), displacement=0.05, log_strain=0.5, **options)

    traced = handlers.trace(handlers.seed(model, jax.random.key(3)))
    return traced.get_trace()


def latent(trace):
    return {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}


def test_sites_and_priors_of_riding_hydrogen():
    found = latent(trace_of("ride"))
    assert set(found) == {
        *("displacement", "log_strain", "hydrogen_stretch", "hydrogen_torsion", "hydrogen_rotation"),
        *("hydrogen_u_factor", "hydrogen_cloud"),
    }
    stretch = found["hydrogen_stretch"]["fn"].base_dist
    assert np.allclose(stretch.loc, 0)
    assert np.allclose(stretch.scale, [0.010, 0.012])
    torsion = found["hydrogen_torsion"]["fn"].base_dist
    assert np.allclose(torsion.high, [np.pi, np.pi / 3])  # hydroxyl, then methyl, in the order of the file
    cloud = found["hydrogen_cloud"]["fn"]
    assert (float(cloud.loc), float(cloud.scale)) == (0.12, 0.03)
    factor = found["hydrogen_u_factor"]["fn"].base_dist
    assert np.allclose(np.exp(factor.loc), [1.5])
    assert found["hydrogen_rotation"]["value"].shape == (1, 3)


def test_the_structure_has_the_distances_that_were_drawn():
    trace = trace_of("ride")
    places = np.asarray(trace["fract"]["value"]) @ direct_matrix(CELL).T
    drawn = np.asarray(trace["hydrogen_distance"]["value"])
    assert np.allclose(drawn, np.array([1.089, 0.970]) + trace["hydrogen_stretch"]["value"])
    names = list(ATOMS)
    for first, second, row in (("C1", "H1A", 0), ("C1", "H1C", 0), ("O1", "H1", 1), ("O9", "H9B", 1)):
        length = np.linalg.norm(places[names.index(first)] - places[names.index(second)])
        assert length == pytest.approx(drawn[row], abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "options", "without"), [("free", {}, "stretch"), ("ride", {"clouds": "spherical"}, "cloud")]
)
def test_sites_of_other_choices(mode, options, without):
    found = latent(trace_of(mode, **options))
    assert f"hydrogen_{without}" not in found
    assert "hydrogen_u_factor" in found


def test_unknown_clouds_are_refused():
    with pytest.raises(InputError, match="louds 'round'"):
        trace_of("ride", clouds="round")


def test_as_plain_atoms_hydrogen_adds_nothing():
    assert set(latent(trace_of(None))) == {"displacement", "log_strain"}


def test_priors_are_proper():
    for site in latent(trace_of("ride")).values():
        assert isinstance(site["fn"], dist.Distribution)
        assert np.isfinite(float(np.sum(site["fn"].log_prob(site["value"]))))


def measured(crystal, *, y=None):
    """Intensities are the coordinates, with an error that is a parameter."""
    structure = sample_structure(crystal, displacement=0.05, log_strain=0.5)
    with numpyro.plate("frames", 2):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
    places = simulated("simulated", lambda s: jnp.concatenate([s.fract.ravel(), s.cloud.ravel()]), structure)
    error = numpyro.sample("error", dist.LogNormal(0.0, 1.0))
    frame = np.arange(len(y)) % 2
    observed = {"obs": y, "infer": {"plate": "frames", "frame": frame}}
    numpyro.sample("intensity", dist.Normal(places + offset[frame], error), **observed)


@pytest.mark.parametrize("mode", ["ride", "free"])
def test_inference_tells_hydrogen_from_errors(mode):
    """At zero, where inference looks at what depends on what, the density and its slope are finite."""
    target = make_target(measured, ethanoid(mode), y=np.zeros(6 * len(ATOMS)))
    assert target.errors == {"error"}
    hydrogen = {site.name for site in target.layout.sites if site.name.startswith("hydrogen")}
    assert hydrogen - {"hydrogen_u_factor"} <= target.simulated
    zeros = {site.name: jnp.zeros(site.shape) for site in target.layout.sites}
    value, slope = jax.value_and_grad(target.negative_log_density)(zeros)
    assert np.isfinite(float(value))
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in slope.values())
