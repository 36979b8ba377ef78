"""What `make bench` runs: speed of the simulator and its gradient, and of the usual dense methods, in one table.

Every case runs in a process of its own, so that its peak memory is its own. Systems of the sweep over N beams are
crystals of growing cells at one sg_max, 8 tilts over 0.35 degrees, 600 Å. Published data sets are used where
`../shared/data` has them. Writes docs/benchmark.md, docs/benchmark.json and docs/benchmark.png.
"""

import dataclasses
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_table import as_markdown, plot

import pendel
from pendel.crystal.form_factors import form_factors
from pendel.run.processes import join_processes
from pendel.simulate import beams as selection
from pendel.simulate.chebyshev import expansion_length, propagate_chebyshev, spectral_interval
from pendel.simulate.coupling import plan_coupling
from pendel.simulate.geometry import beam_axis_row
from pendel.simulate.matrix import diagonal_and_flux, interaction_matrix
from pendel.simulate.shard import shard_plan

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SIZES = (50, 100, 200, 300, 500, 700, 1000)
DENSE_SIZES = (50, 100, 200, 300, 500)
TILTS, THICKNESS = 8, 600.0  # per segment; Å
WAVELENGTH = 0.0251  # Å, 200 keV
NODES = np.array([0.3, 0.475, 0.65, 0.825, 1.0])
SETS = {
    "quartz": (
        "quartz/quartz.cif_pets",
        "quartz/quartz_dynamical.cif",
        900.0,
        {"g_max": 2.0, "sg_max": 0.01, "tilts": 42},
        ":",
    ),
    "cspbbr3-1": (
        "cspbbr3/CsPbBr_P67-crot-050_dyn.cif_pets",
        "cspbbr3/cspbbr3.cif",
        600.0,
        {"g_max": 2.3, "sg_max": 0.02, "tilts": 60},
        "30:31",
    ),
    "cspbbr3": (
        "cspbbr3/CsPbBr_P67-crot-050_dyn.cif_pets",
        "cspbbr3/cspbbr3.cif",
        600.0,
        {"g_max": 2.3, "sg_max": 0.02, "tilts": 60},
        ":",
    ),
}
SEGMENTS = (0.15, 0.25, 0.35, 0.5, 0.7, 1.0)  # degrees
SPREAD = {  # (devices of a process, cores of each process)
    "1 device, 1 core": (1, ["0"]),
    "1 device, 2 cores": (1, ["0,1"]),
    "2 devices, 2 cores": (2, ["0,1"]),
    "4 devices, 2 cores": (4, ["0,1"]),
    "2 processes, a core each": (1, ["0", "1"]),
}


def timed(function, *arguments, repeats=3):
    """(first call, best later call) in seconds."""
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return times[0], min(times[1:])


def peak_gflops():
    """What this machine reaches on one large product of float32 matrices."""
    a = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return 2 * 2048**3 / timed(product, a, repeats=8)[1] / 1e9


def system(beams, dtype=jnp.float32):
    """Interaction [1 N N], diagonal and flux [1 N K] of an invented crystal whose cell is so large that N beams count.

    Si and O of the density of quartz on a jittered grid; |g| < 2 Å⁻¹ and |S_g| < 0.015 Å⁻¹ at any of the tilts.
    """
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    half = np.deg2rad(0.175)
    angles = np.linspace(-half, half, TILTS)
    side = 1.9 * beams ** (1 / 3)  # Å, a little too large; the beams furthest from the Ewald sphere are dropped
    limit = int(2.0 * side) + 1
    hkl = np.stack(np.meshgrid(*[np.arange(-limit, limit + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ turn.T / side
    g_z = g[:, 1, None] * np.sin(angles) + g[:, 2, None] * np.cos(angles)
    excitation = g_z - (np.sum(g**2, axis=1) * WAVELENGTH / 2)[:, None]
    nearest = np.where(np.sum(g**2, axis=1) < 4.0, np.min(np.abs(excitation), axis=1), np.inf)
    nearest[np.all(hkl == 0, axis=1)] = -1.0
    chosen = np.argsort(nearest, kind="stable")[:beams]
    hkl, excitation, g_z = hkl[chosen], excitation[chosen], g_z[chosen]
    unique, inverse = np.unique((hkl[None, :] - hkl[:, None]).reshape(-1, 3), axis=0, return_inverse=True)  # h - g
    u_g = fourier_coefficients(unique, side, rng)
    coupling = (np.pi * WAVELENGTH * u_g)[inverse.reshape(beams, beams)]
    flux = 1 / np.sqrt(1 - g_z * WAVELENGTH)
    precision = jnp.complex64 if dtype == jnp.float32 else jnp.complex128
    diagonal = 2 * np.pi * excitation * flux**2
    return jnp.asarray(coupling, precision)[None], jnp.asarray(diagonal)[None], jnp.asarray(flux)[None]


def fourier_coefficients(hkl, side, rng):
    """U_g [Å⁻²] of a cubic cell of SiO2 with B = 0.6 Å²; zero at g = 0."""
    points = round(side / 2.32)  # atoms along an edge: 0.08 per Å³
    grid = np.stack(np.meshgrid(*[np.arange(points)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    place = (grid + 0.15 * rng.standard_normal(grid.shape)) / points
    g = np.linalg.norm(hkl, axis=1) / side
    silicon, oxygen = form_factors(("Si", "O"), g, "lobato") * np.exp(-0.6 * g**2 / 4)
    phase = np.exp(2j * np.pi * hkl @ place.T)
    total = silicon * phase[:, ::3].sum(axis=1) + oxygen * (phase.sum(axis=1) - phase[:, ::3].sum(axis=1))
    gamma = 1.3914  # relativistic factor at 200 keV
    return np.where(np.any(hkl != 0, axis=1), gamma * total / (np.pi * side**3), 0.0)


def exit_intensities(interaction, diagonal, flux, mode="forward"):
    """|psi|^2 [beams tilts] at the one thickness."""
    steps = 4 * int(THICKNESS)
    wave = propagate_chebyshev(
        interaction, diagonal, flux, jnp.full((1, 1), THICKNESS), rows=interaction.shape[1], max_steps=steps, mode=mode
    )[0, 0]
    return jnp.abs(wave) ** 2


def dense(interaction, diagonal, flux):
    """The structure matrix of every tilt [tilts beams beams]."""
    scaled = flux[0].T[:, :, None] * interaction * flux[0].T[:, None, :]
    return scaled + jax.vmap(jnp.diag)(diagonal[0].T)


def by_expm(interaction, diagonal, flux):
    matrices = dense(interaction, diagonal, flux).astype(interaction.dtype)
    waves = jax.lax.map(lambda a: jax.scipy.linalg.expm(1j * a * THICKNESS, max_squarings=40)[:, 0], matrices)
    return jnp.abs(waves.T) ** 2


def by_eigh(interaction, diagonal, flux):
    def one(a):
        value, vector = jnp.linalg.eigh(a)
        return vector @ (jnp.exp(1j * value * THICKNESS) * jnp.conj(vector[0]))

    return jnp.abs(jax.lax.map(one, dense(interaction, diagonal, flux).astype(interaction.dtype)).T) ** 2


def sweep_case(beams):
    """Times of one system, forward and gradient, and its accuracy against float64 eigen-decomposition."""
    single, double = system(beams), system(beams, jnp.float64)
    exact = np.asarray(jax.jit(by_eigh)(*double))
    _, radius = spectral_interval(*single)
    steps = int(expansion_length(radius[0] * THICKNESS, jnp.float32))
    weight = jnp.asarray(np.random.default_rng(0).random(exact.shape), jnp.float32)

    def loss(interaction, diagonal, flux):
        return jnp.sum(weight * exit_intensities(interaction, diagonal, flux, "reverse"))

    forward = jax.jit(exit_intensities)
    found = {"N": beams, "steps": steps, "loss_s": timed(forward, *single)[1]}
    found["gradient_s"] = timed(jax.jit(jax.grad(loss, argnums=(0, 1))), *single)[1]
    found["gflops"] = 8 * beams**2 * TILTS * steps / found["loss_s"] / 1e9
    found["error"] = float(np.max(np.abs(np.asarray(forward(*single)) - exact)))
    if beams in DENSE_SIZES:
        for name, function in (("expm", by_expm), ("eigh", by_eigh)):
            found[f"{name}_s"] = timed(jax.jit(function), *single, repeats=1)[1]
            found[f"{name}_error"] = float(np.max(np.abs(np.asarray(jax.jit(function)(*single)) - exact)))
        found["expm64_s"] = timed(jax.jit(by_expm), *double, repeats=1)[1]
        found["expm64_error"] = float(np.max(np.abs(np.asarray(jax.jit(by_expm)(*double)) - exact)))
    return found


def data_problem(name, frames):
    """Crystal, plan, loss(parameters, plan, mean) and its arguments for a published data set."""
    data, structure, thickness, settings, _ = SETS[name]
    crystal = pendel.read_crystal(DATA / structure)
    experiment = pendel.thin(
        pendel.read_pets(DATA / data, structure_cell=crystal.cell), pendel.run.inputs.parse_frames(frames)
    )
    rule = {"rsg": 0.9, "dsg": 0.0015} if name == "quartz" else {"rsg": 0.66, "dsg": 0.0015}
    experiment = pendel.select(experiment, "klar", **rule)
    plan = pendel.make_plan(crystal, experiment, thickness_max=1.1 * thickness, **settings)
    observed = jnp.sqrt(jnp.maximum(jnp.asarray(experiment.intensity), 0))
    shape = (plan.frames, len(NODES))

    def loss(parameters, plan, mean):
        fract, u_aniso, occupancy, tilt, nodes = parameters
        structure = dataclasses.replace(crystal, fract=fract, u_aniso=u_aniso, occupancy=occupancy)
        illumination = pendel.Illumination(tilt=tilt, thickness=nodes, weights=jnp.full(shape, 1 / len(NODES)))
        calculated = pendel.simulate_intensities(structure, plan, illumination)
        return jnp.sum((jnp.sqrt(calculated + 1e-9) * mean - observed) ** 2)

    nodes = jnp.broadcast_to(jnp.asarray(NODES * thickness), shape)
    parameters = (crystal.fract, crystal.u_aniso, crystal.occupancy, jnp.zeros((plan.frames, 2)), nodes)
    return crystal, plan, loss, (jax.tree.map(jnp.asarray, parameters), jnp.asarray(10.0))


def data_case(name):
    """Loss and gradient by coordinates, U_ij, occupancies, tilts and thickness nodes of a published data set."""
    crystal, plan, loss, (parameters, mean) = data_problem(name, SETS[name][-1])
    work, beams = operations(crystal, plan, SETS[name][2])
    repeats = 1 if name == "cspbbr3" else 5
    first, loss_s = timed(jax.jit(loss), parameters, plan, mean, repeats=repeats)
    first_gradient, gradient_s = timed(jax.jit(jax.grad(loss)), parameters, plan, mean, repeats=repeats)
    return {
        "case": name,
        "frames": plan.frames,
        "beams_per_tilt": beams,
        "loss_s": loss_s,
        "gradient_s": gradient_s,
        "first_loss_s": first,
        "first_gradient_s": first_gradient,
        "loss_gflops": work / loss_s / 1e9,
        "gradient_gflops": 4 * work / gradient_s / 1e9,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def segment_case(name, degrees):
    """Time of loss and gradient with segments of another length, and how far the intensities move."""
    usual = data_problem(name, SETS[name][-1])
    selection.SEGMENT_DEG = float(degrees)
    _, plan, loss, (parameters, mean) = data_problem(name, SETS[name][-1])
    value = float(jax.jit(loss)(parameters, plan, mean))
    return {
        "case": name,
        "degrees": float(degrees),
        "segments": sum(len(group.frame) for group in plan.groups),
        "beams": [group.hkl.shape[1] for group in plan.groups],
        "loss_s": timed(jax.jit(loss), parameters, plan, mean, repeats=5)[1],
        "gradient_s": timed(jax.jit(jax.grad(loss)), parameters, plan, mean, repeats=5)[1],
        "change": value / float(jax.jit(usual[2])(usual[3][0], usual[1], mean)) - 1,
    }


def spread_case(name, frames):
    """Loss and its time, and that of the gradient, with the frames spread over all devices of all processes."""
    join_processes()
    _, plan, loss, (parameters, mean) = data_problem(name, frames)
    plan = shard_plan(plan)
    value = float(jax.jit(loss)(parameters, plan, mean))
    loss_s = timed(jax.jit(loss), parameters, plan, mean, repeats=5)[1]
    gradient_s = timed(jax.jit(jax.grad(loss)), parameters, plan, mean, repeats=5)[1]
    return {"loss": value, "loss_s": loss_s, "gradient_s": gradient_s, "devices": jax.device_count()}


def run_spread(devices, cores, *words):
    """What the first of some processes found, each on its own cores."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free.getsockname()[1]}"
    environment["JAX_NUM_PROCESSES"] = str(len(cores))
    running = []
    for number, own in enumerate(cores):
        environment["JAX_PROCESS_ID"] = str(number)
        command = [sys.executable, __file__, "spread", own, *words]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"benchmark {words} on cores {cores} failed")
    return json.loads(printed[0].splitlines()[-1])


def operations(crystal, plan, thickness):
    """Floating point operations of one simulation without padding, and the mean number of beams of a tilt."""
    coupling, row = plan_coupling(crystal, plan), beam_axis_row(jnp.zeros((plan.frames, 2)))
    per_product = 4.0 if plan.centre is not None else 8.0
    total, beams, tilts = 0.0, 0.0, 0.0

    @jax.jit
    def radius(segment):
        interaction = interaction_matrix(coupling, segment, plan.box)
        return spectral_interval(interaction, *diagonal_and_flux(segment, row, plan.wavelength))[1][0]

    for group in plan.groups:
        for index in range(len(group.frame)):
            segment = jax.tree.map(lambda x, index=index: jnp.asarray(x)[index][None], group)
            steps = float(expansion_length(radius(segment) * thickness, plan.dtype))
            n, k = int(np.sum(segment.present)), int(np.sum(np.any(segment.tilt_weight[0] > 0, axis=0)))
            total += per_product * n**2 * k * steps
            beams, tilts = beams + n * k, tilts + k
    return total, beams / tilts


def run_case(*words, native=True):
    environment = {**os.environ, "PENDEL_NATIVE": "1" if native else "0"}
    result = subprocess.run(
        [sys.executable, __file__, *words], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"benchmark {words} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def main():
    peak = run_case("peak")
    sweep = [run_case("sweep", str(size)) for size in SIZES]
    for row in sweep:
        print(row, flush=True)
    cases = []
    for name, (data, *_) in SETS.items():
        for native in (True, False) if name != "cspbbr3" else (True,):
            if (DATA / data).exists():
                cases.append({**run_case("data", name, native=native), "compiled": native})
                print(cases[-1], flush=True)
    lengths = []
    for name in ("quartz", "cspbbr3-1") if DATA.exists() else ():
        lengths += [run_case("segment", name, str(degrees)) for degrees in SEGMENTS]
    print(lengths, flush=True)
    spread = []
    if DATA.exists() and hasattr(os, "sched_setaffinity"):
        for name, frames in (("quartz", ":"), ("cspbbr3", "::8")):
            for label, (devices, cores) in SPREAD.items():
                spread.append({"case": name, "spread": label, **run_spread(devices, cores, name, frames)})
                print(spread[-1], flush=True)
    sizes = np.array(SIZES)[1:]
    exponent = {
        key: float(np.polyfit(np.log(sizes), np.log([row[key] for row in sweep if row["N"] in sizes]), 1)[0])
        for key in ("loss_s", "gradient_s")
    }
    report = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, JAX {jax.__version__}, {jax.default_backend()}",
        "peak_gflops_float32": peak,
        "tilts": TILTS,
        "thickness": THICKNESS,
        "exponent_of_N": exponent,
        "sweep": sweep,
        "cases": cases,
        "segment_lengths": lengths,
        "spread": spread,
    }
    (DOCS / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n")
    (DOCS / "benchmark.md").write_text(as_markdown(report))
    plot(report, DOCS / "benchmark.png")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peak"]:
            print(json.dumps(peak_gflops()))
        case ["sweep", size]:
            print(json.dumps(sweep_case(int(size))))
        case ["data", name]:
            print(json.dumps(data_case(name)))
        case ["segment", name, degrees]:
            print(json.dumps(segment_case(name, degrees)))
        case ["spread", cores, name, frames]:
            os.sched_setaffinity(0, map(int, cores.split(",")))
            print(json.dumps(spread_case(name, frames)))
        case _:
            main()
