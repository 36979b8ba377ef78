"""The report: made from a run folder alone, complete, self-contained, escaped."""

import csv
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import pendel
from pendel.base import NO_HYDROGEN
from pendel.datasets import example
from pendel.folder.reader import read_run_files
from pendel.infer.guide.svi import SviTuning
from pendel.judge.frames import flagged_frames, r_obs_of_frames
from pendel.judge.verdicts import verdicts
from pendel.report.page import page, run_card, write_page
from pendel.run.tuning import Tuning

VOID = {"meta", "link", "br", "img", "hr", "input"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "run"
    settings = pendel.Settings(model="kinematic", infer="svi", frames="::8", g_max=1.0, sg_max=0.004, tilts=5)
    short = Tuning(svi=SviTuning(steps=40, cycles=(2, 2)))
    pendel.refine(example().structure, [example().data], out, settings, tuning=short)
    return out


@pytest.fixture(scope="module")
def html(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags that are open at the end, identifiers, and addresses of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self._see(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._see(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def _see(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.addresses.append(value)


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    parser.close()
    return parser


def test_a_refinement_ends_with_a_complete_page(html):
    found = outline(html)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    for section in ("verdicts", "run", "structure", "thickness", "frames", "fit", "inference", "glossary"):
        assert section in found.ids
    assert html.count("<svg") >= 18
    assert html.count("rocking curve of") >= 6


def test_the_page_needs_no_network(html):
    found = outline(html)
    for address in found.addresses:
        assert address.startswith(("#", "data:")), address
    for address in (a for a in found.addresses if a.startswith("#")):
        assert address[1:] in found.ids, address
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "<script" not in html
    assert len(html) < 5e6


def test_the_page_can_be_made_again(folder, html):
    (folder / "report.html").unlink()
    assert write_page(folder).read_text(encoding="utf-8") == html


def test_names_from_files_stay_text(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    record = json.loads((copy / "run.json").read_text())
    attack = "<script>alert(1)</script>.cif"
    record["inputs"]["structure"]["path"] = attack
    record["derived"]["notes"].append({"kind": "", "text": attack})
    record["derived"]["model_story"] = f"A model of {attack}"
    record["derived"]["plan_2"] = record["derived"]["plan"]
    (copy / "run.json").write_text(json.dumps(record))
    run = read_run_files(copy)
    text = page(dataclasses.replace(run, crystal=dataclasses.replace(run.crystal, labels=("Si<b>", "O1"))))
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "&lt;b&gt;" in text
    assert "A model of &lt;script&gt;" in text
    assert "<h3>simulation of crystal 2</h3>" in text


def test_numbers_on_the_page_are_those_of_the_files(folder, html):
    run = read_run_files(folder)
    summary = run.summary
    assert f"R_obs {100 * summary['r_obs_pooled']:.2f} % over {summary['n_observed']}" in html
    assert "log_thickness_mean ~ Normal(log 800 Å, 0.8)" in html  # what the model says of its priors
    assert "<h3>simulation</h3>" in html
    k = f"Pareto k of the guide {summary['guide_pareto_k']:.2f} from {summary['guide_pareto_k_draws']} draws"
    assert k in html
    fract = run.draws("fract")[:, 1, 0]
    row = re.search(r"<td>O1</td><td>x</td><td>([0-9.]+)\((\d+)\)</td>", html)
    decimals = len(row[1].split(".")[1])
    assert float(row[1]) == pytest.approx(fract.mean(), abs=0.6 * 10**-decimals)
    assert int(row[2]) * 10**-decimals == pytest.approx(fract.std(), rel=0.3)


def test_rocking_curves_average_to_the_calculated_intensity(folder):
    data = read_run_files(folder).data[0]
    for row in np.unique(data.curve_measurement):
        curve = data.curve[:, data.curve_measurement == row]
        assert curve.shape[1] == 5
        # Draws differ: the curve has twenty of them, the intensities have forty or more.
        spread = data.calculated[:, row].std() / np.sqrt(len(data.curve))
        assert curve.mean() == pytest.approx(data.calculated[:, row].mean(), abs=5 * spread + 1e-3 * curve.mean())


def test_frames_that_stand_out_are_flagged(folder):
    data = read_run_files(folder).data[0]
    strong = np.bincount(data.frame[data.intensity > 3 * data.sigma], minlength=len(data.frame_id))
    bad, turned = np.argsort(-strong)[:2]
    exact = np.broadcast_to(data.intensity, data.calculated.shape)
    r_obs = r_obs_of_frames(dataclasses.replace(data, calculated=exact))
    np.testing.assert_allclose(r_obs[strong > 0], 0.0, atol=1e-12)
    worse = np.array(1.1 * exact)
    worse[:, data.frame == bad] *= 4.0
    tilted = data.of_frames["tilt"].copy()
    tilted[:, turned] += 5.0
    changed = {**data.of_frames, "tilt": tilted}
    flagged = flagged_frames(dataclasses.replace(data, calculated=worse, of_frames=changed))
    assert "R_obs" in flagged[int(bad)]
    assert "tilt" in flagged[int(turned)]
    assert "R_obs" not in flagged[int(turned)]


def test_bad_numbers_get_bad_verdicts(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    summary = json.loads((copy / "summary.json").read_text())
    bad = {"converged": False, "r_obs_pooled": 0.4, "guide_pareto_k": 1.3, "r_obs_heldout": 0.9}
    bad |= {"fringes_per_tilt": 2.2, "tilts_resolving": 135, "n_heldout": 60, "n_observed_heldout": 30}
    (copy / "summary.json").write_text(json.dumps(summary | bad))
    found = verdicts(read_run_files(copy))
    assert [verdict.level for verdict in found] == sorted(
        (verdict.level for verdict in found), key=("fail", "warn", "pass").index
    )
    text = {verdict.text.split(" ")[0]: verdict for verdict in found}
    assert text["the"].level == "fail"
    assert text["R_obs"].advice
    assert text["Pareto"].level == "warn"
    assert text["2.20"].level == "warn"
    assert "--tilts 135" in text["2.20"].advice
    assert all(verdict.advice for verdict in found if verdict.level != "pass")


def levels(run, **facts):
    """Level of every verdict of a run with other facts in its summary, by what it begins with."""
    changed = dataclasses.replace(run, summary=run.summary | facts)
    return {re.sub(r"[-\d.]+", "#", verdict.text)[:28]: verdict.level for verdict in verdicts(changed)}


def test_numbers_from_little_data_are_not_trusted(folder):
    run = read_run_files(folder)
    k = "Pareto k of the guide # from"
    assert levels(run, guide_pareto_k=0.43, guide_pareto_k_draws=200)[k] == "pass"
    assert levels(run, guide_pareto_k=0.43, guide_pareto_k_draws=40)[k] == "warn"
    assert levels(run, n_parameters=1000)["# observed reflections for #"] == "warn"
    few = {"n_heldout": 9, "n_observed_heldout": 3, "r_obs_heldout": 0.01}
    assert levels(run, **few)["# observed reflections held "] == "warn"
    assert not any(text.startswith("nothing was held out") for text in levels(run, **few))
    nothing = {"n_heldout": 9, "n_observed_heldout": 0, "r_obs_heldout": None}
    assert levels(run, **nothing)["# observed reflections held "] == "warn"


def test_rows_that_count_twice_are_named(folder):
    run = read_run_files(folder)
    assert not any("repeat a measurement" in verdict.text for verdict in verdicts(run))
    data = run.data[0]
    hkl = ("1 0 0", *data.hkl[1:4], *("1 0 0",) * 3, *data.hkl[7:])
    first = np.arange(len(hkl)) * ~np.isin(np.arange(len(hkl)), [4, 5, 6])  # rows 4, 5, 6 are row 0 again
    same = dataclasses.replace(data, hkl=hkl, intensity=data.intensity[first], sigma=data.sigma[first])
    text = next(v.text for v in verdicts(dataclasses.replace(run, data=(same,))) if "repeat a measurement" in v.text)
    assert text.startswith(f"3 of {len(hkl)} scored rows")


def test_structures_that_inversion_changes_are_named(folder):
    run = read_run_files(folder)
    said = "P 32 2 1 has a hand"
    assert [v.text for v in verdicts(run) if "has a hand" in v.text] == [
        f"{said}, and one run cannot say whether it is this one"
    ]
    mirror, centre = np.diag([1, -1, 1]), -np.eye(3, dtype=int)
    for rotations, said in (
        ([np.eye(3, dtype=int), mirror], "has an absolute structure"),
        ([np.eye(3, dtype=int), centre], None),
    ):
        crystal = dataclasses.replace(run.crystal, rotations=np.array(rotations), translations=np.zeros((2, 3)))
        found = [v for v in verdicts(dataclasses.replace(run, crystal=crystal)) if "one run cannot say" in v.text]
        assert len(found) == (said is not None)
        assert said is None or said in found[0].text


def test_a_difference_map_has_its_own_section(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    assert 'id="difference"' not in (copy / "report.html").read_text(encoding="utf-8")
    offset = [-1.0, 0.0, 1.0]
    plane = {"offset": offset, "values": [[0, 1, 0], [1, 9, 1], [0, -5, 0]], "labels": ["<O1>"], "atoms": [[0.5, 0.2]]}
    peak = {"fract": [0.1, 0.2, 0.3], "potential": 9.0, "height": 7.5, "nearest": "<O1>", "distance": 1.6}
    numbers = {"resolution": 1.4, "rms": 1.2, "misfit_before": 28.0, "misfit_after": 1.3}
    content = {**numbers, "peaks": [peak], "holes": [], "sections": [plane]}
    (copy / "difference.json").write_text(json.dumps(content))
    page = write_page(copy).read_text(encoding="utf-8")
    assert 'href="#difference"' in page
    assert "section 1 of 3 through the highest peak" in page
    assert "&lt;O1&gt;" in page
    assert "<O1>" not in page


def test_the_structure_of_the_page_is_that_of_the_draws_not_of_the_cif(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "refined.cif").unlink()
    (copy / "reflections.csv").unlink()
    run = read_run_files(copy)
    np.testing.assert_allclose(run.crystal.fract, run.draws("fract").mean(axis=0), atol=1e-12)
    written = pendel.read_crystal(folder / "refined.cif")
    assert run.crystal.labels == written.labels
    su = run.tree["structure_data"]["U_aniso_su"].values
    assert np.all(np.abs(run.crystal.u_aniso - written.u_aniso) <= su)  # the file is rounded to its uncertainties
    with open(folder / "reflections.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    data = run.data[0]
    np.testing.assert_allclose(data.z, [float(row["z"]) for row in rows], rtol=1e-6)
    np.testing.assert_allclose(data.calculated.mean(axis=0), [float(row["i_calc_mean"]) for row in rows], rtol=1e-6)
    assert (data.name, len(data.at_point)) == (rows[0]["dataset"], len(rows))


def test_notes_and_settings_are_told_apart_by_what_they_are(folder):
    run = read_run_files(folder)
    left_out = {"kind": NO_HYDROGEN, "text": "3 sites of the lightest element"}
    record = run.record | {"derived": run.record["derived"] | {"notes": [left_out, {"kind": "", "text": "hydrogen"}]}}
    found = [v for v in verdicts(dataclasses.replace(run, record=record)) if "--hydrogen" in v.advice]
    assert [verdict.text for verdict in found] == ["3 sites of the lightest element"]
    settings = dict(dict(run_card(run))["settings"])
    assert settings["select"] == "nearest (default)"
    assert settings["frames"] == "::8"


def test_runs_of_the_first_version_are_refused_by_name(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    record = json.loads((copy / "run.json").read_text())
    del record["layout"]
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(pendel.InputError, match=r"a run of pendel 0\.1\.0"):
        read_run_files(copy)
    (copy / "posterior.nc").write_bytes(b"not NetCDF")
    with pytest.raises(pendel.InputError, match=r"cannot be read.*--force"):
        read_run_files(copy)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(pendel.InputError, match=r"has no run.json.*pendel refine"):
        read_run_files(tmp_path)
