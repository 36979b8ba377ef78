"""Blocks of which models are made: structure, errors, frames, simulation, observation.

Arguments are the numbers of the priors. A model that needs another prior writes the lines of a block out in its file.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Bool, Float
from numpyro.distributions.transforms import AffineTransform

from pendel.base import Array, InputError
from pendel.crystal.occupancies import free_occupancies
from pendel.crystal.parameters import with_parameters
from pendel.crystal.structure import Crystal
from pendel.model.dataset import DataSet
from pendel.model.hydrogen import sample_hydrogen
from pendel.model.restrain import restrain
from pendel.model.simulation import simulated
from pendel.model.spread import Spread
from pendel.model.thickness_prior import Family, sample_thickness
from pendel.simulate import Illumination, simulate_intensities
from pendel.simulate.mosaic import EXPECTED
from pendel.simulate.thickness import Profile

REFLECTION_ERROR = "reflection_error"  # the site that no calculated intensity depends on
CHOICES = ("auto", "on", "off")  # of a term that a model may have


def sample_structure(
    crystal: Crystal,
    *,
    displacement: float,
    log_strain: float,
    logit_occupancy: float | None = None,
    clouds: str = "shifted",
    log_contraction: float | None = None,
) -> Crystal:
    """The crystal with coordinates and displacement tensors, and perhaps occupancies, drawn from their priors.

        displacement ~ Normal(0, s), log_strain ~ Normal(0, s), logit_occupancy ~ Normal(logit(start), s)
        contraction ~ LogNormal(0, s)

    U = sqrt(U_0) exp(log_strain) sqrt(U_0) is positive definite. Hydrogen follows its parents (`sample_hydrogen`), and
    the restraints of the start structure multiply the prior (`restrain`).
    Sites: displacement, log_strain, logit_occupancy, contraction; derived: fract, U_aniso [Å²], occupancy.

    Args:
        displacement: standard deviation along every direction that the site symmetry allows [Å].
        log_strain: standard deviation, no unit.
        logit_occupancy: standard deviation, no unit, for the sites that start below 1, one number for all sites that
            are there together (`pendel.crystal.occupancies`); None: no occupancy is free.
        clouds: "shifted" or "spherical", the electron clouds of hydrogen, see `sample_hydrogen`.
        log_contraction: standard deviation, no unit, of one contraction of all atoms but hydrogen
            (`pendel.crystal.form_factors.contracted_form_factors`); None: free atoms.

    Raises InputError when occupancies are to be free and none, or all, of them start below 1, and for other clouds.
    """
    positions, adps = len(crystal.position_basis), len(crystal.adp_basis)
    moves: Any = numpyro.sample("displacement", dist.Normal(0, displacement).expand([positions]).to_event(1))
    strain: Any = numpyro.sample("log_strain", dist.Normal(0, log_strain).expand([adps]).to_event(1))
    occupancy = None if logit_occupancy is None else _sample_occupancy(crystal, logit_occupancy)
    structure = with_parameters(crystal, displacement=moves, log_strain=strain, occupancy=occupancy)
    structure = sample_hydrogen(structure, clouds)
    if log_contraction is not None:
        contraction = numpyro.sample("contraction", dist.LogNormal(0, log_contraction))
        structure = dataclasses.replace(structure, contraction=contraction)
    restrain(structure)
    numpyro.deterministic("fract", structure.fract)
    numpyro.deterministic("U_aniso", structure.u_aniso)
    return structure


def _sample_occupancy(crystal: Crystal, deviation: float) -> Any:
    """Occupancies [sites] between 0 and 1, free where they start below 1; one must stay: the scale moves them all."""
    free, sites = free_occupancies(crystal), len(crystal.labels)
    if not 0 < len(free.sites) < sites:
        raise InputError(
            found=f"{len(free.sites)} of {sites} sites with an occupancy below 1",
            expected="at least one to refine and at least one to stay fixed",
            do="write a start value such as 0.9 for the occupancies to refine into the CIF, and 1 for the others",
        )
    start = jnp.asarray(crystal.occupancy)
    first = start[free.leaders]
    guess = dist.Normal(jnp.log(first / (1 - first)), deviation).to_event(1)
    logit: Any = numpyro.sample("logit_occupancy", guess)
    group = jax.nn.sigmoid(logit)[free.parameter]
    values = jnp.where(free.complement, 1 - group, group)
    return numpyro.deterministic("occupancy", start.at[free.sites].set(values))


def sample_errors(suffix: str = "", /, *, a: float, b: float, nu: float) -> dict[str, Any]:
    """Parameters a, b and nu of Student-t errors (`student_t`), drawn from their priors.

        a ~ LogNormal(log a, 0.5), b ~ LogNormal(log b, 0.5), nu ~ 2 + LogNormal(log nu, 0.5)

    nu is above 2, or the best fit to few data is one that meets some of them exactly and calls the others outliers.

    Args:
        suffix: ending of the sites' names, `data.suffix` for errors that a data set has for itself.
        a, b, nu: medians; of nu that of nu - 2.
    """
    excess = dist.LogNormal(jnp.log(nu), 0.5)
    above_two = AffineTransform(2.0, 1.0, domain=excess.support)
    return {
        "a": numpyro.sample(f"a{suffix}", dist.LogNormal(jnp.log(a), 0.5)),
        "b": numpyro.sample(f"b{suffix}", dist.LogNormal(jnp.log(b), 0.5)),
        "nu": numpyro.sample(f"nu{suffix}", dist.TransformedDistribution(excess, above_two)),
    }


def sample_background(data: DataSet, deviation: float = 1.0) -> Float[Array, " reflections"]:
    """The background of every measurement, drawn from its prior: one number of the data set times sigma.

        background ~ Normal(0, deviation)

    Integrated intensities of weak reflections are too large on average where the background was subtracted too little.
    A model without this term explains the excess by thickness distributions that pile up at zero.

    Args:
        deviation: standard deviation, in units of the reported sigma.

    Returns:
        background sigma_m, in the unit of the intensities.
    """
    number: Any = numpyro.sample(f"background{data.suffix}", dist.Normal(0, deviation))
    return number * jnp.asarray(data.experiment.sigma)


@dataclasses.dataclass(frozen=True)
class ReflectionErrors:
    """Errors that the measurements of a data set share with those of equivalent reflections.

    `factor` on I_calc; `deviation`: standard deviation of its logarithm, 0 for weak reflections. Both are None where
    the model has no such errors.
    """

    factor: Float[Array, " reflections"] | None = None
    deviation: Float[Array, " reflections"] | None = None

    def __call__(self, calculated: Float[Array, " reflections"]) -> Float[Array, " reflections"]:
        """I_calc with its errors."""
        return calculated if self.factor is None else calculated * self.factor


def sample_reflection_errors(datasets: Sequence[DataSet], choice: str, spread: Spread) -> tuple[ReflectionErrors, ...]:
    """Relative errors common to all measurements of a unique reflection, drawn from their prior, by data set.

        reflection_error_h ~ Normal(0, reflection_spread)

    A structure factor that is wrong, because atoms in bonds differ from free ones, a disorder is missing, or beams were
    left out, is wrong in every frame and for all equivalents. Without this term n measurements of a reflection count as
    n independent errors, and the uncertainties of the structure come out too small.
    Sites: reflection_error, reflection_spread.

    Args:
        datasets: crystals of one structure, whose reflections have common numbers (`pendel.with_equivalents`).
        choice: "on", "off", or "auto": where measurements have the numbers of their unique reflections.
        spread: standard deviation of the logarithm of the intensities.

    Raises InputError for another choice, and for "on" with measurements without such numbers.
    """
    _known(REFLECTION_ERROR, choice)
    unknown = any(data.experiment.reflection is None for data in datasets)
    if choice == "on" and unknown:
        raise InputError(
            found="reflection_error 'on', and measurements without numbers of unique reflections",
            expected="a number for every measurement, the same for equivalents",
            do="make the data sets from the experiments of pendel.with_equivalents(crystal, experiments)",
        )
    count = max(data.experiment.unique for data in datasets)
    if choice == "off" or unknown or count == 0:
        return (ReflectionErrors(),) * len(datasets)
    deviation: Any = spread.sample("reflection_spread")
    errors: Any = numpyro.sample(REFLECTION_ERROR, dist.Normal(0, deviation).expand([count]).to_event(1))
    factor, widths = jnp.exp(jnp.append(errors, 0.0)), deviation * jnp.append(jnp.ones(count), 0.0)
    numbers = [jnp.asarray(data.experiment.reflection) for data in datasets]
    return tuple(ReflectionErrors(factor[number], widths[number]) for number in numbers)


def sample_frames(
    data: DataSet,
    thickness: str | Family | Callable[[DataSet], Profile],
    *,
    log_scale: float,
    scale_spread: Spread,
    tilt_spread: Spread,
) -> tuple[Any, Illumination]:
    """The scale of every frame [frames], and its tilt and thickness distribution, drawn from their priors.

        log_scale_f ~ Normal(log_scale_mean, scale_spread), tilt_f ~ Normal(0, tilt_spread)
        log_scale_mean ~ Normal(log of the strongest intensity, log_scale)

    Sites: log_scale_mean, scale_spread, tilt_spread [2], log_scale, tilt, and those of the thickness; derived: scale.

    Args:
        thickness: name of a family, a family, or a function that draws nodes [Å] and weights of a data set's frames.
        log_scale: standard deviation of the mean of log scale: I_calc is a fraction of the incident beam, of which the
            strongest measured reflection is a good part.
        scale_spread: of log scale from frame to frame.
        tilt_spread: of the tilts about x and y of the laboratory [deg].

    Raises InputError for a name that is no family.
    """
    end, strongest = data.suffix, jnp.log(jnp.max(data.experiment.intensity))
    mean = numpyro.sample(f"log_scale_mean{end}", dist.Normal(strongest, log_scale))
    spread = scale_spread.sample(f"scale_spread{end}")
    misorientation = tilt_spread.sample(f"tilt_spread{end}", 2)
    with numpyro.plate(data.frames, data.plan.frames):
        log_scales: Any = numpyro.sample(f"log_scale{end}", dist.Normal(mean, spread))
        tilt: Any = numpyro.sample(f"tilt{end}", dist.Normal(0, misorientation).to_event(1))
    nodes, weights = thickness(data) if callable(thickness) else sample_thickness(data, thickness)
    scale = numpyro.deterministic(f"scale{end}", jnp.exp(log_scales))
    return scale, Illumination(tilt=tilt, thickness=nodes, weights=weights)


def sample_absorption(data: DataSet, choice: str, *, log_strength: float) -> Any:
    """Strength kappa ~ LogNormal(0, s) of the absorption by thermal diffuse scattering, or None for none.

    What atoms scatter thermally is not always lost for the detector, so kappa is one number for each crystal.
    Site: absorption.

    Args:
        choice: "on", "off", or "auto": where it matters, see `pendel.simulate.planning.absorbs`.
        log_strength: standard deviation s, no unit.

    Raises InputError for another choice.
    """
    _known("absorption", choice)
    if choice == "off" or (choice == "auto" and not data.plan.is_absorbing):
        return None
    return numpyro.sample(f"absorption{data.suffix}", dist.LogNormal(0, log_strength))


def sample_mosaicity(data: DataSet, choice: str, *, scale: float | None = None) -> Any:
    """Standard deviation of the orientation of blocks, mosaicity ~ HalfNormal(scale) [deg], or None for one block.

    One number for each crystal; a half-normal density does not keep it from zero. Data reduction states 0.05 to 0.2
    degrees for crystals of quartz, urea, albite and paracetamol, and 0 for CsPbBr3. Site: mosaicity.

    Args:
        choice: "on", "off", or "auto": where the plan has tilts for it.
        scale: of the prior [deg]; what the plan expects when not given.

    Raises InputError for another choice, and for "on" with a plan that has no tilts for it.
    """
    _known("mosaicity", choice)
    if choice == "off" or (choice == "auto" and not data.plan.is_mosaic):
        return None
    expected = scale or data.plan.settings.mosaicity or EXPECTED
    return numpyro.sample(f"mosaicity{data.suffix}", dist.HalfNormal(expected))


def _known(option: str, choice: str) -> None:
    """Raises InputError for a choice of an option that is none."""
    if choice not in CHOICES:
        expected = " or ".join(map(repr, CHOICES))
        raise InputError(found=f"{option} {choice!r}", expected=expected, do="change the option of the model")


def simulate(
    structure: Crystal, data: DataSet, illumination: Illumination, simulator: Callable = simulate_intensities
) -> Any:
    """I_calc of every measurement, incident beam = 1, from the simulator; inference knows it as `simulated`."""
    return simulated(f"simulated{data.suffix}", simulator, structure, data.plan, illumination)


def observe(
    data: DataSet,
    calculated: Float[Array, " reflections"],
    errors: dist.Distribution,
    *,
    intensities: tuple[Float[Array, " _"], ...] | None,
    mask: tuple[Bool[Array, " _"], ...] | None,
    background: Float[Array, " reflections"] | None = None,
    common: ReflectionErrors = ReflectionErrors(),
) -> None:
    """Measured intensities of a data set, distributed as `errors` says; site: intensity.

    Derived: `calculated`, the mean of I_obs that the model expects, I_calc + background, and with a background
    `calculated_background`. R factors, residuals and files compare I_obs with `calculated`; difference maps and scales
    that are refitted need the background by itself. Errors that are common to equivalents are no part of `calculated`,
    which is what the structure says; `calculated_common` is their standard deviation.

    Args:
        calculated: I_calc on the scale of the data, without the background and the errors common to equivalents.
        errors: one independent distribution for each measurement.
        intensities, mask: of all data sets, as a model is given them.
        background: as in `student_t`. common: from `sample_reflection_errors`.
    """
    if common.deviation is not None:
        numpyro.deterministic(f"calculated_common{data.suffix}", common.deviation * calculated)
    if background is not None:
        numpyro.deterministic(f"calculated_background{data.suffix}", background)
        calculated = calculated + background
    numpyro.deterministic(f"calculated{data.suffix}", calculated)
    with numpyro.handlers.mask(mask=True if mask is None else mask[data.number]):
        numpyro.sample(
            f"intensity{data.suffix}",
            errors,
            obs=None if intensities is None else intensities[data.number],
            infer={"plate": data.frames, "frame": data.experiment.frame_index},
        )
