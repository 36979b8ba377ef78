"""Which measurements count: each once, in the frame that measured it best, and which are left out of the fit."""

import dataclasses
from collections.abc import Collection
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

# Fields with one entry for each measurement.
ROWS = ("frame_index", "hkl", "intensity", "sigma", "weight", "reflection")
FRAMES = ("frame_id", "alpha", "beta", "semi_angle")  # fields with one entry for each frame
MANY_ROWS = 8  # of one measurement, from which on the overlap of the frames is told


def unique(experiment: Experiment) -> Experiment:
    """Each (hkl, I, sigma) once, in the frame where |S_g| / span is smallest; weights of the merged rows are added.

    Virtual frames overlap: the same measurement stands in several of them and is one datum, not several.
    """
    order, starts = _measurements(experiment, relative_excitation(experiment))
    return _merged(experiment, order, starts, order[starts], selection="unique")


def select(
    experiment: Experiment,
    rule: Literal["nearest", "klar"] = "nearest",
    *,
    rsg: float = 0.9,
    dsg: float = 0.0015,
    minimum_observed: int = 0,
) -> Experiment:
    """The measurements that count; frames left without any are dropped and named in the notes.

    nearest: every unique (hkl, I, sigma) once, where |S_g| / span is smallest, if there |S_g| < span.
    klar: all rows with |S_g| / span < rsg and span - |S_g| > dsg [Å⁻¹], repeats allowed (Klar et al. 2023), for
    comparison with published R factors. S_g is taken at the file's orientation. InputError when nothing is left.

    Args:
        minimum_observed: under `nearest`, a frame with fewer intensities above 3 sigma gives its measurements to the
            next frames that hold them, so that no measurement is lost with its frame.
    """
    if rule not in ("nearest", "klar"):
        raise InputError(found=f"unknown selection rule {rule!r}", expected="nearest or klar", do="change --select")
    closeness = relative_excitation(experiment)
    order, starts = _measurements(experiment, closeness)
    notes: list[str] = []
    if rule == "nearest":
        rows, notes = _shared_out(experiment, order, starts, closeness[order] < 1.0, minimum_observed)
        selection = "nearest"
    else:
        half_range = span(experiment)
        error = np.abs(excitation_error(central_vectors(experiment), experiment.wavelength))
        rows = np.flatnonzero((closeness < rsg) & (half_range - error > dsg))
        selection = f"klar(rsg={rsg:g}, dsg={dsg:g})"
    if not (rows >= 0).any():
        raise InputError(
            found=f"{experiment.name}: none of {len(experiment.hkl)} rows inside the sweep of its frame ({selection})",
            expected="measurements with |S_g| below the sweep half-range",
            do="check precession_angle, --geometry, --cell and the wavelength, or relax --rsg and --dsg",
        )
    if rule == "klar":
        return _keep_rows(experiment, rows, selection=selection)
    merged = _merged(experiment, order, starts, rows, selection=selection)
    notes += _overlap(experiment, len(starts))
    return dataclasses.replace(merged, notes=(*experiment.notes, *notes, *merged.notes[len(experiment.notes) :]))


def _measurements(experiment: Experiment, closeness: Array) -> tuple[Int[Array, " rows"], Int[Array, " unique"]]:
    """Rows sorted by (hkl, I, sigma), the smallest |S_g| / span first, and where each measurement starts in them."""
    keys = np.column_stack([experiment.hkl, experiment.intensity, experiment.sigma])
    order = np.lexsort((closeness, *keys.T[::-1]))
    return order, np.flatnonzero(np.r_[True, np.any(np.diff(keys[order], axis=0) != 0, axis=1)])


def _merged(experiment: Experiment, order: Array, starts: Array, rows: Array, *, selection: str) -> Experiment:
    """One row for each measurement, in file order, with the weight of all its rows; row -1: left out."""
    weight = np.add.reduceat(np.asarray(experiment.weight)[order], starts)[rows >= 0]
    rows = rows[rows >= 0]
    file_order = np.argsort(rows)
    kept = _keep_rows(experiment, rows[file_order], selection=selection)
    return dataclasses.replace(kept, weight=weight[file_order])


def _shared_out(
    experiment: Experiment, order: Array, starts: Array, inside: Bool[Array, " rows"], minimum_observed: int
) -> tuple[Int[Array, " unique"], list[str]]:
    """The row of each measurement, -1 where it has none inside a sweep, and notes on measurements that moved.

    While some frame has too few observed measurements, the poorest one is left out and its measurements go to the next
    frames that hold them.
    """
    frames, frame = len(experiment.frame_id), np.asarray(experiment.frame_index)[order]
    observed = is_observed(experiment)[order][starts]
    count, last = np.arange(len(order)), len(order)
    allowed = np.ones(frames, dtype=bool)
    nearest = place = np.minimum.reduceat(np.where(inside, count, last), starts)
    while True:
        there = place < last
        held = frame[place[there]]
        strong = np.bincount(held[observed[there]], minlength=frames)
        number = np.bincount(held, minlength=frames)
        poor = np.flatnonzero((number > 0) & (strong < minimum_observed))
        if not len(poor):
            break
        allowed[poor[np.lexsort((number[poor], strong[poor]))[0]]] = False
        place = np.minimum.reduceat(np.where(inside & allowed[frame], count, last), starts)
    place = _fetched(place, (frame, inside, starts, observed), minimum_observed)
    moved, lost = int(np.sum((place != nearest) & (place < last))), int(np.sum((place == last) & (nearest < last)))
    parts = [f"{moved} measurements count in the next frame that holds them"] if moved else []
    parts += [f"{lost} are in no other frame and are left out"] if lost else []
    few = f"{_named(np.asarray(experiment.frame_id)[~allowed])} with fewer than {minimum_observed} intensities"
    notes = [f"{experiment.name}: {few} above 3 sigma: {', '.join(parts)}"] if parts else []
    return np.where(place < last, order[np.minimum(place, last - 1)], -1), notes


def _fetched(place: Array, rows: tuple[Array, Array, Array, Array], minimum_observed: int) -> Int[Array, " unique"]:
    """Measurements that are in frames without observed ones only fetch observed ones from richer frames.

    rows: frame of every sorted row, whether it is inside the sweep, the first row of each measurement, and which
    measurements are observed.
    """
    frame, inside, starts, observed = rows
    place, last = np.array(place), len(frame)
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(np.asarray(starts), last)))
    for measurement in np.flatnonzero(place == last):
        mine = np.flatnonzero(inside & (group == measurement))
        for row in mine[np.isin(frame[mine], frame[place[place < last]], invert=True)]:
            strong = np.bincount(frame[place[(place < last) & observed]], minlength=int(frame.max()) + 1)
            there = np.flatnonzero(inside & (frame == frame[row]) & observed[group] & (place[group] < last))
            spare = there[strong[frame[place[group[there]]]] > minimum_observed]
            if len(spare) >= minimum_observed:
                fetched = spare[:minimum_observed]
                place[group[fetched]] = fetched
                place[measurement] = row
                break
    return place


def _overlap(experiment: Experiment, measurements: int) -> list[str]:
    """A note when sweeps overlap so much that each measurement stands in many rows, with a step that avoids it."""
    rows, frames = len(experiment.hkl) / measurements, len(experiment.frame_id)
    if rows < MANY_ROWS or experiment.geometry != "rotation" or frames < 2:
        return []
    advance = float(np.median(np.abs(np.diff(experiment.alpha))))
    step = min(int(2 * np.median(experiment.semi_angle) / advance) if advance > 0 else frames, frames)
    if step < 2:
        return []
    few = thin(experiment, slice(None, None, step))
    inside = take_rows(few, relative_excitation(few) < 1.0)
    kept = len(np.unique(np.column_stack([inside.hkl, inside.intensity, inside.sigma]), axis=0))
    words = f"each measurement stands in {rows:.0f} rows, because the frames overlap; --frames ::{step} would keep"
    left = f"{len(few.frame_id)} frames whose sweeps touch, with {kept} of {measurements} measurements"
    return [f"{experiment.name}: {words} {left}"]


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


def without_frames(experiment: Experiment, numbers: Collection[int]) -> Experiment:
    """The experiment without the frames of these numbers; a note names those that it had.

    Raises InputError where no frame is left.
    """
    own = np.asarray(experiment.frame_id)
    keep = ~np.isin(own, list(numbers))
    if keep.all():
        return experiment
    if not keep.any():
        raise InputError(
            found=f"{experiment.name}: all {len(own)} frames are left out",
            expected="frames that stay",
            do="name fewer of them in --leave-out",
        )
    note = f"{_named(own[~keep])} left out, as --leave-out asks"
    return dataclasses.replace(_keep_frames(experiment, keep), notes=(*experiment.notes, note))


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


def take_rows(experiment: Experiment, rows: Array | slice) -> Experiment:
    """Those measurements, in that order; all frames stay."""
    columns = {name: getattr(experiment, name) for name in ROWS}
    return dataclasses.replace(experiment, **{name: x[rows] for name, x in columns.items() if x is not None})


def _keep_rows(experiment: Experiment, rows: Int[Array, "kept"], *, selection: str) -> Experiment:
    """Those rows, in that order, without the frames that lose all theirs (named in a note)."""
    kept = dataclasses.replace(take_rows(experiment, rows), selection=selection)
    filled = np.bincount(kept.frame_index, minlength=len(kept.frame_id)) > 0
    if filled.all():
        return kept
    dropped = np.asarray(kept.frame_id)[~filled]
    note = f"{_named(dropped)} left out: no measurement under the selection {selection}"
    return dataclasses.replace(_keep_frames(kept, filled), notes=(*kept.notes, note))


def _keep_frames(experiment: Experiment, keep: Bool[Array, "frames"]) -> Experiment:
    """Only those frames and their rows, with `frame_index` renumbered."""
    kept = take_rows(experiment, keep[experiment.frame_index])
    frames = {name: getattr(kept, name)[keep] for name in FRAMES}
    return dataclasses.replace(kept, frame_index=(np.cumsum(keep) - 1)[kept.frame_index], **frames)


def _named(frame_ids: Int[Array, "frames"]) -> str:
    ids = ", ".join(str(int(frame)) for frame in frame_ids[:10])
    more = f" and {len(frame_ids) - 10} more" if len(frame_ids) > 10 else ""
    return f"{len(frame_ids)} frame{'s' if len(frame_ids) > 1 else ''} ({ids}{more})"
