"""From reflections integrated by DIALS to an `Experiment`: orientation matrix, rotation axis, scan, intensities.

    python examples/from_dials.py                                    # writes a small data set of its own first
    python examples/from_dials.py integrated.expt reflections.csv --structure structure.cif

The usual way is `dials.export format=pets integrated.expt integrated.refl`: pendel reads what it writes. This script
shows what is behind it, for data of other programs. It reads the models of a DIALS experiment list (JSON) and a table
h, k, l, intensity, variance, phi_deg, which DIALS' Python can write from the columns miller_index,
intensity.sum.value, intensity.sum.variance and xyzcal.mm (third component, there in radians). It was run on the files
that it writes itself, not on output of DIALS.

Covered: one crystal, one scan, a rotation axis perpendicular to the beam, one orientation for the whole scan (pendel
refines a small tilt of every frame). Not covered: scan-varying crystals, partial reflections. Intensities must be sums
over the whole passage without Lorentz factor, as in the column named above: pendel integrates over the sweep of a
frame and takes a reflection to pass within it, so frames must be wide compared with rocking curves, or refined with
`--integration curve`.
"""

# %%
import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

import pendel
from pendel.datasets import example
from pendel.experiment.frames import Experiment, central_vectors
from pendel.files.pets_out import write_pets
from pendel.simulate.thickness import tapered

QUICK = {"every": 10, "g_max": 1.2, "sg_max": 0.005, "tilts": 9}
FULL = {"every": 1, "g_max": 1.6, "sg_max": 0.01, "tilts": 31}


# %%
def read_dials(models: Path, table: Path, images_per_frame: int) -> Experiment:
    """Frames of so many images; every reflection in the frame that its calculated angle falls into."""
    found = json.loads(models.read_text(encoding="utf-8"))
    crystal, beam, goniometer, scan = (found[key][0] for key in ("crystal", "beam", "goniometer", "scan"))
    vectors = np.array([crystal[f"real_space_{axis}"] for axis in "abc"])  # rows a, b, c [Å]
    fixed, setting = (np.reshape(goniometer[f"{kind}_rotation"], (3, 3)) for kind in ("fixed", "setting"))
    # DIALS: g = setting . rotation(axis, phi) . fixed . A h; the columns of A are a*, b*, c*.
    into_laboratory = laboratory_axes(setting @ goniometer["rotation_axis"], beam["direction"])
    orientation = into_laboratory @ setting @ fixed @ np.linalg.inv(vectors)
    metric = vectors @ vectors.T
    lengths = np.sqrt(np.diag(metric))
    angles = np.degrees(np.arccos((metric / np.outer(lengths, lengths))[[1, 0, 0], [2, 2, 1]]))

    starts = np.array(scan["properties"]["oscillation"])  # of every image [deg]
    sweep = images_per_frame * (starts[1] - starts[0])
    count = len(starts) // images_per_frame
    rows = np.genfromtxt(table, delimiter=",", names=True)
    frame = np.floor((rows["phi_deg"] - starts[0]) / sweep).astype(int)
    rows, frame = rows[(frame >= 0) & (frame < count)], frame[(frame >= 0) & (frame < count)]
    hkl = np.column_stack([rows[name] for name in "hkl"]).astype(int)
    return Experiment(
        name=table.stem,
        geometry="rotation",
        cell=tuple(map(float, (*lengths, *angles))),
        wavelength=beam["wavelength"],
        dstar_max=float(np.linalg.norm(hkl @ orientation.T, axis=1).max()),
        selection="all",
        notes=(),
        orientation=orientation,
        frame_id=np.arange(1, count + 1),
        alpha=starts[0] + sweep * (np.arange(count) + 0.5),
        beta=np.zeros(count),
        semi_angle=np.full(count, sweep / 2),
        frame_index=frame,
        hkl=hkl,
        intensity=rows["intensity"],
        sigma=np.sqrt(rows["variance"]),
        weight=np.ones(len(rows), dtype=int),
    )


def laboratory_axes(axis, to_source) -> np.ndarray:
    """The rotation that takes the goniometer axis to x and the direction from sample to source to z."""
    x, z = np.asarray(axis) / np.linalg.norm(axis), np.asarray(to_source) / np.linalg.norm(to_source)
    if abs(x @ z) > 0.01:
        raise pendel.InputError(
            found=f"a rotation axis {np.degrees(np.arccos(x @ z)):.2f}° from the beam",
            expected="90°",
            do="use `dials.export format=pets`, which gives every frame its own angles",
        )
    y = np.cross(z, x) / np.linalg.norm(np.cross(z, x))
    return np.stack([np.cross(y, z), y, z])


# %%
def write_like_dials(folder: Path, measured: Experiment, images_per_frame: int) -> tuple[Path, Path]:
    """The embedded example as DIALS would give it, in a laboratory with other axes: stands in for real data."""
    turn = Rotation.from_euler("zyx", [35, 4, 0], degrees=True).as_matrix()
    vectors = np.linalg.inv(turn @ measured.orientation)
    sweep = 2 * measured.semi_angle[0]
    images = images_per_frame * len(measured.alpha)
    starts = measured.alpha[0] - sweep / 2 + sweep / images_per_frame * np.arange(images)
    rotations = {f"{kind}_rotation": np.eye(3).ravel().tolist() for kind in ("fixed", "setting")}
    models = {
        "crystal": [{f"real_space_{name}": row.tolist() for name, row in zip("abc", vectors, strict=True)}],
        "beam": [{"direction": turn[:, 2].tolist(), "wavelength": measured.wavelength}],
        "goniometer": [{"rotation_axis": turn[:, 0].tolist(), **rotations}],
        "scan": [{"image_range": [1, images], "properties": {"oscillation": starts.tolist()}}],
    }
    (folder / "integrated.expt").write_text(json.dumps(models))
    with open(folder / "reflections.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("h", "k", "l", "intensity", "variance", "phi_deg"))
        for hkl, *numbers in zip(
            measured.hkl, measured.intensity, measured.sigma**2, passage_angles(measured), strict=True
        ):
            writer.writerow([*map(int, hkl), *map(float, numbers)])
    return folder / "integrated.expt", folder / "reflections.csv"


def passage_angles(measured: Experiment) -> np.ndarray:
    """Angle [deg] nearest to its frame at which S_g = 0: g_y sin(phi) + g_z cos(phi) = wavelength g² / 2."""
    g = measured.hkl @ measured.orientation.T
    level = 0.5 * measured.wavelength * (g * g).sum(axis=1) / np.hypot(g[:, 1], g[:, 2])
    both = np.degrees(np.arctan2(g[:, 1], g[:, 2]) + np.outer([1, -1], np.arccos(level)))
    centre = measured.alpha[measured.frame_index]
    away = (both - centre + 180) % 360 - 180
    return centre + np.where(abs(away[0]) < abs(away[1]), *away)


def r_factor(crystal: pendel.Crystal, experiment: Experiment, **beams) -> tuple[float, float]:
    """R_obs, and the median thickness [Å], at the start values that a scan finds; nothing is refined."""
    plan = pendel.make_plan(crystal, experiment, thickness_max=2000.0, **beams)
    start = pendel.find_start(crystal, (pendel.DataSet(experiment, plan),)).values[0]
    nodes, weights = tapered(start["log_thickness"], start["log_taper"])
    illumination = pendel.Illumination(tilt=start["tilt"], thickness=nodes, weights=weights)
    level = pendel.simulate_intensities(crystal, plan, illumination)
    calculated = np.exp(start["log_scale"])[experiment.frame_index] * level
    found = pendel.agreement(experiment.intensity, experiment.sigma, calculated, experiment.frame_index)
    return found.r_obs_pooled, float(np.exp(np.median(start["log_thickness"])))


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="integrated.expt reflections.csv, or none")
    parser.add_argument("--structure", type=Path, help="CIF; that of the embedded example if not given")
    parser.add_argument("--images-per-frame", type=int, default=20)
    parser.add_argument("--out", type=Path, help="folder; a temporary one if not given")
    parser.add_argument("--quick", action="store_true", help="three frames, to see that it runs")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="dials-"))
    out.mkdir(parents=True, exist_ok=True)
    original = pendel.read_pets(example().data)
    files = arguments.files or write_like_dials(out, original, arguments.images_per_frame)

    experiment = read_dials(*files, arguments.images_per_frame)
    cell = " ".join(f"{value:.3f}" for value in experiment.cell)
    print(f"{len(experiment.hkl)} reflections on {len(experiment.frame_id)} frames, cell {cell}")
    if not arguments.files:
        same = experiment.frame_index == original.frame_index  # others pass at the edge between two frames
        away = np.abs(central_vectors(experiment) - central_vectors(original))[same].max()
        print(f"{100 * same.mean():.1f} % in the frame they came from, their g the same within {away:.1e} Å⁻¹")

    beams = dict(QUICK if arguments.quick else FULL)
    chosen = pendel.thin(pendel.select(experiment, "nearest"), slice(None, None, beams.pop("every")))
    crystal = pendel.read_crystal(arguments.structure or example().data)  # the example's data hold its structure
    r_obs, thickness = r_factor(crystal, chosen, **beams)
    print(f"R_obs {100 * r_obs:.1f} % of {len(chosen.hkl)} reflections, thickness near {thickness:.0f} Å, unrefined")
    write_pets(out / "reflections.cif_pets", experiment)
    print(f"refine it: pendel refine structure.cif {out / 'reflections.cif_pets'} --out run")


if __name__ == "__main__":
    main()
