"""What `check --converge` recommends: settings beyond which nothing moves."""

from rich.console import Console

from pendel.check.converge import Trial, convergence, convergence_report, plan_settings, recommended
from pendel.datasets import example
from pendel.experiment.select import select, thin
from pendel.files.cif import read_crystal
from pendel.files.pets import read_pets
from pendel.simulate import make_plan

IN_USE = {"tilts": 20.0, "g_max": 1.5, "sg_max": 0.01}


def trial(setting, value, r_obs, moved):
    return Trial(setting=setting, value=value, beams=40, r_obs=r_obs, moved=moved)


def test_the_smallest_value_that_agrees_with_the_largest_is_recommended():
    trials = (
        trial("in use", 1.0, 0.060, 0.0),
        trial("tilts", 30.0, 0.051, 0.03),
        trial("tilts", 40.0, 0.0505, 0.031),
        trial("g_max", 2.0, 0.0602, 0.001),
        trial("sg_max", 0.015, 0.055, 0.02),
        trial("sg_max", 0.02, 0.050, 0.04),
    )
    assert recommended(trials, IN_USE) == {"tilts": (30.0, True), "g_max": (1.5, True), "sg_max": (0.02, False)}


def test_undersampled_fringes_are_found_out(capsys):
    crystal = read_crystal(example().data)  # the truth
    experiment = thin(select(read_pets(example().data)), slice(None, None, 12))
    plan = make_plan(crystal, experiment, g_max=1.0, sg_max=0.006, tilts=7)
    trials = convergence(crystal, experiment, plan)
    assert recommended(trials, plan_settings(plan))["tilts"][0] > 7
    moved = {t.value: t.moved for t in trials if t.setting == "tilts"}
    assert max(moved.values()) > 0.02
    assert trials[0].moved == 0
    Console(width=100).print(convergence_report(trials, plan_settings(plan)))
    assert "--tilts" in capsys.readouterr().out
