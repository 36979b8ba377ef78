"""Runs that are killed at random moments and begun again: every file as that of a run that nobody disturbed.

    python examples/studies/kill.py --kills 200 --seed 1 [--infer svi nuts smc] [--folder WORK]

A process refines a part of the example with a small kinematic model; it gets SIGKILL after a random time, the same
command is started again, and so on until one comes to its end. Its files must then say the same as those of a run
without interruption, apart from times, and no temporary file may be left. After every kill each file must be whole.
"""

import argparse
import collections
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

import pendel
from pendel.datasets import example
from pendel.folder.checkpoint import read_arrays
from pendel.infer.chains.nuts import ChainTuning
from pendel.infer.chains.smc import SmcTuning
from pendel.infer.guide.svi import SviTuning
from pendel.run.tuning import Tuning

MODEL = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from pendel.crystal.parameters import displaced
from pendel.model.errors import gaussian


def model(crystal, datasets, *, intensities=None, mask=None):
    shift = numpyro.sample("displacement", dist.Normal(0, 0.05).expand([len(crystal.position_basis)]).to_event(1))
    fract = numpyro.deterministic("fract", displaced(crystal, shift))
    numpyro.deterministic("U_aniso", jnp.asarray(crystal.u_aniso))
    (data,) = datasets
    measured = data.experiment
    with numpyro.plate("frames", data.plan.frames):
        log_scale = numpyro.sample("log_scale", dist.Normal(5.0, 3.0))
        tilt = numpyro.sample("tilt", dist.Normal(0, 0.1).expand([2]).to_event(1))
        thickness = numpyro.sample("log_thickness", dist.Normal(6.5, 0.3))
    numpyro.deterministic("thickness", jnp.exp(thickness))
    phase = jnp.sum(jnp.cos(2 * jnp.pi * jnp.asarray(measured.hkl) @ fract.T), axis=1)
    strength = jnp.exp(log_scale + tilt.sum(1))[measured.frame_index] * phase**2
    calculated = numpyro.deterministic("calculated", strength)
    with numpyro.handlers.mask(mask=True if mask is None else mask[0]):
        numpyro.sample(
            "intensity",
            gaussian(calculated, measured.sigma, b=0.3),
            obs=None if intensities is None else intensities[0],
            infer={"plate": "frames", "frame": measured.frame_index},
        )
"""
TUNING = Tuning(
    svi=SviTuning(steps=60, cycles=(3, 3), every=20),
    nuts=ChainTuning(chains=2, warmup=40, draws=60),
    smc=SmcTuning(particles=8),
)
TIMES = ("elapsed_s", "compile_s", "seconds", "finished", "compilation")
LONGEST = 600  # s of one process
ROUNDING = 1e-11  # of the largest number of an array of a netCDF file


def refine(out: Path, model: Path, infer: str) -> None:
    """The run that is killed; it is what this script does with `--worker`."""
    files = example()
    settings = pendel.Settings(model=str(model), infer=infer, frames="::11", g_max=0.9, sg_max=0.004, tilts=5)
    pendel.refine(files.structure, [files.data], out, settings, tuning=TUNING)


def started(out: Path, model: Path, infer: str) -> subprocess.Popen:
    """A process that refines, with a cache of compiled programs that is killed with it."""
    words = [sys.executable, __file__, "--worker", str(out), "--model", str(model), "--infer", infer]
    own = {name: text for name, text in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    own |= {"XDG_CACHE_HOME": str(model.parent / "cache"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(words, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> None:
    """Wait for the end of a process; raises RuntimeError with what it said when that is not success."""
    _, said = process.communicate(timeout=LONGEST)
    if process.returncode:
        raise RuntimeError(f"a run failed: {said[-1500:]}")


def timeless(value: object) -> object:
    """JSON without the entries that are times; numbers to 12 digits, because sums may be taken in another order."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {name: timeless(entry) for name, entry in value.items() if name not in TIMES}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def content(path: Path) -> object:
    """What a file says apart from times; raises an exception for a file that is not whole."""
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".npz":
        return {name: array.tobytes() for name, array in read_arrays(path).items()}
    if path.suffix == ".nc":
        tree = xr.load_datatree(path, engine="h5netcdf")
        groups = {
            f"{group.path}/{name}": values.values for group in tree.subtree for name, values in group.variables.items()
        }
        tree.close()
        return groups
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        assert text.rstrip().endswith("</html>")
        text = re.sub(r"\d+ s, done [-\d:T+]+|\d+ s, \d+ s of it compiling", "", text)
        text = re.sub(r"(?<=[-\"#])p[0-9a-f]{10}(?=[\")])", "", text)  # names of clip paths, made of all their digits
        return re.sub(r"\d+ programs.*?</", "</", text)
    return text


def same(one: object, other: object) -> bool:
    """Whether two contents are equal; arrays of numbers within ROUNDING, because sums may be taken in another order."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if not (
        isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype.kind == other.dtype.kind == "f"
    ):
        return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    size = np.max(np.abs(other), where=np.isfinite(other), initial=0.0)
    return one.shape == other.shape and np.allclose(one, other, rtol=ROUNDING, atol=ROUNDING * size, equal_nan=True)


def differences(found: Path, expected: Path) -> list[str]:
    """Names of files that one folder lacks, or that differ in more than times."""
    names = {path.name for folder in (found, expected) for path in folder.iterdir()}
    both = {name for name in names if (found / name).is_file() and (expected / name).is_file()}
    return sorted((names - both) | {name for name in both if not same(content(found / name), content(expected / name))})


def spoilt(out: Path) -> list[str]:
    """Files of a killed run that are not whole; temporary ones may stay until the next run begins."""
    wrong = []
    for path in out.iterdir() if out.is_dir() else ():
        try:
            if not path.name.endswith(".tmp"):
                content(path)
        except Exception as error:  # noqa: BLE001  whatever a reader says of half a file
            wrong.append(f"{path.name}: {type(error).__name__} {error}")
    return wrong


def stage_of(out: Path) -> str:
    """The last stage that a folder has, for the table of where runs were killed."""
    try:
        return (list(json.loads((out / "run.json").read_text())["stages"]) or ["claimed"])[-1]
    except (OSError, ValueError):
        return "nothing"


def main() -> None:
    """Kill and compare; print counts; exit 1 when a file was spoilt or differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--infer", nargs="+", default=["svi", "nuts", "smc"])
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder when not given")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further run after this time")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        refine(options.worker, options.model, options.infer[0])
        return
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(1 if study(options, options.folder or Path(temporary)) else 0)


def study(options: argparse.Namespace, work: Path) -> list[str]:
    """Do it; returns what went wrong."""
    work.mkdir(parents=True, exist_ok=True)
    model = work / "small.py"
    model.write_text(MODEL)
    random, began = np.random.default_rng(options.seed), time.monotonic()
    usual: dict[str, float] = {}
    for infer in options.infer:
        whole = [work / f"{infer}_whole_{number}" for number in range(2)]  # the first one compiles
        for out in whole:
            if not (out / "report.html").is_file():  # from an earlier study in this folder
                finished(started(out, model, infer))
        usual[infer] = json.loads((whole[1] / "summary.json").read_text())["elapsed_s"]
        wrong = differences(*whole)
        print(f"{infer}: {usual[infer]:.0f} s undisturbed; two such runs differ in {wrong or 'nothing'}", flush=True)
    kills, runs, wrong, places = 0, 0, [], collections.Counter()
    while kills < options.kills and time.monotonic() - began < 60 * options.minutes:
        infer = options.infer[runs % len(options.infer)]
        out = work / f"killed_{runs}"
        while True:
            process = started(out, model, infer)
            is_over = kills >= options.kills or time.monotonic() - began > 60 * options.minutes
            try:
                process.wait(None if is_over else random.uniform(0.05, 1.0) * usual[infer])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                places[f"{infer} after {stage_of(out)}"] += 1
                wrong += [f"kill {kills}: {what}" for what in spoilt(out)]
                continue
            finished(process)
            break
        runs += 1
        wrong += [f"{out.name} ({infer}): {name} differs" for name in differences(out, work / f"{infer}_whole_1")]
        print(f"{kills} kills, {runs} runs finished, {len(wrong)} wrong: {wrong[-3:]}", flush=True)
    print(f"{kills} kills of seed {options.seed} in {runs} runs, {time.monotonic() - began:.0f} s")
    for place, number in sorted(places.items()):
        print(f"  {number} {place}")
    print("\n".join(wrong) or "every file whole after every kill, and in the end as that of an undisturbed run")
    return wrong


if __name__ == "__main__":
    main()
