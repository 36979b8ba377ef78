"""The Chebyshev recurrence compiled for this processor, through XLA's foreign function interface.

`chebyshev.cc` is compiled at first use by the C++ compiler found on PATH and stored in the user's cache. Where the
compiler fails, others may write to the cache, PENDEL_NATIVE=0, or JAX runs on another device, the same recurrence runs
in plain JAX.
"""

import ctypes
import hashlib
import importlib.resources
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from pendel.base import Array, InputError
from pendel.user_cache import user_cache

KINDS = ("forward", "backward", "tangent")
DTYPES = ("float32", "float64")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")


def is_native() -> bool:
    """Whether the compiled recurrence is used for what is traced now."""
    return jax.default_backend() == "cpu" and os.environ.get("PENDEL_NATIVE") != "0" and _register()


@cache
def _register() -> bool:
    library = _library()
    if library is None:
        return False
    for kind in KINDS:
        for dtype in DTYPES:
            handler = jax.ffi.pycapsule(getattr(library, f"pendel_{kind}_{dtype}"))
            jax.ffi.register_ffi_target(f"pendel_{kind}_{dtype}", handler, platform="cpu")
    return True


def _library() -> ctypes.CDLL | None:
    """The compiled library from the user's cache, made now if it is not there; None without a working compiler."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return None
    source = importlib.resources.files("pendel.simulate").joinpath("chebyshev.cc").read_bytes()
    made_of = [source, compiler.encode(), jax.__version__.encode(), _processor()]
    name = f"chebyshev-{hashlib.sha256(b'|'.join(made_of)).hexdigest()[:16]}.so"
    try:
        folder = user_cache()
        if not (folder / name).exists():
            _compile(compiler, source, folder / name)
        return ctypes.CDLL(str(folder / name))
    except (OSError, subprocess.SubprocessError, InputError):
        return None


def _compile(compiler: str, source: bytes, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        (Path(work) / "chebyshev.cc").write_bytes(source)
        command = [compiler, *FLAGS, "-I", jax.ffi.include_dir(), "chebyshev.cc", "-o", "chebyshev.so"]
        tuned = ["-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"]
        for extra in (tuned, []):
            if subprocess.run([*command, *extra], cwd=work, capture_output=True, check=False).returncode == 0:
                break
        os.replace(Path(work) / "chebyshev.so", target)


def _processor() -> bytes:
    """What distinguishes processors that share a home directory."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode() + platform.machine().encode()
    return b"".join(sorted({line for line in lines if line.startswith((b"flags", b"model name", b"Features"))}))


def native_recurrence(
    operands: tuple[Array, ...],
    steps: Int[Array, " segments"],
    beams: Int[Array, " segments"],
    rows: int,
    mode: str,
) -> Float[Array, "2 segments sums rows two_tilts"]:
    """Even and odd sums over k of c_k X_k, as `chebyshev.recurrence` defines them; differentiable in `mode`.

    Args:
        operands: interaction [segments parts beams beams], diagonal and flux [segments beams tilts], damping
            Im c / R [segments], and coefficients [segments sums terms].
        steps: terms that each segment needs.
        beams: beams of each segment; what follows them is padding.
    """
    run = _forward_mode if mode == "forward" else _reverse_mode
    return run(*operands, steps, beams, rows)


def _call(kind, outputs, rows, batched, *arguments):
    call = jax.ffi.ffi_call(
        f"pendel_{kind}_{arguments[0].dtype}", outputs, vmap_method="expand_dims" if batched else "sequential"
    )
    return call(*arguments, rows=np.int64(rows), threads=np.int64(_threads()))


def _threads() -> int:
    """Processors for one call; devices of one process share them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // jax.local_device_count())


def _sums_shape(flux, coefficient, rows):
    segments, sums = coefficient.shape[:2]
    return jax.ShapeDtypeStruct((2, segments, sums, rows, 2 * flux.shape[2]), flux.dtype)


def _states(rows, *arguments):
    flux, _, coefficient = arguments[2:5]
    state = jax.ShapeDtypeStruct((*flux.shape[:2], 2 * flux.shape[2]), flux.dtype)
    outputs = (_sums_shape(flux, coefficient, rows), state, state)
    return _call("forward", outputs, rows, False, *arguments)


@partial(jax.custom_jvp, nondiff_argnums=(7,))
def _forward_mode(interaction, shifted, flux, damping, coefficient, steps, beams, rows):
    return _states(rows, interaction, shifted, flux, damping, coefficient, steps, beams)[0]


@_forward_mode.defjvp
def _forward_mode_jvp(rows, primals, tangents):
    _, _, flux, _, coefficient, _, _ = primals
    output = _sums_shape(flux, coefficient, rows)
    return _forward_mode(*primals, rows), _call("tangent", output, rows, True, *primals, *tangents[:3])


@partial(jax.custom_vjp, nondiff_argnums=(7,))
def _reverse_mode(interaction, shifted, flux, damping, coefficient, steps, beams, rows):
    return _states(rows, interaction, shifted, flux, damping, coefficient, steps, beams)[0]


def _reverse_mode_forward(interaction, shifted, flux, damping, coefficient, steps, beams, rows):
    arguments = (interaction, shifted, flux, damping, coefficient, steps, beams)
    sums, last, beyond = _states(rows, *arguments)
    return sums, (*arguments, last, beyond)


def _reverse_mode_backward(rows, saved, cotangent):
    outputs = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in saved[:3])
    gradient = _call("backward", outputs, rows, False, *saved, cotangent)
    none = np.zeros(saved[5].shape, jax.dtypes.float0)
    return (*gradient, jnp.zeros_like(saved[3]), jnp.zeros_like(saved[4]), none, none)


_reverse_mode.defvjp(_reverse_mode_forward, _reverse_mode_backward)
