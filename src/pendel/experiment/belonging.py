"""Do structure and data belong together? What the intensities say about centring, absences, Laue symmetry and twins.

No check needs a fit, and none refuses anything: multiple scattering fills absences of screw axes and glide planes and
makes equivalent reflections differ, so that only gross disagreement means something.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.crystal.cell import reciprocal_matrix
from pendel.crystal.form_factors import form_factors
from pendel.crystal.structure import Crystal, expanded_atoms
from pendel.crystal.tabulated import lattice_rotations
from pendel.experiment.equivalents import equivalent_codes, laue_group
from pendel.experiment.frames import Experiment, is_observed, relative_excitation

INSIDE = 0.8  # |S_g| / span; measurements further out miss part of the rocking curve
FEWEST = 20  # measurements, or pairs of them, that say something
FILLED = 0.7  # mean of absent intensities over that of the others; real files: 0.3 to 0.4
UNRELATED = 0.8  # R of equivalents over that of reflections at random; real files: 0.4 to 0.5
TWINNED = 0.6  # R of reflections that a twin overlaps over what the structure gives; real files: 0.95 to 1.05
ALIKE = 1.2  # the same R over that of equivalents, below which the two are as alike as equivalents
NEIGHBOURS = 20  # reflections of like resolution
MOST_REFLECTIONS, MOST_ATOMS = 3000, 3000  # of calculated structure factors


@dataclasses.dataclass(frozen=True)
class Laue:
    """R factors sum sqrt(n / (n - 1)) |I - mean| / sum |I| of reflections that should be equal; NaN with too few."""

    friedel: float  # of h and -h
    equivalents: float  # under the Laue group of the structure
    unrelated: float  # of reflections at random with like resolution
    count: int  # measurements with an equivalent


def belonging_notes(crystal: Crystal, experiment: Experiment) -> list[str]:
    """Notes on what speaks against this structure for these measurements; none where all is well."""
    notes = _absences(crystal, experiment)
    laue = laue_symmetry(crystal, experiment)
    name = experiment.name
    if laue.count >= FEWEST and laue.equivalents > UNRELATED * laue.unrelated:
        notes.append(
            f"{name}: equivalent reflections are hardly more alike than others (R {laue.equivalents:.0%} of "
            f"{laue.count} measurements, {laue.unrelated:.0%} at random): check axes, space group and indexing"
        )
    return notes + _twins(crystal, experiment, laue)


def laue_symmetry(crystal: Crystal, experiment: Experiment) -> Laue:
    """How alike equivalent reflections are, of measurements whose rocking curve is inside of the sweep."""
    hkl, intensity = _whole(experiment)
    code = equivalent_codes(hkl, laue_group(crystal))
    friedel, _ = _r_of_groups(equivalent_codes(hkl, np.stack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])), intensity)
    equivalents, count = _r_of_groups(code, intensity)
    unrelated, _ = _r_of_groups(code, _shuffled(hkl, intensity, experiment))
    return Laue(friedel, equivalents, unrelated, count)


def _absences(crystal: Crystal, experiment: Experiment) -> list[str]:
    """Measurements that the centring forbids, and absences of screw axes and glide planes that are not weak."""
    hkl, intensity = np.asarray(experiment.hkl), np.asarray(experiment.intensity)
    centring, others = np.zeros(len(hkl), dtype=bool), np.zeros(len(hkl), dtype=bool)
    for rotation, translation in zip(np.asarray(crystal.rotations), np.asarray(crystal.translations), strict=True):
        phase = hkl @ translation
        absent = np.all(hkl @ rotation == hkl, axis=1) & (np.abs(phase - np.round(phase)) > 0.01)
        if np.array_equal(rotation, np.eye(3)):
            centring |= absent
        else:
            others |= absent
    others &= ~centring
    notes = []
    if centring.any():
        strong = int((centring & is_observed(experiment)).sum())
        notes.append(
            f"{experiment.name}: {centring.sum()} of {len(hkl)} measurements are forbidden by the centring of "
            f"{crystal.spacegroup}, {strong} of them above 3 sigma"
        )
    rest = ~centring & ~others
    if others.sum() >= FEWEST and rest.any() and intensity[rest].mean() > 0:
        ratio = float(intensity[others].mean() / intensity[rest].mean())
        if ratio > FILLED:
            notes.append(
                f"{experiment.name}: {others.sum()} measurements that screw axes and glide planes of "
                f"{crystal.spacegroup} forbid have {ratio:.0%} of the mean intensity of the others, more than multiple "
                "scattering makes: check the space group"
            )
    return notes


def _twins(crystal: Crystal, experiment: Experiment, laue: Laue) -> list[str]:
    """A note when reflections that only a twin by the lattice's symmetry overlaps are as alike as equivalent ones."""
    if not np.isfinite(laue.equivalents) or len(crystal.atom_site) > MOST_ATOMS:
        return []
    group = laue_group(crystal)
    hkl, intensity = _whole(experiment)
    codes, first, inverse, counts = np.unique(
        equivalent_codes(hkl, group), return_index=True, return_inverse=True, return_counts=True
    )
    mean, independent = np.bincount(inverse, intensity) / counts, hkl[first]
    if len(codes) > MOST_REFLECTIONS:
        return []
    calculated = _kinematic(crystal, independent)
    known = {operation.tobytes() for operation in group}
    for operation in lattice_rotations(crystal.cell):
        if operation.tobytes() in known:
            continue
        known |= {np.ascontiguousarray(operation @ member).tobytes() for member in group}
        turned = equivalent_codes(independent @ operation, group)
        partner = np.minimum(np.searchsorted(codes, turned), len(codes) - 1)
        one = np.flatnonzero((codes[partner] == turned) & (partner > np.arange(len(codes))))
        if len(one) < FEWEST:
            continue
        measured, modelled = (_r_of_pairs(values[one], values[partner[one]]) for values in (mean, calculated))
        if measured < TWINNED * modelled and measured < ALIKE * laue.equivalents:
            rows = "; ".join(" ".join(str(int(x)) for x in row) for row in operation)
            return [
                f"{experiment.name}: {len(one)} pairs of reflections that the structure makes unlike "
                f"(R {modelled:.0%}) are as alike as equivalents (R {measured:.0%}) under ({rows}): a twin, or a "
                "higher symmetry"
            ]
    return []


def _whole(experiment: Experiment) -> tuple[Int[Array, "reflections 3"], Float[Array, " reflections"]]:
    """Indices and intensities of measurements that are well inside the sweep of their frame."""
    inside = relative_excitation(experiment) < INSIDE
    return np.asarray(experiment.hkl)[inside], np.asarray(experiment.intensity)[inside]


def _r_of_groups(code: Int[Array, " reflections"], intensity: Float[Array, " reflections"]) -> tuple[float, int]:
    """R of measurements with the same code, and how many of them have a partner."""
    _, group, counts = np.unique(code, return_inverse=True, return_counts=True)
    number = counts[group]
    several = number > 1
    total = np.abs(intensity[several]).sum()
    if not total > 0:
        return np.nan, 0
    away = np.abs(intensity - (np.bincount(group, intensity) / counts)[group])[several]
    factor = np.sqrt(number[several] / (number[several] - 1))
    return float((factor * away).sum() / total), int(several.sum())


def _r_of_pairs(one: Float[Array, " pairs"], other: Float[Array, " pairs"]) -> float:
    """The same R of groups of two."""
    return float(np.sqrt(2) * np.abs(one - other).sum() / max(float(np.abs(one + other).sum()), 1e-300))


def _shuffled(
    hkl: Int[Array, "reflections 3"], intensity: Float[Array, " reflections"], experiment: Experiment
) -> Float[Array, " reflections"]:
    """The intensities exchanged at random among twenty neighbours in resolution."""
    order = np.argsort(np.linalg.norm(hkl @ np.asarray(experiment.orientation).T, axis=1), kind="stable")
    generator = np.random.default_rng(0)
    shuffled = np.array(intensity)
    for start in range(0, len(order), NEIGHBOURS):
        rows = order[start : start + NEIGHBOURS]
        shuffled[rows] = intensity[generator.permutation(rows)]
    return shuffled


def _kinematic(crystal: Crystal, hkl: Int[Array, "reflections 3"]) -> Float[Array, " reflections"]:
    """|F|² of single scattering, F = sum_a o_a f_a exp(2 pi i h x_a - 2 pi² hᵀ U*_a h) [Å²]."""
    atoms = expanded_atoms(crystal, crystal.fract, crystal.u_aniso, crystal.occupancy)
    positions, tensors, occupancy = (np.asarray(values) for values in atoms)
    elements = tuple(dict.fromkeys(crystal.elements))
    factors = form_factors(elements, np.linalg.norm(hkl @ reciprocal_matrix(crystal.cell).T, axis=1))
    amplitude = np.zeros(len(hkl), dtype=complex)
    for atom, site in enumerate(np.asarray(crystal.atom_site)):
        damping = np.exp(-2 * np.pi**2 * np.einsum("ri,ij,rj->r", hkl, tensors[atom], hkl))
        factor = occupancy[atom] * factors[elements.index(crystal.elements[site])] * damping
        amplitude += factor * np.exp(2j * np.pi * (hkl @ positions[atom]))
    return np.abs(amplitude) ** 2
