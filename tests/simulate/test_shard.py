"""Frames spread over devices and processes give the same numbers, and nobody holds the frames of others."""

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("shard_script.py")


def start(devices, **environment):
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        [sys.executable, SCRIPT], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@cache
def on_devices(count):
    return result(start(count))


def assert_same(found, expected):
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["slope"] == pytest.approx(expected["slope"], rel=1e-5)
    for name, value in expected["gradient"].items():
        scale = np.max(np.abs(value))
        np.testing.assert_allclose(found["gradient"][name], value, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("count", [2, 4])
def test_devices_of_one_process(count):
    found = on_devices(count)
    assert found["devices"] == found["replanned_on"] == count
    assert found["replanned_loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert_same(found, on_devices(1))


def test_two_processes_hold_their_own_frames_only():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    running = [start(1, **common, JAX_PROCESS_ID=str(number)) for number in range(2)]
    one, other = map(result, running)
    assert (one["devices"], one["processes"]) == (2, 2)
    for found in (one, other):
        assert_same(found, on_devices(1))
        assert found["share"] == pytest.approx(0.5, abs=0.01)
    assert set(one["frames"]).isdisjoint(other["frames"])
    assert sorted(one["frames"] + other["frames"]) == on_devices(1)["frames"]
