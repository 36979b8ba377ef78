"""Several runs on one page: numbers, differences in mÅ, settings that differ, no network, hostile names."""

import io
import re

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from made_runs import SPREAD, make_run
from pendel.cli.main import app
from pendel.crystal.hand import invert
from pendel.crystal.structure import Crystal
from pendel.datasets import example
from pendel.files.cif import read_crystal
from pendel.folder.reader import read_run_files
from pendel.judge.compare import comparison, have_same_measurements, read_run
from pendel.judge.side_by_side import OTHER_GROUP, OTHER_HAND, OTHER_SITES, coordinates, different_settings
from pendel.report.compare_page import comparison_page
from pendel.report.comparison import comparison_report


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    base = tmp_path_factory.mktemp("compared")
    crystal: Crystal = read_crystal(example().structure)
    return [
        make_run(base / "first", seed=0),
        make_run(base / "first_moved", seed=1, shift=-0.1, thickness="wedge"),
        make_run(base / "hand", seed=2, crystal=invert(crystal)),
        make_run(base / "fourth", seed=3, frames="::6", summary={"r_obs_pooled": 0.31}),
        make_run(base / "=cmd<b>", seed=4, name="<script>"),
    ]


@pytest.fixture(scope="module")
def runs(paths):
    return [read_run_files(path) for path in paths]


@pytest.fixture(scope="module")
def text(paths, runs):
    return comparison_page(runs, comparison([read_run(path) for path in paths]))


def test_differences_are_in_milli_angstrom_with_both_uncertainties(runs):
    found = coordinates(runs[1], runs[0])
    moved = {one.label: one for one in found.values}["O1 x"]
    cell = runs[0].crystal.cell
    fract = [np.asarray(run.crystal.fract)[1, 0] for run in runs[:2]]
    su = [run.draws("fract")[:, 1, 0].std(ddof=1) for run in runs[:2]]
    assert moved.difference == pytest.approx(1000 * cell[0] * (fract[1] - fract[0]), rel=1e-6)
    assert moved.difference_su == pytest.approx(1000 * cell[0] * np.hypot(*su), rel=1e-6)
    assert found.rms_z == pytest.approx(0.1 / (SPREAD * 2**0.5), rel=0.3)  # shifted by 0.1 Å along every direction
    assert coordinates(runs[3], runs[0]).rms_z < 0.5
    same = coordinates(runs[0], runs[0])
    assert same.rms_z is None
    assert all(one.difference == 0.0 for one in same.values)


def test_whole_cells_are_no_difference(runs):
    crystal = runs[1].crystal
    moved = dict(vars(runs[1])) | {
        "crystal": type(crystal)(**vars(crystal) | {"fract": crystal.fract + np.array([1, 0, -1])})
    }
    one, other = coordinates(runs[1], runs[0]), coordinates(type(runs[1])(**moved), runs[0])
    assert [x.difference for x in one.values] == pytest.approx([x.difference for x in other.values])


def test_structures_that_cannot_be_compared_say_why(runs):
    assert coordinates(runs[2], runs[0]).reason == OTHER_HAND
    crystal = type(runs[0].crystal)(**vars(runs[0].crystal) | {"spacegroup": "P 1"})
    other = type(runs[0])(**vars(runs[0]) | {"crystal": crystal})
    assert coordinates(other, runs[0]).reason == OTHER_GROUP


def test_sites_that_one_run_lacks_stand_alone(runs):
    """A run with hydrogen and one without share their other sites."""
    shared, own = runs[1].crystal.labels
    crystal = type(runs[1].crystal)(**vars(runs[1].crystal) | {"labels": (shared, "other")})
    other = type(runs[1])(**vars(runs[1]) | {"crystal": crystal})
    found = coordinates(other, runs[0])
    assert found.reason == ""
    whole = {one.label: one for one in coordinates(runs[1], runs[0]).values}
    assert found.values[0] == whole[f"{shared} x"]
    assert [(one.difference, one.difference_su) for one in found.values[3:]] == [(0.0, 0.0)] * 3
    z = [one.difference / one.difference_su for one in found.values[:3] if one.difference_su > 1e-6]
    assert found.rms_z == pytest.approx(np.sqrt(np.mean(np.square(z))))
    text = comparison_page([runs[0], other], None)
    assert all(re.search(rf'<th scope="row">{label} [xyz]</th>', text) for label in (shared, own, "other"))
    apart = type(crystal)(**vars(crystal) | {"labels": ("one", "other")})
    assert coordinates(type(other)(**vars(other) | {"crystal": apart}), runs[0]).reason == OTHER_SITES


def test_settings_that_differ_are_listed(runs):
    found = dict(different_settings(runs))
    assert found["thickness"] == ["default", "wedge", "default", "default", "default"]
    assert found["frames"][3] == "::6"
    assert "model" not in found
    assert different_settings([runs[0], runs[0]]) == []


def test_the_page_has_a_column_for_every_run(text, runs):
    heads = re.findall(r'<th scope="col" title="[^"]*">(\w)</th>', text)
    assert heads[:5] == list("ABCDE")
    assert "31.00 %" in text
    assert "the inverted structure" in text
    assert re.search(r'class="difference large">[-+][\d.]+ ± [\d.]+ mÅ', text)
    assert re.search(r"hand: [A-E] with probability", text)
    assert str(runs[1].path) not in text
    assert "<dt>all</dt>" in text
    assert "<svg" in text


def test_the_page_needs_no_network_and_shows_names_as_text(text):
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert "<script" not in text
    assert "<b>=cmd" not in text
    assert "=cmd&lt;b&gt;" in text
    assert "&lt;script&gt;" in text
    assert len(text) < 1e6


def test_runs_on_different_measurements_are_compared_without_predictions(runs):
    text = comparison_page(runs[:2], None)
    assert "different measurements" in text
    assert "log predictive density" not in text


def test_structures_that_differ_leave_no_table_of_coordinates(runs):
    page = comparison_page([runs[0], runs[2]], None)
    assert '<h2 id="coordinates">' in page
    assert 'aria-label="coordinates"' not in page
    assert "No run has the structure of A" in page
    assert 'aria-label="coordinates"' in comparison_page([runs[0], runs[1]], None)


def test_the_command_writes_the_page(paths, tmp_path):
    out = tmp_path / "compare.html"
    copies = [str(path) for path in paths[:2]]
    before = [(path / "run.json").read_bytes() for path in paths[:2]]
    done = CliRunner().invoke(app, ["compare", *copies, "--html", str(out)])
    assert done.exit_code == 0, done.output
    assert "2 runs compared" in out.read_text(encoding="utf-8")
    assert str(out) in done.stdout.replace("\n", "")
    for path, content in zip(paths, before, strict=False):
        (path / "run.json").write_bytes(content)


def test_a_narrow_terminal_cuts_nothing_off():
    words = ["first_run_with_a_long_name", "-24468.1", "997 of 4114"]
    found = {"columns": ["run", "elpd", "unreliable"], "rows": [words], "hands": []}
    console = Console(width=30, record=True, file=io.StringIO())
    console.print(comparison_report(found))
    lines = [line.split("│")[1:4] for line in console.export_text().splitlines() if "│" in line]
    cells = [" ".join(part.strip() for part in column).strip() for column in zip(*lines, strict=True)]
    assert [cell.replace(" ", "") for cell in cells] == [word.replace(" ", "") for word in words]


def test_other_measurements_are_noticed(paths):
    one, other = (read_run(path) for path in paths[:2])
    assert have_same_measurements([one, other])
    fewer = type(one.measurement)(**vars(one.measurement) | {"units": one.measurement.units[1:]})
    assert not have_same_measurements([one, type(one)(**vars(one) | {"measurement": fewer})])
