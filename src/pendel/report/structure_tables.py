"""Numbers of the refined structure with their posterior uncertainties, as text for the report."""

import numpy as np

from pendel.base import Array
from pendel.crystal.bonds import Atom, bond_angles, bond_lengths, find_angles, find_bonds, principal_axes
from pendel.crystal.cell import TENSOR, u_equivalent
from pendel.crystal.hydrogen_bonds import find_hydrogen_bonds, hydrogen_bond_numbers
from pendel.crystal.rigid_bonds import bonds_to_test, rigid_bond_differences
from pendel.crystal.structure import Crystal
from pendel.files.numbers import format_su
from pendel.folder.reader import RunFiles
from pendel.judge.chains import site_quality
from pendel.judge.parameters import BAND, FIXED
from pendel.judge.restraints import decided_by

NOT_RIGID, SURE = 0.01, 3.0  # Å² and standard uncertainties; beyond both, a bond fails the rigid-bond test

type Rows = list[dict[str, str]]


def coordinate_rows(run: RunFiles) -> Rows:
    """Coordinates, U_eq, U_ij where they are free, occupancy: mean(su), median, 95 % of the draws, R-hat and ESS."""
    rows: Rows = []
    posterior = run.tree["posterior"]
    fract, tensor = posterior["fract"].values, posterior["U_aniso"].values
    spheres = np.asarray(u_equivalent(tensor, run.crystal.cell))
    for site, label in enumerate(run.crystal.labels):
        for axis, name in enumerate("xyz"):
            rows.append(_row(label, name, fract[:, :, site, axis], 6))
        rows.append(_row(label, "U_eq / Å²", spheres[:, :, site], 5))
        for i, j in () if run.crystal.isotropic[site] else TENSOR:
            rows.append(_row(label, f"U_{i + 1}{j + 1} / Å²", tensor[:, :, site, i, j], 5))
        if "occupancy" in posterior and posterior["occupancy"].shape[2:] == (len(run.crystal.labels),):
            rows.append(_row(label, "occupancy", posterior["occupancy"].values[:, :, site], 4))
    return rows


def site_rows(rows: Rows) -> Rows:
    """One line for every site of `coordinate_rows`: mean(su) of each of its numbers by name."""
    sites: dict[str, dict[str, str]] = {}
    for row in rows:
        sites.setdefault(row["site"], {"site": row["site"]})[row["name"]] = row["mean"]
    return list(sites.values())


def bond_rows(run: RunFiles) -> tuple[Rows, Rows]:
    """Bond lengths [Å] and angles [deg] that symmetry leaves different, with uncertainties from the draws."""
    crystal, fract = run.crystal, run.draws("fract")
    bonds = find_bonds(crystal)
    angles = find_angles(crystal, bonds)
    lengths, widths = bond_lengths(crystal, bonds, fract), bond_angles(crystal, angles, fract)
    bonded = [
        {"atoms": _chain(crystal, bond.atoms), **_interval(lengths[:, number], 4)} for number, bond in enumerate(bonds)
    ]
    turned = [
        {"atoms": _chain(crystal, angle.atoms), **_interval(widths[:, number], 2)}
        for number, angle in enumerate(angles)
    ]
    return bonded, turned


def hydrogen_bond_rows(run: RunFiles) -> Rows:
    """D-H, H...A and D...A [Å] and the angle at H [deg] of every hydrogen bond, with uncertainties from the draws."""
    crystal, fract = run.crystal, run.draws("fract")
    found = find_hydrogen_bonds(crystal)
    numbers = hydrogen_bond_numbers(crystal, found, fract)
    return [
        {
            "atoms": _chain(crystal, one.atoms).replace(" – ", "–", 1).replace(" – ", "···"),
            **{name: _interval(x[:, row], 1 if name == "angle" else 3)["mean"] for name, x in numbers.items()},
        }
        for row, one in enumerate(found)
    ]


def rigid_bond_rows(run: RunFiles) -> Rows:
    """Difference of the mean-square displacements along every bond [Å²], with its uncertainty from the draws.

    A bond fails where the difference is larger than 0.01 Å² and than three standard uncertainties: a large one that is
    not significant says nothing, and a small one does no harm.
    """
    crystal = run.crystal
    bonds = bonds_to_test(crystal)
    draws = rigid_bond_differences(crystal, bonds, run.draws("fract"), run.draws("U_aniso"))
    rows: Rows = []
    for row, bond in enumerate(bonds):
        mean, su = float(np.mean(draws[:, row])), float(np.std(draws[:, row], ddof=1))
        fails = abs(mean) > max(NOT_RIGID, SURE * su)
        difference = _interval(draws[:, row], 4)["mean"]
        rows.append(
            {"atoms": _chain(crystal, bond.atoms), "difference": difference, "verdict": "fails" if fails else ""}
        )
    return rows


def restraint_rows(run: RunFiles) -> Rows:
    """Target and posterior of every restraint; of distances in Å, of all others only in standard deviations."""
    rows: Rows = []
    for fact in run.summary.get("restraints", []):
        target = posterior = ""
        if "target" in fact:
            target = f"{'≥ ' if fact['at_least'] else ''}{format_su(fact['target'], fact['s'], decimals=3)}"
            posterior = format_su(fact["mean"], fact["sd"], decimals=3)
        misfit, spread = f"{fact['misfit']:.2f}", f"{fact['spread']:.2f}"
        row = {"card": fact["card"], "atoms": fact["atoms"], "target": target, "posterior": posterior}
        rows.append({**row, "misfit": misfit, "spread": spread, "decided": decided_by(fact["spread"])})
    return rows


def longest_bonds(crystal: Crystal) -> dict[frozenset[str], float]:
    """Longest bond [Å] between every two elements."""
    bonds = find_bonds(crystal)
    lengths = bond_lengths(crystal, bonds, np.asarray(crystal.fract))
    longest: dict[frozenset[str], float] = {}
    for bond, length in zip(bonds, lengths, strict=True):
        pair = frozenset(crystal.elements[atom.site] for atom in bond.atoms)
        longest[pair] = max(longest.get(pair, 0.0), float(length))
    return longest


def ellipsoid_rows(run: RunFiles) -> Rows:
    """Root-mean-square amplitudes [Å] along the axes of every ellipsoid that is no sphere, with uncertainties."""
    amplitude, _ = principal_axes(run.draws("U_aniso"), run.crystal.cell)
    rows = []
    for site, label in enumerate(run.crystal.labels):
        if run.crystal.isotropic[site]:
            continue
        axes = [format_su(float(x.mean()), float(x.std()), decimals=4) for x in amplitude[:, site].T]
        ratio = amplitude[:, site, 0] / amplitude[:, site, 2]
        row = {"site": label, "largest": axes[0], "middle": axes[1], "smallest": axes[2]}
        rows.append({**row, "ratio": format_su(float(ratio.mean()), float(ratio.std()), decimals=2)})
    return rows


def peak_rows(run: RunFiles) -> list[dict[str, str]]:
    """Highest peaks and deepest holes of the difference potential, where there is one."""
    if run.difference is None:
        return []
    return [
        {
            "kind": kind,
            **{axis: f"{x:.4f}" for axis, x in zip("xyz", peak["fract"], strict=True)},
            "potential": f"{peak['potential']:.2f}",
            "height": f"{peak['height']:.1f}",
            "nearest": peak["nearest"],
            "distance": f"{peak['distance']:.2f}",
        }
        for kind in ("peak", "hole")
        for peak in run.difference[f"{kind}s"]
    ]


def _row(site: str, name: str, values: np.ndarray, decimals: int) -> dict[str, str]:
    """values: [chain draw]."""
    r_hat, ess = site_quality(values) if np.std(values) > FIXED else (float("nan"), float("nan"))
    quality = {"r_hat": "" if np.isnan(r_hat) else f"{r_hat:.3f}", "ess": "" if np.isnan(ess) else f"{ess:.0f}"}
    return {"site": site, "name": name, **_interval(values.ravel(), decimals), **quality}


def _interval(draws: Array, decimals: int) -> dict[str, str]:
    """mean(su), median and the 95 % interval; what is fixed has neither."""
    mean, sd = float(np.mean(draws)), float(np.std(draws, ddof=1))
    if sd < FIXED:
        mean = 0.0 if abs(mean) < FIXED else mean  # no "-0"
        return {"mean": f"{mean:.{decimals}f}", "median": "fixed", "interval": ""}
    places = max(0, int(np.ceil(1 - np.log10(sd))))
    low, high = np.percentile(draws, BAND)
    middle = float(np.median(draws))
    return {
        "mean": format_su(mean, sd, decimals=decimals),
        "median": f"{middle:.{places}f}",
        "interval": f"{low:.{places}f} to {high:.{places}f}",
    }


def _chain(crystal: Crystal, atoms: tuple[Atom, ...]) -> str:
    """Labels of bonded atoms; a prime marks an atom that an operation or a lattice shift has moved."""
    return " – ".join(crystal.labels[atom.site] + ("′" if atom.operation or any(atom.shift) else "") for atom in atoms)
