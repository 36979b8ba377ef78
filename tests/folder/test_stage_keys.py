"""What each stage of a refinement depends on."""

import dataclasses

import pytest

from pendel.folder.run_folder import STAGE_NAMES
from pendel.run.settings import Settings
from pendel.run.stages import NOT_IN_KEYS, SPLIT_SEED, STAGES, keys_of_stages

INPUTS = {"structure": "s", "data": "d", "data_2": "e", "model": "m"}
AFTER_MAP = {"svi", "nuts", "mclmc", "basins", "smc"}
WITH_SEED = {"svi", "nuts", "mclmc", "smc"}
ALL = {"start", "map", *AFTER_MAP}


def keys(changed: dict | None = None, coarse: bool = False, **settings) -> dict[str, str]:
    files = {role: {"path": "", "sha256": digest} for role, digest in {**INPUTS, **(changed or {})}.items()}
    key = {"inputs": files, "settings": {}, "code_sha256": "c"}
    return keys_of_stages(key, Settings(**settings), coarse=coarse)


def made_anew(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in after if after[stage] != before.get(stage)}


def test_the_folder_knows_every_stage_by_name():
    assert tuple(stage.name for stage in STAGES) == STAGE_NAMES


def test_every_setting_has_its_place_in_the_table():
    in_keys = {name for stage in STAGES for name in stage.settings} - {SPLIT_SEED}
    assert in_keys | set(NOT_IN_KEYS) == {field.name for field in dataclasses.fields(Settings)}
    assert not in_keys & set(NOT_IN_KEYS)


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({"infer": "nuts"}, set()),
        ({"memory": 3.0}, set()),
        ({"model": "a_copy.py"}, set()),  # of the same content
        ({"guides": 3}, {"svi"}),
        ({"seed": 1}, WITH_SEED),
        ({"holdout": 0.1}, ALL - {"start"}),
        ({"thickness": "wedge"}, ALL - {"start"}),
        ({"frames": "::2"}, ALL),
        ({"g_max": 1.0}, ALL),
        ({"hydrogen": "off"}, ALL),
        ({"adps": "iso"}, ALL),
    ],
)
def test_settings_renew_what_depends_on_them(settings, stages):
    assert made_anew(keys(), keys(**settings)) == stages


def test_the_seed_counts_early_where_it_decides_what_is_held_out():
    assert made_anew(keys(holdout=0.1), keys(holdout=0.1, seed=1)) == ALL - {"start"}


@pytest.mark.parametrize(
    ("role", "stages"), [("model", ALL - {"start"}), ("structure", ALL), ("data", ALL), ("data_2", ALL)]
)
def test_inputs_renew_what_depends_on_them(role, stages):
    assert made_anew(keys(), keys({role: "other"})) == stages


def test_a_coarse_fit_makes_the_start_depend_on_the_model():
    assert made_anew(keys(), keys(coarse=True)) == {"coarse", *ALL}
    assert made_anew(keys(coarse=True), keys({"model": "other"}, coarse=True)) == {"coarse", *ALL}
    assert made_anew(keys(coarse=True), keys(coarse=True, seed=1)) == WITH_SEED
