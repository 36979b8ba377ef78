"""Coordinates of a refinement against X-ray or neutron diffraction; for judging, never for tuning."""

import itertools
import json
from pathlib import Path

import numpy as np

from pendel.crystal.cell import direct_matrix

NEAR = 0.3  # Å; farther atoms are not the same
SU = 0.0002  # of the reference, where it names none; fractional


def against_reference(path: Path, name: str, crystal, fract) -> dict:
    """Root mean square z, share of the free coordinates within 95 %, and rms distance [mÅ] of all sites.

    Args:
        fract: fractional coordinates and their standard uncertainties, [sites 3] each.
    """
    references = json.loads(path.read_text(encoding="utf-8"))
    if name not in references:
        return {}
    mean, su = fract
    known = references[name]
    places = np.array(list(known["sites"].values()))
    is_centred = "cell_c_centred" in known
    expected = in_setting(places, known["cell_c_centred"], crystal, mean) if is_centred else by_label(known, crystal)
    difference = (mean - expected + 0.5) % 1 - 0.5
    free = (su > 1e-6) & np.isfinite(difference)
    free &= ~np.array([[element == "H"] * 3 for element in crystal.elements])
    z = difference[free] / np.hypot(su[free], SU)
    sites = np.all(np.isfinite(difference), axis=1) & (np.array(crystal.elements) != "H")
    distance = np.linalg.norm(difference[sites] @ np.asarray(direct_matrix(crystal.cell)).T, axis=1)
    return {
        "rms_z": float(np.sqrt(np.mean(z**2))),
        "within_95": float(np.mean(np.abs(z) < 1.96)),
        "rms_mA": float(1000 * np.sqrt(np.mean(distance**2))),
        "n_coordinates": len(z),
    }


def by_label(known, crystal) -> np.ndarray:
    """Reference coordinates in the order of the sites, by label; not a number where there is none."""
    return np.array([known["sites"].get(label, [np.nan] * 3) for label in crystal.labels])


def in_setting(places, cell, crystal, fract) -> np.ndarray:
    """Coordinates of a C-centred cell in the primitive one of a crystal: lattice, hand of the axes, origin.

    Triples of short vectors of the centred lattice with the crystal's cell are tried, both signs of the coordinates,
    and all origins at centres of inversion; the one with the smallest distances to `fract` is taken.
    """
    axes, wanted = np.asarray(direct_matrix(tuple(cell))), np.asarray(direct_matrix(crystal.cell))
    vectors = [np.array(v) / 2 for v in itertools.product(range(-4, 5), repeat=3)]
    vectors = [v for v in vectors if any(v) and (2 * v[2]) % 2 == 0 and (2 * v[0] - 2 * v[1]) % 2 == 0]
    lengths = np.linalg.norm(np.array(vectors) @ axes.T, axis=1)
    like = [
        [v for v, n in zip(vectors, lengths, strict=True) if abs(n / length - 1) < 0.02]
        for length in np.linalg.norm(wanted, axis=0)
    ]
    best, found = np.inf, np.full(np.shape(fract), np.nan)
    metric = wanted.T @ wanted
    for triple in itertools.product(*like):
        change = np.array(triple).T
        own = axes @ change
        if abs(np.linalg.det(change)) < 1e-6 or np.max(np.abs(own.T @ own / metric - 1)) > 0.2:
            continue
        moved = places @ np.linalg.inv(change).T
        for sign, *origin in itertools.product((1, -1), (0, 0.5), (0, 0.5), (0, 0.5)):
            trial = sign * moved + np.array(origin)
            cost, matched = nearest(trial, fract, wanted)
            if cost < best:
                best, found = cost, matched
    return found


def nearest(trial, fract, axes) -> tuple[float, np.ndarray]:
    """Sum over the sites of squared distances [Å²] to the nearest trial place or its inverse, and these places."""
    images = np.concatenate([trial, -trial])
    difference = (fract[:, None] - images + 0.5) % 1 - 0.5
    square = np.sum((difference @ axes.T) ** 2, axis=2)
    index = np.argmin(square, axis=1)
    least = square[np.arange(len(fract)), index]
    matched = fract - difference[np.arange(len(fract)), index]
    return float(least.sum()), np.where((least < NEAR**2)[:, None], matched, np.nan)
