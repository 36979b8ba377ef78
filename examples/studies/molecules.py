"""Molecules with hydrogen: simulated crystals whose truth is known.

Run by hand: python examples/studies/molecules.py OUT [--studies cloud organic] [--frames N]. Each is fitted by MAP and
Laplace from a displaced structure; thicknesses and scales start near the truth, because the structure is the question.
OUT/molecules.json has the numbers.

cloud: urea whose electron clouds of hydrogen are 0.12 Å nearer to nitrogen than the nuclei, and urea whose clouds are
around the nuclei; hydrogens free with a distance prior of 0.1 Å, in a model with the shift and in one without.
organic: 60 atoms in P 21 21 21 (three molecules of C8 H9 N O2), no reflections between 1.8 and 2.2 Å and two wedges of
35 degrees missing; RIGU, SIMU and riding hydrogen.
"""

import argparse
import dataclasses
import json
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from scipy.spatial.transform import Rotation

import pendel
from pendel.check.synthetic import Imperfections, measured
from pendel.check.truth import free_coordinates
from pendel.crystal.bonds import Atom, Bond, bond_lengths
from pendel.crystal.cell import direct_matrix, reciprocal_matrix, u_from_cartesian
from pendel.crystal.parameters import with_parameters
from pendel.crystal.recognise import with_hydrogen
from pendel.crystal.riding import with_clouds, with_riding, with_tied_tensors
from pendel.experiment.frames import Experiment, central_vectors, relative_excitation
from pendel.experiment.select import take_rows
from pendel.infer.predict import derive
from pendel.simulate.planning import plan_with, settings_of
from pendel.simulate.thickness import single

ENERGY_EV = 200e3
SWEEP = 1.0  # deg, half of it
LARGEST_ALPHA = 55.0  # deg
MODEL = partial(pendel.load_model("robust"), thickness="single", absorption="off")
DRAWS = 1000

# Urea at 12 K by neutrons. Source: Swaminathan, Craven & McMullan (1984), Acta Cryst. B40, 300.
UREA = """CELL 0.0251 5.565 5.565 4.684 90 90 90
LATT -1
SYMM -X, -Y, Z
SYMM Y, -X, -Z
SYMM -Y, X, -Z
SYMM 1/2-X, 1/2+Y, -Z
SYMM 1/2+X, 1/2-Y, -Z
SYMM 1/2-Y, 1/2-X, Z
SYMM 1/2+Y, 1/2+X, Z
SFAC C H N O
C1 1 0.0000 0.5000 0.3260 10.25 0.012
O1 4 0.0000 0.5000 0.5953 10.25 0.013
N1 3 0.1459 0.6459 0.1766 10.5 0.018
H1 2 0.2575 0.7575 0.2827 10.5 -1.2
H2 2 0.1441 0.6441 -0.0380 10.5 -1.2
END
"""
CELL = (11.6, 13.2, 17.0)  # Å, of the organic crystal; molecules by centre [Å] and rotation vector [rad], no contact
PLACES = (  # shorter than 3.2 Å, with hydrogen 2.75 Å, between hydrogens 2.3 Å
    (7.62, 2.45, 1.48, -0.64, -0.89, 0.61),
    (8.24, 8.35, 15.6, 0.81, -0.91, 3.17),
    (8.06, 1.42, 13.39, 0.85, -0.82, -2.19),
)


def main() -> None:
    """The studies that were asked for, with their numbers on the screen and in OUT/molecules.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    studies = {"cloud": cloud, "organic": organic}
    parser.add_argument("--studies", nargs="*", default=list(studies), choices=list(studies))
    parser.add_argument("--frames", type=int, default=12)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "molecules.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in options.studies:
        found[name] = studies[name](options.out, options.frames)
        path.write_text(json.dumps(found, indent=2) + "\n")


def reported(name: str, numbers: dict) -> dict:
    """The numbers, after they were printed."""
    print(name, json.dumps(numbers, indent=1), flush=True)
    return numbers


# Simulated crystals


def geometry(crystal, frames: int, resolution: float) -> Experiment:
    """Sweeps about x at equal steps, with all reflections to a resolution [Å⁻¹] that pass the Ewald sphere in them."""
    cell = crystal.cell
    turn = Rotation.from_rotvec([0.3, 0.5, 0.2]).as_matrix()
    largest = np.floor(resolution * np.array(cell[:3])).astype(int)
    box = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in largest), indexing="ij"), -1).reshape(-1, 3)
    length = np.linalg.norm(box @ reciprocal_matrix(cell).T, axis=1)
    hkl = box[(length > 0) & (length < resolution)]
    every = Experiment(
        name=crystal.name,
        geometry="rotation",
        cell=cell,
        wavelength=float(pendel.wavelength(ENERGY_EV)),
        dstar_max=resolution,
        selection="all",
        notes=(),
        orientation=turn @ reciprocal_matrix(cell),
        frame_id=np.arange(1, frames + 1),
        alpha=np.linspace(-LARGEST_ALPHA, LARGEST_ALPHA, frames),
        beta=np.zeros(frames),
        semi_angle=np.full(frames, SWEEP),
        frame_index=np.repeat(np.arange(frames), len(hkl)),
        hkl=np.tile(hkl, (frames, 1)),
        intensity=np.ones(frames * len(hkl)),
        sigma=np.ones(frames * len(hkl)),
        weight=np.ones(frames * len(hkl), dtype=int),
    )
    return take_rows(every, np.flatnonzero(relative_excitation(every) < 0.95))


def data_of(truth, rows: Experiment, thickness: float, errors: Imperfections, seed: int = 5):
    """The measured experiment, and start values of its frames near the truth."""
    generator = np.random.default_rng(seed)
    frames = len(rows.frame_id)
    size = np.log(thickness) + 0.05 * generator.standard_normal(frames)
    tilt = 0.03 * generator.standard_normal((frames, 2))
    nodes, weights = single(size)
    plan = plan_with(truth, rows, settings_of(rows, sg_max=0.02, thickness_max=1.3 * thickness), tilt)
    illumination = pendel.Illumination(tilt=tilt, thickness=nodes, weights=weights)
    exact = np.asarray(jax.jit(pendel.simulate_intensities)(truth, plan, illumination), dtype=float)
    intensity, sigma = measured(exact, errors, generator)
    scale = np.log(errors.counts / exact.max())
    start = {
        "log_thickness": np.full(frames, np.log(1.05 * thickness)),
        "log_thickness_mean": np.log(1.05 * thickness),
        "log_scale": np.full(frames, scale),
        "log_scale_mean": scale,
    }
    return dataclasses.replace(rows, intensity=intensity, sigma=sigma), start


def fitted(crystal, experiment: Experiment, start: dict, *, thickness: float, beam_error: float, **options):
    """Draws of the structure around the maximum, and facts of the fit."""
    began = time.monotonic()
    model = partial(MODEL, **options)
    plan = pendel.make_plan(crystal, experiment, beam_error=beam_error, thickness_max=1.5 * thickness)
    data = (crystal, (pendel.DataSet(experiment, plan),))
    fit = pendel.fit_map(pendel.make_target(model, *data, intensities=(experiment.intensity,)), start=start)
    draws = pendel.laplace_draws(fit, jax.random.key(1), DRAWS)
    derived = derive(model, data, draws, leave_out=("calculated", "intensity"))
    facts = {"rows": len(experiment.hkl), "parameters": fit.layout.size, "converged": bool(fit.converged)}
    facts |= {"tilts": plan.settings.tilts, "b": float(np.mean(draws["b"])), "seconds": time.monotonic() - began}
    return {**draws, **{name: np.asarray(x) for name, x in derived.items()}}, facts


def scores(crystal, draws: dict, truth) -> dict:
    """Coordinates of atoms that are no hydrogen against the truth."""
    off, su, atoms = [], [], []
    direct = direct_matrix(crystal.cell)
    for site, element in enumerate(crystal.elements):
        if element == "H":
            continue
        shift = (draws["fract"][:, site] - np.asarray(truth.fract)[site]) @ direct.T
        atoms.append(float(np.linalg.norm(shift.mean(axis=0)) / np.sqrt(np.sum(shift.var(axis=0)))))
        for axis in free_coordinates(crystal, site):
            values = (draws["fract"][:, site, axis] - float(truth.fract[site, axis])) * crystal.cell[axis] * 1000
            off.append(float(values.mean()))
            su.append(float(values.std()))
    z = np.abs(np.array(off) / np.array(su))
    return {
        "coordinates": len(z),
        "rms_error_mA": float(np.sqrt(np.mean(np.square(off)))),
        "rms_su_mA": float(np.sqrt(np.mean(np.square(su)))),
        "rms_z": float(np.sqrt(np.mean(z**2))),
        "inside_95": float(np.mean(z < 1.96)),
        "largest_z": float(z.max()),
        "largest_distance_of_an_atom_in_su": max(atoms),
    }


# Studies


def cloud(out: Path, frames: int) -> dict:
    """Shift of the cloud and N-H of urea, by shift in the data and kind of the model."""
    path = out / "urea.res"
    path.write_text(UREA)
    crystal = with_hydrogen(pendel.read_crystal(path, hydrogen=True), "free")
    moves = 0.02 * np.random.default_rng(3).standard_normal(len(crystal.position_basis))
    moved = with_tied_tensors(with_parameters(crystal, displacement=moves), {1.2: 1.2, 1.5: 1.5})
    rows, found = geometry(crystal, frames, 1.6), {}
    bonds = tuple(Bond((Atom(2, 0, (0, 0, 0)), Atom(site, 0, (0, 0, 0))), 1) for site in (3, 4))
    for seed, shift in enumerate((0.12, 0.0)):
        truth = with_clouds(moved, shift)
        errors = Imperfections(model_error=0.02, counts=1e5)
        experiment, start = data_of(truth, rows, 400.0, errors, seed)
        for clouds in ("shifted", "spherical"):
            draws, facts = fitted(crystal, experiment, start, thickness=400.0, beam_error=0.005, clouds=clouds)
            lengths = bond_lengths(crystal, bonds, draws["fract"])
            true = bond_lengths(crystal, bonds, np.asarray(truth.fract))
            facts["excess_mA"] = (1000 * (lengths.mean(axis=0) - true)).tolist()
            facts["su_mA"] = (1000 * lengths.std(axis=0)).tolist()
            if clouds == "shifted":
                values = draws["hydrogen_cloud"]
                facts["cloud"] = [float(values.mean()), float(values.std())]
            name = f"shift {shift} Å in the data, {clouds} clouds in the model"
            found[name] = reported(name, facts | scores(crystal, draws, truth))
    return found


def organic(out: Path, frames: int) -> dict:
    """The crystal of 60 atoms, from positions 0.03 Å away along every axis and isotropic tensors."""
    path = out / "organic.res"
    path.write_text(organic_file())
    crystal = with_hydrogen(pendel.read_crystal(path, hydrogen=True), "ride")
    generator = np.random.default_rng(11)
    truth = with_parameters(crystal, displacement=0.03 * generator.standard_normal(len(crystal.position_basis)))
    bonds = {"C(sp3)-H": 1.092, "C(sp2)-H": 1.078, "N-H": 1.020, "O-H": 0.965}  # Å, inside their priors
    truth = with_riding(truth, bonds)
    truth = dataclasses.replace(truth, u_aniso=moving_bodies(truth, generator))
    truth = with_clouds(with_tied_tensors(truth, {1.2: 1.25, 1.5: 1.45}), 0.11)
    rows = geometry(crystal, frames, 1.0)
    length = 1 / np.linalg.norm(central_vectors(rows), axis=1)
    rows = take_rows(rows, np.flatnonzero((length < 1.8) | (length > 2.2)))
    experiment, start = data_of(truth, rows, 250.0, Imperfections(model_error=0.04, counts=1e5))
    draws, facts = fitted(crystal, experiment, start, thickness=250.0, beam_error=0.02)
    facts["cards"] = [restraint.card for restraint in crystal.restraints]
    facts["cloud"] = [float(draws["hydrogen_cloud"].mean()), float(draws["hydrogen_cloud"].std())]
    return reported("organic", facts | scores(crystal, draws, truth))


def moving_bodies(crystal, generator) -> np.ndarray:
    """U_ij of three rigid bodies: U = T + A L Aᵀ, A r = r x (rotation) about the centre of each."""
    positions = np.asarray(crystal.fract) @ direct_matrix(crystal.cell).T
    tensors = []
    for body in range(3):
        points = positions[20 * body : 20 * body + 20]
        turn = Rotation.random(rng=generator).as_matrix()
        shift = turn @ np.diag([0.025, 0.032, 0.042]) @ turn.T  # Å²
        for x, y, z in points - points.mean(axis=0):
            lever = np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]])
            tensors.append(shift + lever @ np.diag([0.0015, 0.001, 0.002]) @ lever.T)  # rad²
    return np.asarray(u_from_cartesian(np.stack(tensors), crystal.cell))


def organic_file() -> str:
    """A SHELX file of the 60 atoms, with RIGU and SIMU."""
    names, shape = molecule()
    lines = [f"CELL 0.0251 {CELL[0]} {CELL[1]} {CELL[2]} 90 90 90", "LATT -1"]
    lines += ["SYMM 1/2+X, 1/2-Y, -Z", "SYMM -X, 1/2+Y, 1/2-Z", "SYMM 1/2-X, -Y, 1/2+Z", "SFAC C H N O", "RIGU", "SIMU"]
    kinds = {"C": 1, "H": 2, "N": 3, "O": 4}
    for body, place in zip("ABC", PLACES, strict=True):
        points = (shape @ Rotation.from_rotvec(place[3:]).as_matrix().T + place[:3]) / CELL
        for name, (x, y, z) in zip(names, points, strict=True):
            tensor = "-1.2" if name[0] == "H" else "0.04 0.04 0.04 0 0 0"
            lines.append(f"{name}{body} {kinds[name[0]]} {x:.5f} {y:.5f} {z:.5f} 11 {tensor}")
    return "\n".join([*lines, "END", ""])


def molecule() -> tuple[list[str], np.ndarray]:
    """Names and Cartesian positions [Å] of a flat molecule: phenol, amide and methyl group, centred."""

    def towards(degrees: float, length: float) -> np.ndarray:
        angle = np.radians(degrees)
        return length * np.array([np.cos(angle), np.sin(angle), 0.0])

    atoms = {f"C{n + 1}": towards(60 * n, 1.39) for n in range(6)}
    atoms |= {f"H{n + 1}": towards(60 * n, 2.47) for n in (1, 2, 4, 5)}
    atoms["O1"] = atoms["C4"] + towards(180, 1.37)
    atoms["H1"] = atoms["O1"] + towards(250.5, 0.97)
    atoms["N1"] = atoms["C1"] + towards(0, 1.41)
    atoms["HN"] = atoms["N1"] + towards(-60, 1.01)
    atoms["C7"] = atoms["N1"] + towards(60, 1.35)
    atoms["O2"] = atoms["C7"] + towards(120, 1.23)
    atoms["C8"] = atoms["C7"] + towards(0, 1.51)
    for name, turn in zip("XYZ", (0, 120, 240), strict=True):
        ring = np.array([0.0, np.cos(np.radians(turn)), np.sin(np.radians(turn))])
        atoms[f"H{name}"] = atoms["C8"] + 1.089 * (
            towards(0, np.cos(np.radians(70.5))) + np.sin(np.radians(70.5)) * ring
        )
    positions = np.array(list(atoms.values()))
    return list(atoms), positions - positions.mean(axis=0)


if __name__ == "__main__":
    main()
