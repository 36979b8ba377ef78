"""Which beams take part at which tilts: selection, segments of neighbouring tilts, padding to few sizes."""

import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pendel.base import Array
from pendel.crystal.structure import Crystal, reciprocal_matrix
from pendel.experiment.frames import Experiment
from pendel.simulate.curve import range_of_curves, tilt_weights
from pendel.simulate.geometry import axes_across, excitation_error, tilt_matrices

GROUPS = 2  # padded sizes per data set, so that few programs are compiled
SEGMENT_DEG = 0.35  # length of a segment along the path of the beam; few beams enter or leave on it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedBeams:
    """Weak beams of every segment that act on the others by second order only, see `matrix.folded_interaction`."""

    hkl: Int[Array, "segments weak 3"]
    present: Bool[Array, "segments weak"]
    matrix: Float[Array, "segments 3 3"]  # hkl -> laboratory vector [Å⁻¹], mean of the segment's tilts


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["hkl", "present", "matrix", "tilt_weight", "across", "place", "frame", "measurement", "folded"],
    meta_fields=["rows"],
)
@dataclasses.dataclass(frozen=True)
class SegmentGroup:
    """Segments (neighbouring tilts of one frame) padded to one number of beams. Beam 0 is the incident beam."""

    hkl: Int[Array, "segments beams 3"]
    present: Bool[Array, "segments beams"]
    matrix: Float[Array, "segments tilts 3 3"]  # hkl -> laboratory vector [Å⁻¹]
    tilt_weight: Float[Array, "segments rows tilts"]  # of the tilts in the intensity of each leading beam
    across: Float[Array, "segments tilts 2"]  # axis about which a turn moves the tilt across the path
    place: Int[
        Array, "segments tilts"
    ]  # in the frame, from 0; ~place where the weight is `tilt_weight` at any mosaicity
    frame: Int[Array, " segments"]
    measurement: Int[Array, "segments rows"]  # of each leading beam; the number of measurements where it has none
    rows: int
    folded: FoldedBeams | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameBeams:
    """Beams that may take part in one frame, and its segments."""

    frame: int
    hkl: Int[np.ndarray, "beams 3"]
    error: Float[np.ndarray, "beams tilts"]  # excitation errors [Å⁻¹]
    segments: list[slice]  # of the tilts
    weight: Float[np.ndarray, "beams tilts"]  # of every tilt in the intensity of each beam, see `curve`
    most: Float[np.ndarray, "beams tilts"]  # about what `weight` can become with mosaicity
    tilts: dict[str, np.ndarray]  # of every tilt: matrix (hkl -> laboratory vector [Å⁻¹]), across, place
    measured: Int[np.ndarray, " measurements"]  # of this frame


def select_beams(
    crystal: Crystal,
    experiment: Experiment,
    axis_row: Float[Array, "frames 3"],
    *,
    g_max: float,
    sg_max: float,
    tilts: int,
    beyond: int = 0,
    folded_sg_max: float = 0.0,
) -> list[dict]:
    """Segments with their beams: |g| < g_max and |S_g| < sg_max at any tilt of the segment; 000 always.

    Measured beams stand first, behind 000. The tilts of a frame are divided into segments.

    Args:
        axis_row: third row of every frame's small tilt, see `geometry.beam_axis_row`.
        g_max, sg_max: cutoffs [Å⁻¹].
        tilts: tilts per frame.
        beyond: further tilts before and after a sweep, for mosaicity or rocking curves.
        folded_sg_max: cutoff [Å⁻¹] of the beams beyond sg_max that are folded in.
    """
    cutoffs = {"g_max": g_max, "sg_max": max(sg_max, folded_sg_max)}
    segments = []
    for own in beams_of_frames(crystal, experiment, axis_row, **cutoffs, tilts=tilts, beyond=beyond):
        for part in own.segments:
            nearest = np.min(np.abs(own.error[:, part]), axis=1)
            chosen, folded = nearest < sg_max, (nearest >= sg_max) & (nearest < folded_sg_max)
            segments.append(make_segment(experiment, own, part, chosen, folded))
    return segments


def beams_of_frames(
    crystal: Crystal,
    experiment: Experiment,
    axis_row: Float[Array, "frames 3"],
    *,
    g_max: float,
    sg_max: float,
    tilts: int,
    beyond: int = 0,
) -> Iterator[FrameBeams]:
    """Of every frame the reflections with |g| < g_max and |S_g| < sg_max [Å⁻¹] at any tilt; see `select_beams`."""
    candidates = reflections_within(crystal, g_max)
    g_squared = np.sum((candidates @ np.asarray(experiment.orientation).T) ** 2, axis=1)
    count = tilts + 2 * beyond
    place = np.arange(count) if range_of_curves(experiment, tilts) is None else ~np.arange(count)
    of_sweep = {"across": axes_across(experiment.geometry, count), "place": place}
    for frame in range(len(experiment.frame_id)):
        matrices = tilt_matrices(experiment, frame, tilts, beyond)
        g_z = candidates @ np.einsum("i,kij->kj", axis_row[frame], matrices).T
        error = np.asarray(excitation_error(g_z, g_squared[:, None], experiment.wavelength))
        near = np.any(np.abs(error) < sg_max, axis=1)
        semi_angle = float(experiment.semi_angle[frame])
        at_file = excitation_error(candidates[near] @ matrices[:, 2].T, g_squared[near, None], experiment.wavelength)
        weight, most = tilt_weights(experiment, np.asarray(at_file), np.sqrt(g_squared[near]), beyond)
        yield FrameBeams(
            frame=frame,
            hkl=candidates[near],
            error=error[near],
            segments=_with_ends(_segment_tilts(tilts, experiment.geometry, semi_angle), beyond),
            weight=weight,
            most=most,
            tilts={"matrix": matrices, **of_sweep},
            measured=np.flatnonzero(experiment.frame_index == frame),
        )


def reflections_within(crystal: Crystal, g_max: float) -> Int[np.ndarray, "hkl 3"]:
    """All hkl with 0 < |g| < g_max that the lattice centring allows."""
    direct_lengths = np.asarray(crystal.cell[:3])
    limit = np.ceil(g_max * direct_lengths).astype(int)
    axes = [np.arange(-n, n + 1) for n in limit]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(hkl @ reciprocal_matrix(crystal.cell).T, axis=1)
    keep = (length < g_max) & (length > 0)
    identity = np.all(crystal.rotations == np.eye(3), axis=(1, 2))
    for translation in np.asarray(crystal.translations)[identity]:
        phase = hkl @ translation
        keep &= np.abs(phase - np.round(phase)) < 1e-6
    return hkl[keep]


def pad_segments(segments: list[dict], measurements: int) -> tuple[SegmentGroup, ...]:
    """Sort segments by size and pad them to at most `GROUPS` numbers of beams (multiples of 8)."""
    order = sorted(range(len(segments)), key=lambda i: len(segments[i]["hkl"]))
    sizes = np.array([-(-len(segments[i]["hkl"]) // 8) * 8 for i in order])
    bounds = _group_bounds(sizes)
    return tuple(
        _pad_group([segments[order[i]] for i in range(start, stop)], int(sizes[stop - 1]), measurements)
        for start, stop in bounds
    )


def difference_box(groups: tuple[SegmentGroup, ...]) -> tuple[tuple[int, int, int], Int[np.ndarray, "g 3"]]:
    """Shape of the box that contains every difference h - h' of beams, and its Friedel-unique reflections in use."""
    half = np.max([np.max(np.ptp(with_folded(group), axis=1), axis=0) for group in groups], axis=0)
    box = (int(2 * half[0] + 1), int(2 * half[1] + 1), int(2 * half[2] + 1))
    used = np.zeros(box, dtype=bool)
    for group in groups:
        for hkl, others in zip(np.asarray(group.hkl), with_folded(group), strict=True):
            difference = (hkl[:, None] - others[None, :] + half).reshape(-1, 3)
            used[tuple(difference.T)] = used[tuple((2 * half - difference).T)] = True
    support = np.argwhere(used) - half
    first = np.array([tuple(h) > (0, 0, 0) for h in support])
    return box, support[first]


def with_folded(group: SegmentGroup) -> Int[np.ndarray, "segments beams_and_weak 3"]:
    """hkl of all beams of the segments, those that are folded in last."""
    own = np.asarray(group.hkl)
    return own if group.folded is None else np.concatenate([own, np.asarray(group.folded.hkl)], axis=1)


def weak_beams(group: SegmentGroup) -> int:
    """Padded number of beams that are folded into every segment."""
    return 0 if group.folded is None else group.folded.hkl.shape[1]


def _segment_tilts(tilts: int, geometry: str, semi_angle: float) -> list[slice]:
    """Cut the tilts into nearly equal runs of about `SEGMENT_DEG`, each of three tilts or more."""
    path = 2 * semi_angle if geometry == "rotation" else 2 * np.pi * semi_angle
    count = max(1, min(round(path / SEGMENT_DEG), tilts // 3))
    edges = np.linspace(0, tilts, count + 1).round().astype(int)
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _with_ends(parts: list[slice], beyond: int) -> list[slice]:
    """The segments of a sweep, and others, no longer than those, of the tilts before and after it."""
    if beyond == 0:
        return parts
    count = -(-beyond // max(part.stop - part.start for part in parts))
    edges = np.linspace(0, beyond, count + 1).round().astype(int)
    inside = [slice(part.start + beyond, part.stop + beyond) for part in parts]
    last = inside[-1].stop
    return [
        *(slice(a, b) for a, b in itertools.pairwise(edges)),
        *inside,
        *(slice(last + a, last + b) for a, b in itertools.pairwise(edges)),
    ]


def make_segment(
    experiment: Experiment,
    own: FrameBeams,
    part: slice,
    chosen: Bool[np.ndarray, " beams"],
    folded: Bool[np.ndarray, " beams"],
) -> dict:
    """One segment: its beams with the measured ones first, and which measurement each leading beam is.

    Args:
        part: tilts of the segment.
        chosen: which of the frame's beams take part.
        folded: which of the others act on them by second order.
    """
    hkl = own.hkl[chosen]
    index = {tuple(h): i for i, h in enumerate(hkl.tolist())}
    counts = np.any(own.most[chosen][:, part] > 0, axis=1)
    keys = [(m, tuple(experiment.hkl[m].tolist())) for m in own.measured]
    found = [(index[key], m) for m, key in keys if key in index and counts[index[key]]]
    leading = dict(reversed(found))  # of measurements with one hkl the first; the plan copies it to the others
    rest = [i for i in range(len(hkl)) if i not in leading]
    order = [*leading, *rest]
    return {
        "hkl": np.concatenate([np.zeros((1, 3), dtype=int), hkl[order]]),
        "folded": own.hkl[folded],
        "weight": own.weight[chosen][:, part][[*leading]],
        **{name: values[part] for name, values in own.tilts.items()},
        "frame": own.frame,
        "measurement": np.array([*leading.values()], dtype=int),
    }


def _group_bounds(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Cut sorted padded sizes into at most `GROUPS` runs with the least work, sum of count x size^2."""
    distinct = np.unique(sizes)
    ends = [int(np.searchsorted(sizes, size, side="right")) for size in distinct]
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [])}
    for j, end in enumerate(ends, start=1):
        for groups in range(1, GROUPS + 1):
            options = [
                (cost + (end - (ends[i - 1] if i else 0)) * float(distinct[j - 1]) ** 2, [*cuts, end])
                for i in range(j)
                for cost, cuts in [best.get((i, groups - 1), (np.inf, []))]
            ]
            best[j, groups] = min(options, key=lambda option: option[0])
    _, cuts = min((best[len(ends), groups] for groups in range(1, GROUPS + 1)), key=lambda option: option[0])
    return list(zip([0, *cuts[:-1]], cuts, strict=True))


def _pad_group(segments: list[dict], beams: int, measurements: int) -> SegmentGroup:
    tilts = max(len(segment["matrix"]) for segment in segments)
    rows = 1 + max(len(segment["measurement"]) for segment in segments)
    count = len(segments)
    hkl = np.zeros((count, beams, 3), dtype=np.int32)
    present = np.zeros((count, beams), dtype=bool)
    matrix = np.zeros((count, tilts, 3, 3))
    weight = np.zeros((count, rows, tilts))
    across = np.zeros((count, tilts, 2))
    place = np.full((count, tilts), -1, dtype=np.int32)
    measurement = np.full((count, rows), measurements, dtype=np.int32)
    for i, segment in enumerate(segments):
        n, k = len(segment["hkl"]), len(segment["matrix"])
        hkl[i, :n], present[i, :n] = segment["hkl"], True
        matrix[i, :k], matrix[i, k:] = segment["matrix"], segment["matrix"][-1]
        weight[i, 1 : 1 + len(segment["measurement"]), :k] = segment["weight"]
        across[i, :k], place[i, :k] = segment["across"], segment["place"]
        measurement[i, 1 : 1 + len(segment["measurement"])] = segment["measurement"]
    frame = np.array([segment["frame"] for segment in segments], dtype=np.int32)
    return SegmentGroup(hkl, present, matrix, weight, across, place, frame, measurement, rows, _pad_folded(segments))


def _pad_folded(segments: list[dict]) -> FoldedBeams | None:
    most = max(len(segment["folded"]) for segment in segments)
    if not most:
        return None
    hkl = np.zeros((len(segments), -(-most // 8) * 8, 3), dtype=np.int32)
    present = np.zeros(hkl.shape[:2], dtype=bool)
    for i, segment in enumerate(segments):
        n = len(segment["folded"])
        hkl[i, :n], present[i, :n] = segment["folded"], True
    return FoldedBeams(hkl, present, np.stack([np.mean(segment["matrix"], axis=0) for segment in segments]))
