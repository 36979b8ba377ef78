"""Several processes, on one or many hosts, that work on one refinement."""

import os

import jax
from jax.experimental import multihost_utils

from pendel.base import InputError

COORDINATOR, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join_processes() -> None:
    """Connect this process with the others; call it before anything uses a device.

    The environment says which: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; under Slurm, Open MPI and Kubernetes JAX finds out by itself. Without any of them this is the
    only process.

    Raises:
        InputError: only some of the variables are set, or they are no numbers.
    """
    given = {name: os.environ[name] for name in (COORDINATOR, COUNT, NUMBER) if name in os.environ}
    if not given:
        if any(name in os.environ for name in ("SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_SERVICE_HOST")):
            jax.distributed.initialize()
        return
    if len(given) < 3 or not (given[COUNT].isdigit() and given[NUMBER].isdigit()):
        raise InputError(
            found=", ".join(f"{name}={value}" for name, value in given.items()),
            expected=f"{COORDINATOR}=host:port, {COUNT} and {NUMBER} as whole numbers",
            do="set all three for every process, numbers from 0",
        )
    jax.distributed.initialize(given[COORDINATOR], int(given[COUNT]), int(given[NUMBER]))


def is_first() -> bool:
    """Whether this process writes the results."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process has come to this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def describe_devices() -> str:
    """Devices and processes of this run, for its record."""
    devices = jax.devices()
    kinds = ", ".join(sorted({str(device.device_kind) for device in devices}))
    return f"{len(devices)} {kinds}, {jax.process_count()} processes, {os.cpu_count()} processor cores here"
