"""Every example runs: scripts in a subprocess with --quick, notebooks in a kernel under PENDEL_QUICK=1."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import pendel

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LIMIT = 600  # seconds, on a machine that does other things
NUMBER = r"([-+]?[\d.]+(?:e[-+]?\d+)?)"


def refine_quartz(text: str, out: Path) -> None:
    names = ("report.html", "refined.cif", "ensemble.cif", "posterior.nc", "summary.json", "reflections.csv")
    assert [name for name in names if not (out / name).is_file()] == []
    assert re.search(r"^Si1 +0\.00000 +0\.[45]\d*\(\d+\) .*free: y$", text, re.MULTILINE)
    assert len(re.findall(r"^(?:Si1|O1) +[xyzU]\w* .*\(\d+\)", text, re.MULTILINE)) == 4 + 4 + 6


def several_crystals(text: str, out: Path) -> None:
    rows = [[float(x) for x in row.split()[2:]] for row in re.findall(r"^move.*", text, re.MULTILINE)]
    assert len(rows) == 4
    assert np.all(np.array(rows) > 0)  # three frames are too few for more: their hierarchies are fitted, too
    thicknesses = re.findall(rf"thickness {NUMBER} Å \(simulated {NUMBER} Å\)", text)
    assert len(thicknesses) == 2
    for found, simulated in thicknesses:
        assert float(found) == pytest.approx(float(simulated), rel=0.1)


def crystal_series(text: str, out: Path) -> None:
    rows = re.findall(rf"^(Si1|O1) [xyz] .*?{NUMBER} +{NUMBER}$", text, re.MULTILINE)
    assert len(rows) == 4
    assert all(float(pooled) > float(weighted) for _, pooled, weighted in rows)  # the crystals differ, too
    mean, low, high = (first_number(words, text) for words in ("spread between crystals", "mÅ, 95 %", " to"))
    assert 0 <= low < mean < high
    assert all((out / f"run_{number}" / "parameters.csv").is_file() for number in range(3))


def from_dials(text: str, out: Path) -> None:
    assert float(re.search(rf"{NUMBER} % in the frame", text)[1]) > 99
    assert first_number("the same within", text) < 1e-9  # Å⁻¹
    assert first_number("R_obs", text) < 30  # start values of a scan, nothing refined
    again = pendel.read_pets(out / "reflections.cif_pets")
    assert f"{len(again.hkl)} reflections on {len(again.frame_id)} frames" in text


def own_model(text: str, out: Path) -> None:
    draws = pendel.Posterior.load(out / "posterior.nc").data.posterior
    assert float(draws["b_0"].min()) > 0
    assert float(draws["displacement"].std("draw").max()) < 0.1  # Å: less than the prior
    assert first_number("with probability", text) == pytest.approx(float((draws["c"] > 0).mean()), abs=0.006)


def compare_models(text: str, out: Path) -> None:
    rows = re.findall(rf"^(robust|kinematic) +{NUMBER} % +{NUMBER} +", text, re.MULTILINE)
    assert {name for name, _, _ in rows} == {"robust", "kinematic"}
    assert float(rows[0][2]) >= float(rows[1][2])  # the best first
    assert f"{rows[0][0]} predicts better than {rows[1][0]}" in text


def zone_axis_thickness_series(text: str, out: Path) -> None:
    differences = [float(x) for x in re.findall(rf"differ by {NUMBER}", text)]
    assert len(differences) == 2
    assert max(differences) < 1e-3
    found, su, truth = map(
        float, re.search(rf"thickness {NUMBER} ± {NUMBER} Å \(simulated {NUMBER}", text, re.MULTILINE).groups()
    )
    assert 0 < su < 10
    assert abs(found - truth) < 4 * su
    assert (out / "pendelloesung.png").stat().st_size > 10_000


def make_example(text: str, out: Path) -> None:
    assert len(pendel.read_pets(out / "quartz_example.cif_pets").frame_id) == 4
    assert pendel.read_crystal(out / "quartz_start.cif").labels == pendel.read_crystal(out / "quartz_truth.cif").labels


CHECKS = (
    refine_quartz,
    several_crystals,
    crystal_series,
    from_dials,
    own_model,
    compare_models,
    zone_axis_thickness_series,
    make_example,
)


def first_number(words: str, text: str) -> float:
    return float(re.search(rf"{words} {NUMBER}", text)[1])


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Nearly all time goes into compilation: done with less care; scripts share what they compile, see conftest.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


SLOW_CHECKS = (crystal_series,)  # two processes compile the same at the same time


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, marks=pytest.mark.slow) if check in SLOW_CHECKS else check for check in CHECKS],
    ids=lambda check: check.__name__,
)
def test_script_runs_and_prints_what_it_promises(check, tmp_path: Path):
    if check is crystal_series:
        pytest.importorskip("distributed", reason="Dask is not installed; it is in the extra `dev`")
    script = ROOT / "examples" / f"{check.__name__}.py"
    out = tmp_path / "out"
    command = [sys.executable, str(script), "--quick"]
    if '"--out"' in script.read_text(encoding="utf-8"):
        command += ["--out", str(out)]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert finished.returncode == 0, finished.stderr
    assert not re.search(r"\bnan\b|\binf\b", finished.stdout)
    check(finished.stdout, out)


def test_every_script_is_checked():
    assert sorted(check.__name__ for check in CHECKS) == [script.stem for script in SCRIPTS]


SLOW = ("diagnose_a_run.ipynb", "svi_against_hmc.ipynb")  # Markov chains take minutes to compile


@pytest.mark.filterwarnings("default")  # of Jupyter's own
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.name in SLOW else path for path in NOTEBOOKS],
    ids=lambda path: path.name,
)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PENDEL_QUICK", "1")
    book = nbformat.read(path, as_version=4)
    client = NotebookClient(book, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any(output.get("name") == "stdout" for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_stored_without_outputs(path: Path):
    book = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert 'os.environ.get("PENDEL_QUICK")' in code[0].source
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_every_example_is_described():
    text = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert sorted(described) == sorted(path.name for path in SCRIPTS + NOTEBOOKS)
    assert {"--quick", "PENDEL_QUICK=1"} <= set(re.findall(r"`([^`]+)`", text))
