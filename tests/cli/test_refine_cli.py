"""The command line: every kind of bad input, interruption and resumption, and the files a run leaves."""

import csv
import dataclasses
import errno
import json
import os
import re
from pathlib import Path

import gemmi
import numpy as np
import pytest
from typer.testing import CliRunner

import pendel
from pendel import refinement
from pendel.cli.errors import one_line
from pendel.cli.main import app
from pendel.datasets import example
from pendel.folder.run_folder import RunFolder
from pendel.infer.chains.mclmc import MclmcTuning
from pendel.infer.chains.nuts import ChainTuning
from pendel.infer.chains.smc import SmcTuning
from pendel.infer.guide.svi import SviTuning
from pendel.judge.compare import read_run
from pendel.run import fitting
from pendel.run.settings import EXPECTED_MINUTES
from pendel.run.tuning import Batching, Coarsening, Tuning
from pendel.simulate.cost import RUN_SECONDS

CENTRED = """data_silicon
_cell_length_a 5.43
_cell_length_b 5.43
_cell_length_c 5.43
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F d -3 m :2'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
Si1 Si 0.125 0.125 0.125 0.006
"""

# Kinematic scattering with the sites a refinement expects: the whole flow in seconds.
KINEMATIC = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from pendel.model.errors import gaussian
from pendel.crystal.parameters import displaced

def model(crystal, datasets, *, intensities=None, mask=None):
    shift = numpyro.sample("displacement", dist.Normal(0, 0.05).expand([len(crystal.position_basis)]).to_event(1))
    u_iso = numpyro.sample("u_iso", dist.LogNormal(-4.6, 0.5))
    fract = numpyro.deterministic("fract", displaced(crystal, shift))
    numpyro.deterministic("U_aniso", u_iso / 0.01 * jnp.asarray(crystal.u_aniso))
    (data,) = datasets
    experiment = data.experiment
    with numpyro.plate("frames", data.plan.frames):
        log_scale = numpyro.sample("log_scale", dist.Normal(5.0, 3.0))
        tilt = numpyro.sample("tilt", dist.Normal(0, 0.1).expand([2]).to_event(1))
        thickness = numpyro.sample("log_thickness", dist.Normal(6.5, 0.3))
    numpyro.deterministic("thickness", jnp.exp(thickness))
    phase = jnp.sum(jnp.cos(2 * jnp.pi * jnp.asarray(experiment.hkl) @ fract.T), axis=1)
    strength = jnp.exp(log_scale + tilt.sum(1))[experiment.frame_index] * phase**2
    calculated = numpyro.deterministic("calculated", strength)
    with numpyro.handlers.mask(mask=True if mask is None else mask[0]):
        numpyro.sample(
            "intensity",
            gaussian(calculated, experiment.sigma, b=0.3),
            obs=None if intensities is None else intensities[0],
            infer={"plate": "frames", "frame": experiment.frame_index},
        )
"""
FILES = {"summary.json", "posterior.nc", "refined.cif", "ensemble.cif", "reflections.csv", "parameters.csv", "run.json"}
SMALL = {"frames": "::11", "g_max": 0.9, "sg_max": 0.004, "tilts": 5}
COSTLY = Tuning(coarse=Coarsening(worth=0.0))  # every problem begins with few frames and beams


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the embedded example that a test may spoil."""
    files = example()
    structure, data = tmp_path / "start.cif", tmp_path / "data.cif_pets"
    structure.write_text(files.structure.read_text())
    data.write_text(files.data.read_text())
    return structure, data


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and what stderr says."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def refused(out: Path, *arguments: object) -> str:
    """The one line of a refusal: exit code 2, three sentences, and no output folder."""
    existed = out.exists()
    code, message = run("refine", "--progress", "quiet", *arguments, "--out", out)
    assert code == 2, message
    assert len(message.strip().splitlines()) == 1
    assert re.fullmatch(r"pendel: .+\. Expected .+\. To fix: .+\.", message.strip())
    assert out.exists() == existed
    return message


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_column(path: Path, name: str, value: str, rows: int | None) -> None:
    """Set a loop column to a value, in its first rows or in all."""
    document = gemmi.cif.read(str(path))
    column = document.sole_block().find_values(name)
    for row in range(len(column) if rows is None else rows):
        column[row] = value
    document.write_file(str(path))


def test_missing_files(inputs, tmp_path: Path):
    structure, data = inputs
    assert "absent.cif" in refused(tmp_path / "run", tmp_path / "absent.cif", data)
    assert "absent.cif_pets" in refused(tmp_path / "run", structure, tmp_path / "absent.cif_pets")


@pytest.mark.parametrize("spoiled", [0, 1])
def test_not_a_cif(inputs, tmp_path: Path, spoiled):
    inputs[spoiled].write_text("These are my notes.\n")
    assert "not a CIF" in refused(tmp_path / "run", *inputs)


SPOILED = {
    "unknown element": (0, "O1 O 0.8620", "O1 Qq 0.8620", "Qq"),
    "cell mismatch": (0, "_cell_length_a 4.913", "_cell_length_a 5.413", "%"),
    "atoms too close": (0, "O1 O 0.8620 0.5785 0.6120", "O1 O 0.02 0.47 0.85", "Å"),
    "non-positive ADP": (0, "O1 0.01 0.01 0.01", "O1 0.01 0.01 -0.01", "O1"),
    "no atoms": (0, "_atom_site_fract_z", "_atom_site_other", "start.cif"),
    "no intensities": (1, "_refln_intensity_meas", "_refln_other", "no reflections"),
    "no wavelength": (1, "_diffrn_radiation_wavelength", "_diffrn_other", "wavelength"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_items(inputs, tmp_path: Path, case):
    which, old, new, named = SPOILED[case]
    replaced(inputs[which], old, new)
    assert named in refused(tmp_path / "run", *inputs)


COLUMNS = {
    "negative sigma": ("_refln_intensity_sigma", "-1", 1, "-1"),
    "all-zero sigma": ("_refln_intensity_sigma", "0", None, "sigma"),
    "NaN intensity": ("_refln_intensity_meas", "nan", 1, "nan"),
    "frame without row": ("_refln_zone_axis_id", "99", 1, "99"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_spoiled_columns(inputs, tmp_path: Path, case):
    name, value, rows, named = COLUMNS[case]
    change_column(inputs[1], name, value, rows)
    assert named in refused(tmp_path / "run", *inputs)


def test_singular_ub(inputs, tmp_path: Path):
    document = gemmi.cif.read(str(inputs[1]))
    block = document.sole_block()
    for row in "123":
        block.set_pair(f"_diffrn_orient_matrix_UB_{row}2", block.find_value(f"_diffrn_orient_matrix_UB_{row}1"))
    document.write_file(str(inputs[1]))
    assert "UB matrix is singular" in refused(tmp_path / "run", *inputs)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--infer", "vi", "Expected map or svi or nuts or mclmc or smc"),
        ("--select", "all", "nearest or klar"),
        ("--cell", "mine", "header or structure or ub"),
        ("--geometry", "spiral", "rotation or precession"),
        ("--frames", "every third", "start:stop:step"),
        ("--holdout", "1.5", "a fraction"),
        ("--g-max", "-1", "a positive number"),
        ("--guides", "0", "a whole number from 1"),
        ("--model", "nothing", "one of dynamical, kinematic"),
        ("--energy-ev", "0", "a positive number"),
    ],
)
def test_bad_options(inputs, tmp_path: Path, option, value, named):
    assert named in refused(tmp_path / "run", *inputs, f"{option}={value}")


def test_the_same_data_twice(inputs, tmp_path: Path):
    assert "twice" in refused(tmp_path / "run", *inputs, inputs[1])


def test_foreign_folder_needs_force(inputs, tmp_path: Path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("words")
    assert "--force" in refused(out, *inputs)
    assert [path.name for path in out.iterdir()] == ["chapter.tex"]


def full_disk(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk(inputs, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert "No space left" in refused(tmp_path / "run", *inputs, *options)


def test_simulate_refuses_to_overwrite_its_input(inputs):
    before = inputs[1].read_text()
    code, message = run("simulate", *inputs, "--out", inputs[1])
    assert code == 2
    assert "is an input" in message
    assert inputs[1].read_text() == before


def test_the_other_hand_can_be_refined(inputs, tmp_path: Path):
    code, message = run("invert", inputs[0], "--out", inputs[0])
    assert (code, "the input" in message) == (2, True)
    code, message = run("invert", inputs[0], "--out", tmp_path / "left.cif")
    assert code == 0, message
    assert "_computing_structure_refinement" not in (tmp_path / "left.cif").read_text()  # nobody refined it
    right, left = pendel.read_crystal(inputs[0]), pendel.read_crystal(tmp_path / "left.cif")
    assert (right.spacegroup, left.spacegroup) == ("P 32 2 1", "P 31 2 1")
    same = pendel.invert(left)
    np.testing.assert_allclose(np.mod(same.fract - right.fract + 0.5, 1), 0.5, atol=2e-6)
    np.testing.assert_allclose(left.u_aniso, right.u_aniso, atol=2e-6)
    run("invert", tmp_path / "left.cif", "--out", tmp_path / "back.cif")
    assert pendel.read_crystal(tmp_path / "back.cif").spacegroup == "P 32 2 1"


def test_a_structure_with_inversion_centres_has_no_other_hand(tmp_path: Path):
    centred = tmp_path / "centred.cif"
    centred.write_text(CENTRED)
    code, message = run("invert", centred, "--out", tmp_path / "out.cif")
    assert code == 2
    assert "has inversion centres" in message
    assert not (tmp_path / "out.cif").exists()


def test_compare_needs_two_finished_runs(tmp_path: Path):
    code, message = run("compare", tmp_path)
    assert code == 2
    assert "Only one run is named. Expected at least two" in message
    code, message = run("compare", tmp_path, tmp_path)
    assert code == 2
    assert "has no run.json, summary.json, posterior.nc" in message
    assert len(message.strip().splitlines()) == 1


def test_a_run_survives_interruption_and_leaves_everything(inputs, tmp_path: Path):
    (tmp_path / "kinematic.py").write_text(KINEMATIC)
    settings = pendel.Settings(model=str(tmp_path / "kinematic.py"), holdout=0.1, guides=2, **SMALL)
    out, seen = tmp_path / "run", []

    def stop_in_svi(stage, step, total, info):
        seen.append(stage)
        if stage == "svi":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pendel.refine(inputs[0], [inputs[1]], out, settings, progress=stop_in_svi)
    assert {"start", "map", "svi"} <= set(seen)
    assert {path.name for path in out.iterdir()} == FILES | {"stage_start.npz", "stage_map.npz"}
    assert json.loads((out / "summary.json").read_text())["stage"] == "map"
    assert pendel.Posterior.load(out / "posterior.nc").data.attrs["stage"] == "map"

    seen.clear()
    # a machine that would have begun in another way goes on in this one
    outcome = pendel.refine(
        inputs[0], [inputs[1]], out, settings, progress=lambda stage, *_: seen.append(stage), tuning=COSTLY
    )
    decided = json.loads((out / "run.json").read_text())["decided"]
    assert decided["costly"]["value"] is False
    assert decided["svi"]["value"] == {"batches": 1, "steps": SviTuning().steps}
    assert "start" not in seen
    assert "map" not in seen
    check_files(out, outcome)
    (other,) = outcome.summary["elbo_other_guides"]
    assert outcome.summary["elbo"] - 5.0 < other < outcome.summary["elbo"]  # two seeds, one posterior
    losses = pendel.Posterior.load(out / "posterior.nc").data["svi_data"]["loss"].values
    assert len(losses) == 2
    assert np.nanmax(np.abs(losses[0] - losses[1])) > 0
    assert "2 guides from different seeds" in (out / "report.html").read_text(encoding="utf-8")
    compared = CliRunner().invoke(app, ["compare", str(out), str(out)])
    assert compared.exit_code == 0, compared.stderr
    heldout = read_run(out).heldout
    assert heldout is not None
    assert len(heldout.units) > 0
    assert " of " in compared.stdout  # units with an unreliable estimate
    assert "measurement by measurement" in compared.stdout
    assert 'id="comparison"' in (out / "report.html").read_text(encoding="utf-8")
    replaced(inputs[0], "O1 O 0.8620", "O1 O 0.8621")
    with pytest.raises(pendel.InputError, match="different: structure"):
        pendel.refine(inputs[0], [inputs[1]], out, settings)


def made_by(run, monkeypatch) -> tuple[str, ...]:
    """Stages that a run makes; the others come from its folder."""
    made = []
    save = RunFolder.save_stage
    with monkeypatch.context() as patch:
        patch.setattr(
            RunFolder, "save_stage", lambda self, stage, *a, **o: (made.append(stage), save(self, stage, *a, **o))
        )
        run()
    return tuple(made)


def test_stages_are_shared_by_runs_in_one_folder(inputs, tmp_path: Path, monkeypatch):
    """A finished maximum goes on to SVI, chains and particles; an edited model keeps its scan; other frames nothing."""
    model, out = tmp_path / "kinematic.py", tmp_path / "run"
    model.write_text(KINEMATIC)
    monkeypatch.setattr(refinement, "_write_page", lambda folder: folder)
    calls = {"find_start": 0, "fit_map": 0}
    for name in calls:
        original = getattr(fitting, name)

        def counted(*args, _name=name, _original=original, **options):
            calls[_name] += 1
            return _original(*args, **options)

        monkeypatch.setattr(fitting, name, counted)
    short = Tuning(svi=SviTuning(steps=30, cycles=(2, 2)), nuts=ChainTuning(chains=2, warmup=80, draws=40))
    settings = pendel.Settings(model=str(model), infer="map", **SMALL)

    def stages(**changes) -> tuple[str, ...]:
        changed = dataclasses.replace(settings, **changes)
        made = made_by(lambda: pendel.refine(inputs[0], [inputs[1]], out, changed, tuning=short), monkeypatch)
        assert json.loads((out / "summary.json").read_text())["stage"] == changed.infer
        return made

    assert stages() == ("start", "map")
    (out / "difference.json").write_text("{}")
    assert stages(infer="svi") == ("svi",)
    assert stages(infer="svi", guides=2) == ("svi",)
    assert stages(infer="nuts") == ("nuts",)
    assert stages(infer="svi", guides=2) == ()
    assert stages(infer="svi", guides=2, seed=1) == ("svi",)
    assert calls == {"find_start": 1, "fit_map": 1}
    assert (out / "difference.json").is_file()
    model.write_text(KINEMATIC.replace("Normal(0, 0.05)", "Normal(0, 0.04)"))
    assert stages() == ("map",)
    assert not (out / "difference.json").is_file()  # what another maximum lacks
    assert calls == {"find_start": 1, "fit_map": 2}
    assert stages(frames="::12") == ("start", "map")


@pytest.mark.parametrize("sample", ["nuts", "mclmc"])
def test_chains_reach_every_file(inputs, tmp_path: Path, sample):
    (tmp_path / "kinematic.py").write_text(KINEMATIC)
    short = Tuning(
        nuts=ChainTuning(chains=2, warmup=80, draws=40), mclmc=MclmcTuning(chains=2, adaptation=30, draws=40)
    )
    settings = pendel.Settings(model=str(tmp_path / "kinematic.py"), infer=sample, **SMALL)
    out = tmp_path / "run"
    outcome = pendel.refine(inputs[0], [inputs[1]], out, settings, tuning=short)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["stage"], summary["n_chains"], summary["n_draws"]) == (sample, 2, 80)
    assert summary["max_r_hat"] > 0.9
    assert 1 < summary["min_ess_bulk"] < 500
    assert summary["n_divergent"] is not None
    assert summary["n_gradients"] > summary["n_gradients_warmup"] > 0
    tree = pendel.Posterior.load(out / "posterior.nc").data
    assert dict(tree["posterior"]["fract"].sizes) == {"chain": 2, "draw": 40, "site": 2, "axis": 3}
    assert dict(tree["sample_stats"]["lp"].sizes) == {"chain": 2, "draw": 40}
    assert tree["sample_stats"]["diverging"].dtype == bool
    mean = tree["posterior"]["fract"].mean(("chain", "draw"))
    np.testing.assert_allclose(mean, outcome.refined.crystal.fract, atol=1e-3)
    # The log likelihood stands at the draws it belongs to: recomputed for the last draw of the second chain.
    scale = tree["posterior"]["log_scale"].isel(chain=1, draw=-1)
    assert tree["log_likelihood"]["draw"].values[-1] == 39
    assert scale["draw"] == 39
    assert len(read_run(out).frame.units) == summary["n_frames"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"largest R-hat {summary['max_r_hat']:.3f}" in page
    assert "ranks of u_iso, chain by chain" in page


def test_particles_over_basins_reach_every_file(inputs, tmp_path: Path, monkeypatch):
    (tmp_path / "kinematic.py").write_text(KINEMATIC)
    few = Tuning(smc=SmcTuning(particles=16))
    settings = pendel.Settings(model=str(tmp_path / "kinematic.py"), infer="smc", **SMALL)
    out, found = tmp_path / "run", []
    pendel.refine(inputs[0], [inputs[1]], out, dataclasses.replace(settings, infer="map"))

    def refine():
        found.append(pendel.refine(inputs[0], [inputs[1]], out, settings, tuning=few))

    assert made_by(refine, monkeypatch) == ("basins", "smc")  # the maximum is known
    summary = found[0].summary
    assert (summary["stage"], summary["n_chains"], summary["n_draws"]) == ("smc", 1, 16)
    assert sum(summary["basin_probability"]) == pytest.approx(1.0)
    assert len(summary["basin_thickness"]) == len(summary["basin_probability"])
    assert summary["smc_temperatures"][-1] == 1.0
    assert abs(summary["log_evidence_smc"] - summary["log_evidence_laplace"]) < 50
    assert "probability of the maxima that were found" in (out / "report.html").read_text(encoding="utf-8")
    assert made_by(refine, monkeypatch) == ()
    assert found[1].summary["basin_probability"] == summary["basin_probability"]


@pytest.mark.parametrize("with_tilts", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_costly_problem_goes_from_coarse_to_fine(inputs, tmp_path: Path, with_tilts):
    """Also for a model without a thickness or a tilt of every frame, which the scan finds all the same."""
    source = KINEMATIC
    if not with_tilts:
        kept = [line for line in source.splitlines() if '"tilt"' not in line and "thickness" not in line]
        source = "\n".join(kept).replace("log_scale + tilt.sum(1)", "log_scale") + "\n"
    (tmp_path / "model.py").write_text(source)
    settings = pendel.Settings(model=str(tmp_path / "model.py"), infer="map", **{**SMALL, "frames": ":20"})
    out = tmp_path / "run"
    outcome = pendel.refine(inputs[0], [inputs[1]], out, settings, tuning=COSTLY)
    record = json.loads((out / "run.json").read_text())
    assert record["coarse"] == {"every": 2, "sg_max": 0.002}
    assert {"coarse", "start", "map"} <= set(record["stages"])
    assert outcome.summary["converged"]
    few, start = (np.load(out / f"stage_{stage}.npz") for stage in ("coarse", "start"))
    # alike only: this model simulates nothing, so its structure is refitted to all frames with the scales
    np.testing.assert_allclose(start["values/displacement"], few["values/displacement"], atol=0.05)
    assert len(start["values/log_scale"]) == outcome.summary["n_frames"]


def test_a_cheap_problem_begins_with_all_frames_and_beams(inputs, tmp_path: Path):
    (tmp_path / "model.py").write_text(KINEMATIC)
    settings = pendel.Settings(model=str(tmp_path / "model.py"), infer="map", **{**SMALL, "frames": ":20"})
    direct, out = Tuning(coarse=Coarsening(worth=1e15)), tmp_path / "direct"

    def stop_in_map(stage, step, total, info):
        if stage == "map":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pendel.refine(inputs[0], [inputs[1]], out, settings, progress=stop_in_map, tuning=direct)
    record = json.loads((out / "run.json").read_text())
    assert "coarse" not in record
    assert set(record["stages"]) == {"start"}


def test_a_costly_problem_of_few_frames_begins_with_fewer_beams(inputs, tmp_path: Path):
    (tmp_path / "model.py").write_text(KINEMATIC)
    settings = pendel.Settings(model=str(tmp_path / "model.py"), infer="map", **SMALL)
    out = tmp_path / "run"
    outcome = pendel.refine(inputs[0], [inputs[1]], out, settings, tuning=COSTLY)
    assert json.loads((out / "run.json").read_text())["coarse"] == {"every": 1, "sg_max": 0.002}
    assert outcome.summary["converged"]
    few, start, best = (dict(np.load(out / f"stage_{stage}.npz")) for stage in ("coarse", "start", "map"))
    assert set(few) == set(start)
    for name in few.keys() - {"structure"}:  # nothing is scanned again
        np.testing.assert_array_equal(start[name], few[name])
    # this model simulates nothing, so that beams do not matter and the fit ends where the coarse one did
    np.testing.assert_allclose(best["values/displacement"], few["values/displacement"], atol=0.02)


@pytest.mark.slow
def test_svi_of_a_costly_problem_simulates_batches_of_frames(inputs, tmp_path: Path, monkeypatch):
    short = Tuning(coarse=Coarsening(worth=0.0), batching=Batching(steps=12))
    told = []
    frames = fitting.fit_svi

    def listened(*args, **options):
        found = frames(*args, **options)
        told.append((options["tuning"].batches, options["tuning"].steps, found))
        return found

    monkeypatch.setattr(fitting, "fit_svi", listened)
    settings = pendel.Settings(**{**SMALL, "frames": "::6"})
    outcome = pendel.refine(inputs[0], [inputs[1]], tmp_path / "run", settings, tuning=short)
    ((batches, steps, found),) = told
    assert (batches, steps) == (8, 12)
    assert np.all(np.isfinite(found.losses))
    assert outcome.summary["svi_steps"] == len(found.losses)
    assert len(found.losses) % 12 == 0
    # the expansion is that of the MAP: the bound of a batch is near that of all frames, not eight times off
    assert abs(outcome.summary["elbo"] - outcome.summary["map_log_density"]) < 0.3 * abs(outcome.summary["elbo"])
    assert np.std(found.losses[:12]) < 0.1 * abs(outcome.summary["elbo"])


def test_a_mistake_in_a_model_is_found_by_check_and_told_with_its_line(inputs, tmp_path: Path, capsys):
    text = (Path(__file__).parents[2] / "models" / "robust.py").read_text(encoding="utf-8")
    model = tmp_path / "typo.py"
    model.write_text(text.replace("displacement=", "displacment=", 1))
    line = 1 + text[: text.index("displacement=")].count("\n")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    with pytest.raises(TypeError, match="displac") as caught:
        run("check", *inputs, "--model", model, *options)
    one_line(caught.type, caught.value, caught.tb)
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert f"line {line} of {model}" in told


def test_progress_for_pipelines_and_the_report_again(inputs, tmp_path: Path):
    (tmp_path / "kinematic.py").write_text(KINEMATIC)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    options += ["--model", tmp_path / "kinematic.py", "--infer", "map"]
    arguments = ["refine", *inputs, "--out", tmp_path / "run", *options, "--progress", "json"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    lines, stdout = result.stderr, result.stdout
    assert result.exit_code == 0
    steps = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    assert {"start", "map", "predict", "map done"} <= {step["stage"] for step in steps}
    assert all(step["step"] <= step["total"] for step in steps if step["total"])
    times = [step["time_s"] for step in steps]
    assert times == sorted(times)
    (minutes,) = [step[EXPECTED_MINUTES] for step in steps if EXPECTED_MINUTES in step]
    assert minutes > RUN_SECONDS / 60
    (doubts,) = [line for line in stdout.splitlines() if line.startswith("to distrust: ")]
    assert "uncertainties are those of the Laplace approximation" in doubts
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [step["r_obs_pooled"] for step in steps if step["stage"] == "map done"] == [summary["r_obs_pooled"]]

    page = tmp_path / "run" / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    found = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert found.exit_code == 0
    assert found.stdout.strip() == str(page)
    assert page.read_text(encoding="utf-8") == before

    code, quiet = run("refine", *inputs, "--out", tmp_path / "run", *options, "--force", "--progress", "quiet")
    assert code == 0
    assert all(line.startswith("note: ") for line in quiet.splitlines())
    assert "Expected auto or quiet or json" in refused(tmp_path / "other", *inputs, "--progress", "loud")


def check_files(out: Path, outcome: pendel.Outcome) -> None:
    """Every file agrees with the others."""
    assert {path.name for path in out.iterdir()} >= FILES | {"report.html"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stage"] == "svi"
    keys = {"r_obs_pooled", "wr2_pooled", "r_obs_heldout", "r_obs_mean_klar", "wr2_mean_klar", "r_obs_pooled_klar"}
    keys |= {"wr2_pooled_klar", "n_frames", "n_scored", "n_observed", "n_scored_klar", "elapsed_s", "compile_s"}
    keys |= {"max_r_hat", "min_ess_bulk", "n_divergent", "thickness_mean_angstrom", "model", "seed"}
    assert keys <= set(summary)
    assert summary["max_r_hat"] is None
    posterior = pendel.Posterior.load(out / "posterior.nc").data
    groups = {"posterior", "sample_stats", "log_likelihood", "posterior_predictive", "prior", "observed_data"}
    groups |= {"constant_data", "log_likelihood_heldout", "laplace", "svi_data", "rocking_data", "structure_data"}
    groups |= {"log_prior"}
    assert groups == set(posterior.children)
    fract = posterior["posterior"]["fract"]
    assert fract.dims == ("chain", "draw", "site", "axis")
    assert fract["site"].values.tolist() == ["Si1", "O1"]
    likelihood = posterior["log_likelihood"]["intensity"]
    assert likelihood.sizes["measurement"] == summary["n_scored"]
    assert summary["n_scored"] + summary["n_heldout"] == posterior["observed_data"]["intensity"].size
    refined = pendel.read_crystal(out / "refined.cif")
    np.testing.assert_allclose(refined.fract, outcome.refined.crystal.fract, atol=1e-3)
    np.testing.assert_allclose(fract.mean(("chain", "draw")), outcome.refined.crystal.fract, atol=1e-3)
    with open(out / "reflections.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == posterior["observed_data"]["intensity"].size
    assert sum(int(row["used"]) for row in rows) == summary["n_scored"]
