"""Synthetic experiments: the frames and reflections of a real data file, intensities of a known structure."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from pendel.base import Array, InputError
from pendel.check.imperfections import SG_MAX, Imperfections
from pendel.crystal.recognise import with_shifted_clouds
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment
from pendel.files.cif import read_crystal
from pendel.files.pets_out import write_pets
from pendel.files.whole_file import write_text
from pendel.run.inputs import read_rows, with_cell
from pendel.run.settings import Settings, check_options, check_settings
from pendel.simulate import Illumination, simulate_intensities
from pendel.simulate.planning import plan_with, settings_of
from pendel.simulate.thickness import lognormal, wedge

NODES = 16  # of the thickness distribution; a fit uses 12
NODES_ACROSS = 6  # of a spread of the orientation; a fit uses 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A simulated experiment and what it was made from."""

    experiment: Experiment
    misorientation_deg: Float[Array, "frames 2"]
    thickness: Float[Array, "frames"]  # mean, Å
    thickness_width: Float[Array, "frames"]  # standard deviation, Å


def simulate_files(
    structure: Path, data: Path, out: Path, settings: Settings, imperfections: Imperfections
) -> Synthetic:
    """Simulate `structure` in the frames of `data` and write `out`; raises InputError for anything unusable.

    Hydrogen sites are nuclei where the file has them; their electron clouds are 0.12 Å nearer to their parents.
    """
    check_settings(settings, 1)
    if out.resolve() in (structure.resolve(), data.resolve()):
        raise InputError(found=f"--out {out} is an input", expected="another file", do="choose another --out")
    crystal = read_crystal(structure, block=settings.block, hydrogen=settings.hydrogen != "off")
    geometry = read_rows(data, crystal, settings)
    crystal = with_shifted_clouds(with_cell(crystal, geometry.cell))
    synthetic = simulate_experiment(
        crystal,
        geometry,
        imperfections,
        seed=settings.seed,
        tilts=settings.tilts,
        g_max=settings.g_max,
        sg_max=settings.sg_max or SG_MAX,
    )
    write_synthetic(out, synthetic, crystal)
    return synthetic


def simulate_experiment(
    crystal: Crystal,
    geometry: Experiment,
    imperfections: Imperfections,
    *,
    seed: int,
    tilts: int | None = None,
    g_max: float | None = None,
    sg_max: float = SG_MAX,
) -> Synthetic:
    """Measurements of `crystal` in the frames and at the reflections of `geometry`, with noise.

    Args:
        seed: of misorientations, model errors and counts.
        tilts, g_max [Å⁻¹], sg_max [Å⁻¹]: as in `pendel.make_plan`.

    Raises InputError for imperfections that make no sense.
    """
    check_options(imperfections)
    generator = np.random.default_rng(seed)
    frames = len(geometry.frame_id)
    relative = 1 + imperfections.slope * (geometry.alpha - np.mean(geometry.alpha))
    if np.any(relative <= 0.05):
        raise InputError(
            found=f"with --slope-per-degree {imperfections.slope} the crystal has no thickness at some angle",
            expected="at least a twentieth of its mean thickness at every angle",
            do="use a smaller slope",
        )
    density = wedge if imperfections.is_wedge else lognormal
    log_mean, width = np.log(imperfections.thickness * relative), imperfections.width * relative
    nodes, weights = (np.asarray(x) for x in density(log_mean, np.log(width), NODES))
    tilt = imperfections.misorientation_deg * generator.standard_normal((frames, 2))
    chosen = {"g_max": g_max, "sg_max": sg_max, "tilts": tilts, "thickness_max": 1.01 * float(nodes.max())}
    finer = {"dtype": "float64", "mosaicity": imperfections.mosaicity, "nodes_across": NODES_ACROSS}
    plan = plan_with(crystal, geometry, dataclasses.replace(settings_of(geometry, **chosen), **finer), tilt)
    illumination = Illumination(
        tilt=tilt,
        thickness=nodes,
        weights=weights,
        absorption=imperfections.absorption or None,
        mosaicity=imperfections.mosaicity or None,
    )
    exact = np.asarray(jax.jit(simulate_intensities)(crystal, plan, illumination))
    intensity, sigma = measured(exact, imperfections, generator)
    mean = np.sum(weights * nodes, axis=1)
    stated = {"notes": ("simulated",), "mosaicity": imperfections.mosaicity}
    return Synthetic(
        experiment=dataclasses.replace(geometry, intensity=intensity, sigma=sigma, **stated),
        misorientation_deg=tilt,
        thickness=mean,
        thickness_width=np.sqrt(np.sum(weights * (nodes - mean[:, None]) ** 2, axis=1)),
    )


def write_synthetic(path: Path, synthetic: Synthetic, truth: Crystal) -> None:
    """A `.cif_pets` file with the truth: structure, misorientations, and `_pendel_thickness_` by frame [Å].

    Raises InputError when it cannot be written.
    """
    write_pets(path, synthetic.experiment, truth=truth, misorientation_deg=synthetic.misorientation_deg)
    columns = (synthetic.experiment.frame_id, synthetic.thickness, synthetic.thickness_width)
    names = ("frame_id", "mean_angstrom", "sd_angstrom")
    lines = ["loop_", *(f"_pendel_thickness_{name}" for name in names)]
    lines += [f"{frame} {mean:.2f} {width:.2f}" for frame, mean, width in zip(*columns, strict=True)]
    write_text(path, path.read_text(encoding="utf-8").rstrip("\n") + "\n\n" + "\n".join(lines) + "\n")


def measured(
    exact: Float[np.ndarray, "reflections"], imperfections: Imperfections, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "reflections"], Float[np.ndarray, "reflections"]]:
    """Intensities N - background and their sigmas sqrt(N), in counts N ~ Poisson(I (1 + model error) + background).

    Args:
        exact: calculated intensities in any unit; the strongest one gets `imperfections.counts`.
    """
    scaled = exact * imperfections.counts / exact.max()
    wrong = np.maximum(scaled * (1 + imperfections.model_error * generator.standard_normal(len(exact))), 0.0)
    counted = generator.poisson(wrong + imperfections.background)
    return counted - imperfections.background, np.sqrt(np.maximum(counted, 1.0))
