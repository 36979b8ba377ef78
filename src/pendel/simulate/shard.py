"""Segments of a plan spread over devices, also of several processes: each has and simulates its own frames.

Intensities of all measurements are summed over the devices (one `psum`) and are the same everywhere afterwards, so
that models and inference need not know. The transposed sum carries the gradient.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from pendel.base import Array, InputError
from pendel.simulate.beams import SegmentGroup
from pendel.simulate.plan import Plan

AXIS = "frames"


def shard_plan(plan: Plan) -> Plan:
    """The plan with whole frames dealt out to all devices of all processes; unchanged for one device and when it is
    spread already.

    In a run of several processes each process stores the arrays of its own frames only; every process must call this
    with the same plan.

    Raises:
        InputError: more devices than frames.
    """
    devices = jax.devices()
    if len(devices) == 1 or plan.mesh is not None:
        return plan
    if len(devices) > plan.frames:
        raise InputError(
            found=f"there are {len(devices)} devices for {plan.frames} frames",
            expected="at least one frame for every device",
            do="use fewer devices or processes",
        )
    mesh = Mesh(np.array(devices), (AXIS,))
    owner = deal_frames(plan, len(devices))
    groups = tuple(_spread(group, owner, mesh, plan.measurements) for group in plan.groups)
    return dataclasses.replace(plan, groups=groups, mesh=mesh)


def deal_frames(plan: Plan, devices: int) -> Int[np.ndarray, " frames"]:
    """Device of every frame, so that all have about the same work: the largest frames first, each to the least busy."""
    work = np.zeros(plan.frames)
    for group in plan.groups:
        beams = np.sum(np.asarray(group.present), axis=1, dtype=float)
        np.add.at(work, np.asarray(group.frame), beams**2)
    owner, load = np.zeros(plan.frames, dtype=int), np.zeros(devices)
    for frame in np.argsort(-work, kind="stable"):
        owner[frame] = int(np.argmin(load))
        load[owner[frame]] += work[frame] + 1.0
    return owner


def _spread(group: SegmentGroup, owner: Array, mesh: Mesh, measurements: int) -> SegmentGroup:
    """The group's segments ordered by device, the devices' shares filled up to one length with empty segments."""
    shares = [np.flatnonzero(owner[np.asarray(group.frame)] == device) for device in range(mesh.size)]
    longest = max(len(share) for share in shares)
    empty = _empty_segment(group, measurements)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def arrange(values, filling):
        values = np.asarray(values)
        shape = (mesh.size * longest, *values.shape[1:])

        def of_device(index: Any) -> np.ndarray:
            device = (index[0].start or 0) // longest
            rest = np.broadcast_to(filling, (longest - len(shares[device]), *values.shape[1:]))
            return np.concatenate([values[shares[device]], rest.astype(values.dtype)])

        return jax.make_array_from_callback(shape, sharding, of_device)

    return jax.tree.map(arrange, group, empty)


def _empty_segment(group: SegmentGroup, measurements: int) -> SegmentGroup:
    """A segment with nothing but the incident beam, which counts for no measurement."""
    only_first = np.arange(group.hkl.shape[1]) == 0
    return SegmentGroup(
        hkl=np.zeros(group.hkl.shape[1:], dtype=int),
        present=only_first,
        matrix=np.asarray(group.matrix)[0],
        tilt_weight=np.zeros(group.tilt_weight.shape[1:]),
        across=np.zeros(group.across.shape[1:]),
        place=np.full(group.place.shape[1:], -1),
        frame=np.zeros((), dtype=int),
        measurement=np.full(group.measurement.shape[1:], measurements),
        rows=group.rows,
        folded=jax.tree.map(lambda x: np.zeros_like(np.asarray(x)[0]), group.folded),
    )
