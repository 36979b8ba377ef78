"""Claiming, resuming and protecting run folders; models by name and by path."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pendel.base import InputError
from pendel.files.whole_file import write_bytes
from pendel.folder import run_folder
from pendel.folder.run_folder import check_folder, claim_folder, run_key
from pendel.model.load import load_model, model_file

KEYS = {"start": "1", "map": "2", "svi": "3"}


@pytest.fixture
def key(tmp_path: Path) -> dict:
    (tmp_path / "a.cif").write_text("one")
    return run_key({"structure": tmp_path / "a.cif"}, {"model": "robust", "frames": (0, None, 3)})


def test_new_and_empty_folders_are_claimed(tmp_path: Path, key):
    folder = claim_folder(tmp_path / "deep" / "run", key, seed=3)
    record = json.loads((folder.path / "run.json").read_text())
    assert record["seed"] == 3
    assert len(record["code_sha256"]) == len(record["inputs"]["structure"]["sha256"]) == 64
    assert set(record["versions"]) >= {"pendel", "jax", "numpyro", "gemmi", "python"}
    (tmp_path / "empty").mkdir()
    assert claim_folder(tmp_path / "empty", key, seed=3).completed() == ()


def test_same_run_resumes_with_its_stages(tmp_path: Path, key):
    folder = claim_folder(tmp_path / "run", key, seed=0).with_keys(KEYS)
    folder.save_stage("map", {"z": np.arange(3.0), "method": "lm"}, seconds=1.5)
    again = claim_folder(tmp_path / "run", key, seed=0)
    assert again.completed() == ("map",)
    assert again.record()["stages"]["map"]["seconds"] == 1.5
    loaded = again.load_stage("map")
    np.testing.assert_array_equal(loaded["z"], np.arange(3.0))
    assert loaded["method"] == "lm"


def test_a_stage_counts_under_its_key_only(tmp_path: Path, key):
    folder = claim_folder(tmp_path / "run", key, seed=0).with_keys(KEYS)
    folder.save_stage("start", np.zeros(2), seconds=1.0)
    folder.save_stage("map", np.zeros(2), seconds=1.0)
    assert folder.with_keys(KEYS | {"map": "other"}).completed() == ("start",)
    assert folder.with_keys(KEYS).completed() == ("start", "map")


def test_unfinished_work_is_found_under_its_key_only(tmp_path: Path, key):
    folder = claim_folder(tmp_path / "run", key, seed=0).with_keys(KEYS)
    folder.keeper("svi", "_2").save({"losses": np.arange(3.0)})
    assert folder.with_keys(KEYS | {"svi": "other"}).keeper("svi", "_2").load() is None
    assert folder.keeper("svi").load() is None
    kept = folder.keeper("svi", "_2").load()
    assert kept is not None
    np.testing.assert_array_equal(kept["losses"], np.arange(3.0))
    folder.save_stage("svi", np.zeros(2), seconds=1.0)
    assert folder.keeper("svi", "_2").load() is None


def test_a_choice_of_the_machine_stays_with_its_key(tmp_path: Path, key):
    folder = claim_folder(tmp_path / "run", key, seed=0)
    assert folder.decided("costly", "a", lambda: True) is True
    assert folder.decided("costly", "a", lambda: False) is True
    assert folder.decided("costly", "b", lambda: False) is False


def test_a_stage_without_checkpoint_is_not_complete(tmp_path: Path, key):
    folder = claim_folder(tmp_path / "run", key, seed=0).with_keys(KEYS)
    folder.save_stage("map", {"z": np.zeros(2)}, seconds=1.0)
    (folder.path / "stage_map.npz").unlink()
    assert folder.completed() == ()


@pytest.mark.parametrize("change", ["input", "more data", "code"])
def test_another_run_is_refused(tmp_path: Path, key, change, monkeypatch):
    folder = claim_folder(tmp_path / "run", key, seed=0).with_keys(KEYS)
    inputs = {"structure": tmp_path / "a.cif"}
    if change == "input":
        (tmp_path / "a.cif").write_text("two")
    elif change == "more data":
        inputs["data_2"] = tmp_path / "a.cif"
    else:
        monkeypatch.setattr(run_folder, "code_hash", lambda: "0" * 64)
    other = run_key(inputs, key["settings"])
    name = {"input": "structure", "more data": "data_2", "code": "code version"}[change]
    with pytest.raises(InputError, match=rf"different: {name}\).*--force"):
        claim_folder(tmp_path / "run", other, seed=0)
    folder.keeper("svi", "_2").save({"losses": np.zeros(3)})
    again = claim_folder(tmp_path / "run", other, seed=0, force=True).with_keys(KEYS)
    assert again.completed() == ()
    assert again.keeper("svi", "_2").load() is None  # of a second guide


def test_other_settings_and_another_model_are_the_same_run(tmp_path: Path, key):
    claim_folder(tmp_path / "run", key, seed=0).with_keys(KEYS).save_stage("start", np.zeros(2), seconds=1.0)
    (tmp_path / "model.py").write_text("model = print")
    other = run_key({"structure": tmp_path / "a.cif", "model": tmp_path / "model.py"}, {"model": "mine"})
    again = claim_folder(tmp_path / "run", other, seed=7)
    assert again.completed() == ("start",)
    assert (again.record()["seed"], again.record()["settings"]) == (7, {"model": "mine"})


def test_a_run_of_the_first_version_is_refused_by_name(tmp_path: Path, key):
    folder = claim_folder(tmp_path / "run", key, seed=0)
    record = folder.record()
    del record["layout"]
    (folder.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"a run of pendel 0\.1\.0.*--force"):
        claim_folder(tmp_path / "run", key, seed=0)
    assert claim_folder(tmp_path / "run", key, seed=0, force=True).completed() == ()


def test_foreign_folder_keeps_its_files_even_with_force(tmp_path: Path, key):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis.tex.*--force"):
        claim_folder(tmp_path, key, seed=0)
    claim_folder(tmp_path, key, seed=0, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_broken_record_is_refused(tmp_path: Path, key):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"inputs": ')
    with pytest.raises(InputError, match=r"no complete run\.json"):
        check_folder(tmp_path / "run", key, force=False)


def test_file_in_place_of_the_folder(tmp_path: Path, key):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"):
        claim_folder(tmp_path / "run", key, seed=0, force=True)


def test_full_disk_leaves_no_new_folder(tmp_path: Path, key, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        claim_folder(tmp_path / "run", key, seed=0)
    assert not (tmp_path / "run").exists()


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch):
    target = tmp_path / "summary.json"
    write_bytes(target, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"summary\.json cannot be written \(No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_read_only_parent(tmp_path: Path, key):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere; the full-disk test takes the same path")
    with pytest.raises(InputError, match="cannot be written"):
        claim_folder(tmp_path / "run", key, seed=0)


def test_shipped_models_and_copies_load(tmp_path: Path):
    assert load_model("robust").__module__ == "pendel.models.robust"
    copy = tmp_path / "mine.py"
    copy.write_text(model_file("robust").read_text())
    assert load_model(str(copy)).__name__ == "model"
    assert model_file(str(copy)) == copy


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("nothing", None, "model 'nothing'. Expected one of dynamical, kinematic"),
        ("absent.py", None, "No file"),
        ("empty.py", "", "has no function `model`"),
        ("broken.py", "def model(:", "SyntaxError"),
    ],
)
def test_bad_models_are_named(tmp_path: Path, name, content, found):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=found):
        load_model(str(path) if name.endswith(".py") else name)
