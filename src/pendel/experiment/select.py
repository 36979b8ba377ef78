"""Which measurements count: each once, in the frame that measured it best, and which are left out of the fit."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from pendel.base import Array, InputError
from pendel.experiment.frames import (
    Experiment,
    central_vectors,
    excitation_error,
    is_observed,
    relative_excitation,
    span,
)


def unique(experiment: Experiment) -> Experiment:
    """Each (hkl, I, sigma) once, in the frame where |S_g| / span is smallest; weights of the merged rows are added.

    Virtual frames overlap: the same measurement stands in several of them and is one datum, not several.
    """
    closeness = relative_excitation(experiment)
    keys = np.column_stack([experiment.hkl, experiment.intensity, experiment.sigma])
    order = np.lexsort((closeness, *keys.T[::-1]))
    starts = np.flatnonzero(np.r_[True, np.any(np.diff(keys[order], axis=0) != 0, axis=1)])
    rows = order[starts]
    weight = np.add.reduceat(np.asarray(experiment.weight)[order], starts)
    back_to_file_order = np.argsort(rows)
    kept = _keep_rows(experiment, rows[back_to_file_order], selection="unique")
    return dataclasses.replace(kept, weight=weight[back_to_file_order])


def select(
    experiment: Experiment, rule: Literal["nearest", "klar"] = "nearest", *, rsg: float = 0.9, dsg: float = 0.0015
) -> Experiment:
    """The measurements that count; frames left without any are dropped and named in the notes.

    nearest: every unique (hkl, I, sigma) once, where |S_g| / span is smallest, if there |S_g| < span.
    klar: all rows with |S_g| / span < rsg and span - |S_g| > dsg [Å⁻¹], repeats allowed (Klar et al. 2023), for
    comparison with published R factors. S_g is taken at the file's orientation. InputError when nothing is left.
    """
    if rule not in ("nearest", "klar"):
        raise InputError(found=f"unknown selection rule {rule!r}", expected="nearest or klar", do="change --select")
    candidates = unique(experiment) if rule == "nearest" else experiment
    closeness = relative_excitation(candidates)
    if rule == "nearest":
        chosen, selection = closeness < 1.0, "nearest"
    else:
        half_range = span(candidates)
        error = np.abs(excitation_error(central_vectors(candidates), candidates.wavelength))
        chosen, selection = (closeness < rsg) & (half_range - error > dsg), f"klar(rsg={rsg:g}, dsg={dsg:g})"
    if not chosen.any():
        raise InputError(
            found=f"{experiment.name}: none of {len(experiment.hkl)} rows inside the sweep of its frame ({selection})",
            expected="measurements with |S_g| below the sweep half-range",
            do="check precession_angle, --geometry, --cell and the wavelength, or relax --rsg and --dsg",
        )
    return _keep_rows(candidates, np.flatnonzero(chosen), selection=selection)


def thin(experiment: Experiment, step: slice) -> Experiment:
    """The experiment with the frames `step` picks (in file order, e.g. slice(None, None, 3)) and their rows only."""
    keep = np.zeros(len(experiment.frame_id), dtype=bool)
    keep[step] = True
    if not keep.any():
        raise InputError(
            found=f"{experiment.name}: --frames leaves none of the {len(keep)} frames",
            expected="at least one frame",
            do="use a smaller start or step, e.g. --frames ::3",
        )
    return _keep_frames(experiment, keep)


def drop_poor_frames(experiment: Experiment, minimum_observed: int = 3) -> Experiment:
    """The experiment without frames that have fewer than `minimum_observed` intensities above 3 sigma.

    The criterion uses no model, so that frames cannot be excluded for fitting badly; a note names those dropped.
    """
    counts = np.bincount(experiment.frame_index[is_observed(experiment)], minlength=len(experiment.frame_id))
    keep = counts >= max(minimum_observed, 1)
    if keep.all():
        return experiment
    if not keep.any():
        raise InputError(
            found=f"{experiment.name}: no frame has {minimum_observed} intensities above 3 sigma",
            expected="frames with observed reflections",
            do="check the sigmas of the file and the options --select and --frames",
        )
    dropped = np.asarray(experiment.frame_id)[~keep]
    note = f"{_named(dropped)} left out: fewer than {minimum_observed} intensities above 3 sigma"
    return dataclasses.replace(_keep_frames(experiment, keep), notes=(*experiment.notes, note))


def split(
    experiment: Experiment, fraction: float, seed: int, *, hkl: Int[Array, "indices 3"] | None = None
) -> Bool[Array, "reflections"]:
    """True where a measurement is used in the fit; False for those of a random `fraction` of the unique hkl.

    All measurements of one hkl are on the same side: frames repeat reflections, so single rows or whole frames would
    not be independent of the fit.

    Args:
        hkl: indices to draw from, those of all crystals of one structure; the experiment's own when not given.
    """
    if not 0.0 <= fraction < 1.0:
        raise InputError(found=f"hold-out fraction {fraction}", expected="0 <= fraction < 1", do="change --holdout")
    indices = np.unique(experiment.hkl if hkl is None else hkl, axis=0)
    drawn = np.random.default_rng(seed).permutation(len(indices))[: round(fraction * len(indices))]
    left_out = {tuple(row) for row in indices[drawn].tolist()}
    return np.array([tuple(row) not in left_out for row in np.asarray(experiment.hkl).tolist()], dtype=bool)


def _keep_rows(experiment: Experiment, rows: Int[Array, "kept"], *, selection: str) -> Experiment:
    """Those rows, in that order, without the frames that lose all theirs (named in a note)."""
    kept = _take(experiment, rows, selection=selection)
    filled = np.bincount(kept.frame_index, minlength=len(kept.frame_id)) > 0
    if filled.all():
        return kept
    dropped = np.asarray(kept.frame_id)[~filled]
    note = f"{_named(dropped)} left out: no measurement under the selection {selection}"
    return dataclasses.replace(_keep_frames(kept, filled), notes=(*kept.notes, note))


def _take(experiment: Experiment, rows: Array, *, selection: str) -> Experiment:
    return dataclasses.replace(
        experiment,
        selection=selection,
        frame_index=experiment.frame_index[rows],
        hkl=experiment.hkl[rows],
        intensity=experiment.intensity[rows],
        sigma=experiment.sigma[rows],
        weight=experiment.weight[rows],
    )


def _keep_frames(experiment: Experiment, keep: Bool[Array, "frames"]) -> Experiment:
    """Only those frames and their rows, with `frame_index` renumbered."""
    rows = np.flatnonzero(keep[experiment.frame_index])
    kept = _take(experiment, rows, selection=experiment.selection)
    return dataclasses.replace(
        kept,
        frame_index=(np.cumsum(keep) - 1)[kept.frame_index],
        frame_id=experiment.frame_id[keep],
        alpha=experiment.alpha[keep],
        beta=experiment.beta[keep],
        semi_angle=experiment.semi_angle[keep],
    )


def _named(frame_ids: Int[Array, "frames"]) -> str:
    ids = ", ".join(str(int(frame)) for frame in frame_ids[:10])
    more = f" and {len(frame_ids) - 10} more" if len(frame_ids) > 10 else ""
    return f"{len(frame_ids)} frame{'s' if len(frame_ids) > 1 else ''} ({ids}{more})"
