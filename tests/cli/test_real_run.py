"""The whole command with the simulator: coarse to fine, interrupted and resumed, the maximum, then particles."""

import json
from pathlib import Path

import jax
import pytest

import pendel
from pendel.datasets import example
from pendel.infer.chains.smc import SmcTuning
from pendel.run.tuning import Coarsening, Tuning

SETTINGS = pendel.Settings(model="robust", infer="smc", frames="::25", g_max=0.7, sg_max=0.006, tilts=5)
# The coarse fit has all beams: what is compiled for it serves the fit that follows.
QUICK = Tuning(coarse=Coarsening(worth=0.0, beams=1.0), smc=SmcTuning(particles=4))


@pytest.fixture
def compiled_once(tmp_path: Path):
    """What is compiled in one refinement of a test is there for the next one."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    if before[names[0]] is None:
        jax.config.update(names[0], str(tmp_path / "compiled"))
        jax.config.update(names[1], 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.slow  # minutes: most of it is compilation
@pytest.mark.optimized
def test_a_small_real_run_from_coarse_to_particles(tmp_path: Path, compiled_once):
    files, out, seen = example(), tmp_path / "run", []

    def stop_in_map(stage, step, total, info):
        seen.append(stage)
        if "start" in record()["stages"]:
            raise KeyboardInterrupt

    def record():
        return json.loads((out / "run.json").read_text())

    with pytest.raises(KeyboardInterrupt):
        pendel.refine(files.structure, [files.data], out, SETTINGS, progress=stop_in_map, tuning=QUICK)
    assert set(record()["stages"]) == {"coarse", "start"}
    assert record()["coarse"] == {"every": 1, "sg_max": 0.006}
    seen.clear()
    outcome = pendel.refine(
        files.structure, [files.data], out, SETTINGS, progress=lambda stage, *_: seen.append(stage), tuning=QUICK
    )
    assert "start" not in seen
    assert set(record()["stages"]) == {"coarse", "start", "map", "basins", "smc"}
    check_result(outcome, out)


def check_result(outcome: pendel.Outcome, out: Path) -> None:
    """The model simulated, the fit converged, and the particles stand around its maximum."""
    summary = outcome.summary
    assert summary["theory"] == "dynamical"
    assert summary["converged"]
    assert summary["stage"] == "smc"
    assert summary["smc_temperatures"][-1] == 1.0
    assert summary["wr2_pooled"] < 0.6  # 0.36 at the maximum
    tree = pendel.Posterior.load(out / "posterior.nc").data
    assert tree["posterior"]["fract"].sizes["draw"] == 4
