"""Options from the fields of `Settings`: help, defaults, bounds, commands, a value for each data set."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import pendel
from pendel.base import InputError
from pendel.check.synthetic import Imperfections
from pendel.cli.main import app
from pendel.cli.options import with_options
from pendel.datasets import example
from pendel.run.inputs import read_problem
from pendel.run.settings import Settings, check_settings, option, option_name, settings_from
from pendel.simulate import cost

COMMANDS = {"refine", "check", "simulate", "demo", "invert"}


@pytest.fixture
def two_files(tmp_path: Path) -> list[Path]:
    """The data of the embedded example under two names."""
    paths = [tmp_path / name for name in ("one.cif_pets", "two.cif_pets")]
    for path in paths:
        path.write_text(example().data.read_text())
    return paths


def help_of(command: str) -> str:
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_shows_every_option_with_its_default_and_units(command):
    shown = {line.split("--")[1].split()[0]: line for line in help_of(command).splitlines() if " --" in line}
    for record in (Settings, Imperfections):
        for field in dataclasses.fields(record):
            if command in field.metadata["commands"]:
                line = shown.pop(option_name(field)[2:])
                assert field.metadata["help"] in line
                assert field.default in (None, False) or f"[default: {field.default}]" in line
    assert set(shown) <= {"out", "force", "distributed", "progress", "converge", "help", "quick"}


def test_square_brackets_are_not_taken_for_markup():
    assert "beam energy [eV]" in help_of("refine")
    assert "standard deviation [deg]" in help_of("simulate")
    assert "[default: 0.02]" in help_of("simulate")  # of this command, for --sg-max
    assert "error model [b]" in CliRunner().invoke(made_app([]), ["--help"]).stdout


@dataclasses.dataclass(frozen=True)
class Made:
    """Options of a command of this test."""

    b: float = option(0.1, "error model [b]", commands=("make",))
    other: int = option(3, "of another command", commands=("break",))


def made_app(told: list) -> typer.Typer:
    made = typer.Typer()

    @made.command()
    @with_options("make")
    def make(made: Made, settings: Settings) -> None:
        told.extend([made, settings])

    return made


def test_a_command_has_only_its_own_options():
    told: list = []
    assert CliRunner().invoke(made_app(told), ["--b", "0.3"]).exit_code == 0
    assert told == [Made(b=0.3), Settings()]
    assert CliRunner().invoke(made_app(told), ["--other", "4"]).exit_code == 2


def test_every_field_belongs_to_commands():
    for field in dataclasses.fields(Settings):
        assert set(field.metadata["commands"]) <= COMMANDS
        assert field.metadata["commands"]


def test_settings_for_each_data_set(two_files):
    settings = Settings(frames=("0:2", "3:8"), geometry=("precession", "rotation"), energy_ev=(2e5, 3e5))
    first, second = read_problem(example().structure, two_files, settings).rows
    assert (len(first.frame_id), len(second.frame_id)) == (2, 5)
    assert (first.geometry, second.geometry) == ("precession", "rotation")
    assert first.wavelength == pytest.approx(pendel.wavelength(2e5))
    assert second.wavelength == pytest.approx(pendel.wavelength(3e5))
    one, other = read_problem(example().structure, two_files, Settings(frames="1:4")).rows  # one value for all
    np.testing.assert_array_equal(one.frame_id, other.frame_id)


def test_frames_that_are_left_out_by_their_numbers(two_files):
    def frames(**choice):
        return read_problem(example().structure, two_files[:1], Settings(**choice))

    third = frames(frames="::3").rows[0].frame_id.tolist()
    left = frames(frames="::3", leave_out=f"{third[1]},{third[3]}-{third[4]}")
    assert left.rows[0].frame_id.tolist() == [third[0], third[2], *third[5:]]
    assert any("3 frames" in note and "as --leave-out asks" in note for note in left.notes)
    assert frames(frames="::3", leave_out=str(third[0] + 1)).rows[0].frame_id.tolist() == third  # not of these
    for wrong in ("a", "7-3", "1-1000000000"):
        with pytest.raises(InputError, match="numbers of frames"):
            frames(leave_out=wrong)
    with pytest.raises(InputError, match="--leave-out names 999, no frames of one"):
        frames(leave_out="999")
    with pytest.raises(InputError, match="all 30 frames are left out"):
        frames(leave_out="1-30")


def test_the_cell_of_each_data_set(two_files, tmp_path: Path):
    structure = tmp_path / "longer.cif"
    structure.write_text(example().structure.read_text().replace("_cell_length_a 4.913", "_cell_length_a 4.914"))
    of_structure = pendel.read_crystal(structure).cell
    first, second = read_problem(structure, two_files, Settings(cell=("header", "structure"))).rows
    assert second.cell == pytest.approx(of_structure)
    assert first.cell != pytest.approx(of_structure, abs=1e-4)


def test_options_given_once_for_each_data_set(two_files):
    arguments = ["check", example().structure, *two_files, "--frames", "0:2", "--frames", "3:8", "--sg-max", "0.004"]
    found = CliRunner().invoke(app, [*map(str, arguments), "--tilts", "3", "--g-max", "0.8"])
    assert found.exit_code == 0, found.stderr
    rows = [line.split("│")[2].strip() for line in found.stdout.splitlines() if "rows of the file" in line]
    assert rows == ["2", "5"]
    assert found.stdout.count("mean absorption length 60") == 2
    assert found.stdout.count("R of amplitudes") == 2


def test_a_check_takes_the_options_of_a_refinement_and_says_what_they_do(two_files, monkeypatch):
    monkeypatch.setattr(cost, "_speed", lambda group, dtype: 1e5)  # operations a second
    common = ["check", example().structure, *two_files, "--frames", "0:4", "--sg-max", "0.004", "--tilts", "3"]

    def told(*options: str) -> str:
        arguments = [*map(str, (*common, "--g-max", "0.8")), *options]
        found = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert found.exit_code == 0, found.stderr
        return found.stdout

    plain, full = told(), told("--holdout", "0.2", "--mosaicity", "on", "--absorption", "on", "--infer", "map")
    assert "held out" not in plain
    assert plain.count("none is refined") == 2
    assert plain.count("absorption is left out unless") == 2
    assert len(re.findall(r"of it held out +│ +4 │ +\d+ │ +[1-9]\d* │", full)) == 2
    assert full.count("--mosaicity off leaves it out") == 2
    assert full.count("absorption is refined\n") == 2
    runs = [re.findall(r"about (\d+) min and ([\d.]+) GB", text) for text in (plain, full)]
    assert [len(run) for run in runs] == [1, 1]
    minutes, memory = (np.array([float(run[0][i]) for run in runs]) for i in (0, 1))
    assert minutes[0] > 10
    assert minutes[1] - 3 == pytest.approx(cost.MOSAIC * (minutes[0] - 3), abs=3)
    assert memory[1] >= memory[0]
    assert " min and " not in told("--model", "kinematic")

    refused = CliRunner().invoke(app, [*map(str, common), "--model", "kinematic", "--mosaicity", "on"])
    assert refused.exit_code == 2
    assert "no argument `mosaicity`" in refused.stderr
    refused = CliRunner().invoke(app, [*map(str, common), "--tilts", "2", "--mosaicity", "on"])
    assert refused.exit_code == 2
    assert "Mosaicity with 2 tilts a frame" in refused.stderr


def test_as_many_values_as_data_sets(two_files):
    with pytest.raises(InputError, match=r"--frames 2 times for 3 data sets.* give --frames once or 3 times"):
        check_settings(Settings(frames=(":", "::2")), 3)
    with pytest.raises(InputError, match=r"--geometry spiral. Expected rotation or precession"):
        check_settings(Settings(geometry=("rotation", "spiral")), 2)
    with pytest.raises(InputError, match="start:stop:step"):
        check_settings(Settings(frames=(":", "all")), 2)
    with pytest.raises(InputError, match=r"--sg-max 0.01 and --beam-error 0.01 .*give only one"):
        check_settings(Settings(sg_max=0.01, beam_error=0.01), 1)
    with pytest.raises(InputError, match=r"--beam-error 1.0. Expected a fraction between 0 and 0.2"):
        check_settings(Settings(beam_error=1.0), 1)
    with pytest.raises(InputError, match="--energy-ev -1"):
        check_settings(Settings(energy_ev=(None, -1.0)), 2)


def test_settings_come_back_from_run_json():
    settings = Settings(frames=("::2", ":"), energy_ev=2e5, holdout=0.1)
    assert settings_from(json.loads(json.dumps(dataclasses.asdict(settings)))) == settings
    assert Settings(frames=("::2",)) == Settings(frames="::2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thickness": 0.5}, r"thickness 0.5. Expected at least 1.0 \(Å\)"),
        ({"misorientation_deg": -1.0}, r"--misorientation -1.0. Expected at least 0.0"),
        ({"counts": float("nan")}, "--counts nan"),
    ],
)
def test_imperfections_out_of_bounds(change, message, tmp_path: Path):
    files = example()
    with pytest.raises(InputError, match=message):
        pendel.simulate_files(files.structure, files.data, tmp_path / "o", Settings(), Imperfections(**change))
    assert not (tmp_path / "o").exists()
