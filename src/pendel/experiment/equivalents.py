"""Which measurements are of equivalent reflections, so that an error of one structure factor is common to them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array
from pendel.crystal.structure import Crystal
from pendel.experiment.frames import Experiment

RELATIVE = 0.1  # model error of an intensity
MOST = 600  # unique reflections with an error; more take memory and say little
LEAST = 0.5  # information on an error of that size, where the prior has 1; weak reflections say less


def laue_group(crystal: Crystal) -> Int[Array, "ops 3 3"]:
    """Rotations of the space group with the inversion."""
    rotations = np.asarray(crystal.rotations)
    return np.unique(np.concatenate([rotations, -rotations]), axis=0)


def equivalent_codes(hkl: Int[Array, "reflections 3"], group: Int[Array, "ops 3 3"]) -> Int[Array, " reflections"]:
    """One number for each set of equivalent indices h R."""
    size = 2 * int(np.abs(hkl).max(initial=0)) * 3 + 1  # h R has components of up to three times those of h
    best = np.full(len(hkl), np.iinfo(np.int64).min)
    for operation in group:
        image = (hkl @ operation).astype(np.int64)
        best = np.maximum(best, (image[:, 0] * size + image[:, 1]) * size + image[:, 2])
    return best


def with_equivalents(crystal: Crystal, experiments: Sequence[Experiment]) -> tuple[Experiment, ...]:
    """The experiments, with the number of its unique reflection for every measurement (`reflection`).

    Equivalents under the Laue group have one number, the same in all experiments. Reflections whose measurements say
    little about an error of their structure factor, as all are weak, have the number after the last one; so have those
    beyond the MOST that say most. Measurements that are held out count here, because their distribution needs the error
    as well.
    """
    hkl, intensity, sigma = (
        np.concatenate([np.asarray(getattr(experiment, name)) for experiment in experiments])
        for name in ("hkl", "intensity", "sigma")
    )
    _, unique = np.unique(equivalent_codes(hkl, laue_group(crystal)), return_inverse=True)
    information = np.bincount(unique, _information(intensity, sigma))
    kept = information > max(LEAST, np.sort(information)[::-1][MOST] if len(information) > MOST else 0.0)
    count = int(np.sum(kept))
    number = np.where(kept, np.cumsum(kept) - 1, count)[unique]
    parts = np.split(number, np.cumsum([len(experiment.intensity) for experiment in experiments])[:-1])
    return tuple(
        dataclasses.replace(experiment, reflection=part, unique=count)
        for experiment, part in zip(experiments, parts, strict=True)
    )


def unique_reflections(experiments: Sequence[Experiment]) -> list[str]:
    """Indices "h k l" of one measurement of every unique reflection, in the order of their numbers.

    A reflection that these measurements lack, as some frames of a data set may, is "?" with its number.
    """
    names = [f"? {number + 1}" for number in range(experiments[0].unique)]
    for experiment in experiments:
        numbers = np.asarray(experiment.reflection)
        for number in np.unique(numbers[numbers < experiment.unique]):
            row = int(np.argmax(numbers == number))
            names[number] = " ".join(map(str, np.asarray(experiment.hkl)[row]))
    return names


def _information(intensity: Float[Array, " n"], sigma: Float[Array, " n"]) -> Float[Array, " n"]:
    """Of a measurement on a relative error, in units of the prior's: 0 for weak ones, 1 for the strongest."""
    signal = (RELATIVE * np.maximum(intensity, 0.0)) ** 2
    return signal / (np.asarray(sigma) ** 2 + signal)
