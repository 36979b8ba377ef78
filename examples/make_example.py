"""The embedded example from scratch: a tilt series of alpha-quartz that no microscope has measured.

    python examples/make_example.py --out src/pendel/data/example

writes quartz_truth.cif, quartz_start.cif and quartz_example.cif_pets; the last by `pendel simulate` with more tilts and
finer beams than a refinement uses. `--quick` does four frames into a temporary folder.
"""

# %%
import argparse
import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pendel import read_crystal
from pendel.constants import wavelength
from pendel.crystal.cell import reciprocal_matrix
from pendel.experiment.frames import Experiment
from pendel.experiment.select import select
from pendel.files.pets_out import write_pets

CELL = (4.913, 4.913, 5.405, 90.0, 90.0, 120.0)  # Å, degrees; alpha-quartz at room temperature
SEMI_ANGLE, STEP = 1.0, 2.0  # degrees: frames side by side, no overlap
RESOLUTION = 1.45  # Å⁻¹
OPTIONS = {  # of `pendel simulate`
    "sg-max": 0.02,
    "g-max": 2.1,
    "thickness": 600,
    "width": 0.18,
    "slope-per-degree": 0.01,
    "misorientation": 0.08,
    "model-error": 0.08,
    "counts": 20000,
    "background": 10,
    "seed": 5,
}

STRUCTURE = """data_{name}
_cell_length_a 4.913
_cell_length_b 4.913
_cell_length_c 5.405
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_space_group_name_H-M_alt 'P 32 2 1'
loop_
_space_group_symop_operation_xyz
x,y,z
-y,x-y,z+2/3
-x+y,-x,z+1/3
y,x,-z
x-y,-y,-z+1/3
-x,-x+y,-z+2/3
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
_atom_site_adp_type
{sites}
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_23
_atom_site_aniso_U_13
_atom_site_aniso_U_12
{tensors}
"""

# Positions near those of quartz, rounded; tensors of the right size and symmetry.
TRUTH = STRUCTURE.format(
    name="quartz_truth",
    sites="Si1 Si 0 0.4700 0.8333333333 0.0072 Uani\nO1 O 0.8540 0.5865 0.6190 0.0130 Uani",
    tensors="Si1 0.0080 0.0070 0.0064 -0.0002 -0.0004 0.0040\nO1 0.0150 0.0170 0.0120 0.0030 -0.0020 0.0095",
)
# Si moved by 0.05 Å along its axis, O by 0.08 Å; all displacements reset to an isotropic 0.01 Å².
START = STRUCTURE.format(
    name="quartz_start",
    sites="Si1 Si 0 0.4600 0.8333333333 0.0100 Uani\nO1 O 0.8620 0.5785 0.6120 0.0100 Uani",
    tensors="Si1 0.01 0.01 0.01 0 0 0.005\nO1 0.01 0.01 0.01 0 0 0.005",
)


# %%
def tilt_series(frames: int) -> Experiment:
    """Frames of a continuous rotation and the reflections that pass the Ewald sphere in each."""
    generator = np.random.default_rng(32)
    rotation = np.linalg.qr(generator.standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    axes = [np.arange(-9, 10)] * 3
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ reciprocal_matrix(CELL).T, axis=1)
    hkl = hkl[(length > 0) & (length < RESOLUTION)]
    alpha = STEP * (np.arange(frames) - (frames - 1) / 2)
    rows = frames * len(hkl)
    everything = Experiment(
        name="quartz_example",
        geometry="rotation",
        cell=CELL,
        wavelength=wavelength(200e3),
        dstar_max=RESOLUTION,
        selection="all",
        notes=(),
        orientation=rotation @ reciprocal_matrix(CELL),
        frame_id=np.arange(1, frames + 1),
        alpha=alpha,
        beta=np.zeros(frames),
        semi_angle=np.full(frames, SEMI_ANGLE),
        frame_index=np.repeat(np.arange(frames), len(hkl)),
        hkl=np.tile(hkl, (frames, 1)),
        intensity=np.arange(1.0, rows + 1),  # all different, so that none is taken for a repeat
        sigma=np.ones(rows),
        weight=np.ones(rows, dtype=int),
    )
    return select(everything, "nearest")


def simulate(folder: Path, tilts: int) -> None:
    """The measurements, by the command line anyone would use."""
    command = [sys.executable, "-c", "from pendel.cli.main import main; main()", "simulate"]
    command += [str(folder / "quartz_truth.cif"), str(folder / "geometry.cif_pets")]
    command += ["--out", str(folder / "quartz_example.cif_pets"), "--tilts", str(tilts)]
    command += [f"--{name}={value}" for name, value in OPTIONS.items()] + ["--wedge"]
    subprocess.run(command, check=True)


# %%
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the three files")
    parser.add_argument("--quick", action="store_true", help="four frames, to see that it runs")
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quartz_truth.cif").write_text(TRUTH)
    (folder / "quartz_start.cif").write_text(START)
    series = tilt_series(4 if arguments.quick else 30)
    shuffled = np.random.default_rng(0).permutation(len(series.hkl)) + 1.0
    write_pets(folder / "geometry.cif_pets", dataclasses.replace(series, intensity=shuffled))
    simulate(folder, tilts=16 if arguments.quick else 96)
    (folder / "geometry.cif_pets").unlink()
    truth, start = read_crystal(folder / "quartz_truth.cif"), read_crystal(folder / "quartz_start.cif")
    print(f"{len(series.hkl)} reflections; start is off by {truth.fract - start.fract}")


if __name__ == "__main__":
    main()
