"""Everything written as CIF is what the IUCr's dictionaries define: names, types, enumerations, ranges, keys, links."""

import dataclasses
import re
from pathlib import Path

import gemmi
import numpy as np
import pytest
from CifFile import ReadCif

from made_crystals import hydrogen_bonded_crystal, mixed_site_crystal
from pendel.crystal.refined import unrefined
from pendel.crystal.structure import Crystal
from pendel.datasets import example
from pendel.experiment.frames import Experiment
from pendel.experiment.select import select, thin
from pendel.files.cif import read_crystal
from pendel.files.cif_facts import write_difference
from pendel.files.cif_reflections import Calculated
from pendel.files.ensemble_cif import write_ensemble_cif
from pendel.files.pets import read_pets
from pendel.files.refined_cif import DICTIONARIES, write_refined_cif
from pendel.model.thickness_prior import FAMILIES, thickness_facts

RESULTS = {
    "r_obs_pooled": 0.04123,
    "wr2_pooled": 0.0391,
    "n_scored": 1482,
    "n_observed": 653,
    "n_parameters": 31,
    "thickness_mean_angstrom": 853.0,
    "thickness_su_angstrom": 12.0,
    "thickness_min_angstrom": 612.0,
    "thickness_max_angstrom": 1010.0,
    **thickness_facts("taper"),
    "scalars": {
        "a": {"mean": 1.06, "sd": 0.03},
        "b": {"mean": 0.102, "sd": 0.004},
        "nu": {"mean": 5.6, "sd": 0.4},
        "log_taper_mean": {"mean": -0.9, "sd": 0.1},
    },
    "model": "robust",
    "stage": "svi",
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(\(\d+\))?")


@pytest.fixture(scope="module")
def dictionary(shared) -> dict[str, dict]:
    """Definitions by every name they go under, with imported attributes in place."""
    folder = shared / "dictionaries"
    frames = {name: ReadCif(str(folder / name), grammar="2.0").dictionary for name in ("cif_core.dic", "cif_ed.dic")}
    templates = {n: ReadCif(str(folder / n), grammar="2.0").dictionary for n in ("templ_attr.cif", "templ_enum.cif")}
    found: dict[str, dict] = {}
    for save_frames in frames.values():
        for name in save_frames.keys():  # noqa: SIM118  (not a mapping)
            entry = {key: save_frames[name][key] for key in save_frames[name].keys()}  # noqa: SIM118
            for source in entry.get("_import.get", []):
                save = templates[source["file"]].get(source["save"]) if source["file"] in templates else None
                for key in save.keys() if save is not None else ():
                    entry.setdefault(key, save[key])
            if "_definition.id" not in entry:
                continue
            found[entry["_definition.id"].lower()] = entry
            aliases, dates = as_list(entry.get("_alias.definition_id")), as_list(entry.get("_alias.deprecation_date"))
            for number, alias in enumerate(aliases):
                deprecated = bool(dates) and dates[number] != "."
                found.setdefault(alias.lower(), entry | {"deprecated": deprecated})
    return found


def as_list(value) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def faults(path: Path, dictionary: dict[str, dict]) -> list[str]:
    """What in a file contradicts the dictionaries."""
    found = []
    content = ReadCif(str(path), grammar="1.1")
    for name in content.keys():  # noqa: SIM118
        block = content[name]
        columns = {tag.lower(): as_list(block[tag]) for tag in block.keys()}  # noqa: SIM118
        by_definition = {}
        for tag, values in columns.items():
            entry = dictionary.get(tag)
            if entry is None or entry.get("_definition.scope") == "Category":
                found.append(f"{tag} is not defined")
                continue
            if entry.get("deprecated"):
                found.append(f"{tag} is deprecated")
            by_definition[entry["_definition.id"].lower()] = values
            for value in values:
                problem = value_fault(value, entry)
                if problem:
                    found.append(f"{tag} {value!r} {problem}")
        for loop in block.loops.values():
            found += loop_faults([tag.lower() for tag in loop], columns, dictionary)
        for definition, values in by_definition.items():
            linked = dictionary[definition].get("_name.linked_item_id", "").lower()
            if linked and not definition.endswith("_su"):
                missing = set(values) - set(by_definition.get(linked, [])) - {"."}
                if missing:
                    found.append(f"{definition} {sorted(missing)} not among {linked}")
    return found


def value_fault(value: str, entry: dict) -> str:
    """What is wrong with one value, '' when nothing is."""
    if value in (".", "?"):
        return ""
    contents, purpose = entry.get("_type.contents"), entry.get("_type.purpose")
    if contents is None and entry["_name.object_id"].endswith("_su"):  # template of a newer version than here
        contents, purpose = "Real", "SU"
    states = [state.lower() for state in as_list(entry.get("_enumeration_set.state"))]
    if states and value.lower() not in states:
        return f"is none of {states}"
    if contents in ("Real", "Integer"):
        if not NUMBER.fullmatch(value):
            return "is no number"
        if "(" in value and purpose != "Measurand":
            return "has a standard uncertainty"
        if contents == "Integer" and not re.fullmatch(r"[+-]?\d+", value):
            return "is no integer"
        low, _, high = entry.get("_enumeration.range", ":").partition(":")
        number = float(value.partition("(")[0])
        if (low and number < float(low)) or (high and number > float(high)):
            return f"is out of range {low}:{high}"
    elif contents in ("Code", "Word") and re.search(r"\s", value):
        return "is not one word"
    elif contents == "Symop" and not re.fullmatch(r"\d{1,3}(_\d{3})?", value):
        return "is no symmetry code"
    elif contents is None:
        return "has no type"
    elif contents not in ("Code", "Word", "Symop", "Text"):
        return f"has a type this test does not know, {contents}"
    return ""


def loop_faults(tags: list[str], columns: dict[str, list], dictionary: dict[str, dict]) -> list[str]:
    """Whether a loop stays in one category of the kind Loop, and its rows differ in the category's key."""
    entries = {dictionary[tag]["_definition.id"].lower(): columns[tag] for tag in tags if tag in dictionary}
    categories = {definition.partition(".")[0].removeprefix("_") for definition in entries}
    parents = {name: dictionary[name]["_name.category_id"].lower() for name in categories}
    categories -= {name for name, parent in parents.items() if parent in categories}  # may stand in the parent's loop
    if len(categories) != 1:
        return [f"loop over {sorted(categories)}"]
    category = dictionary[categories.pop()]
    if category["_definition.class"] != "Loop":
        return [f"{tags[0]}: {category['_definition.id']} is no loop"]
    keys = [key.lower() for key in as_list(category.get("_category_key.name"))]
    if any(key not in entries for key in keys):
        return [f"{tags[0]}: loop without {keys}"]
    rows = list(zip(*(entries[key] for key in keys), strict=True))
    return [] if len(set(rows)) == len(rows) else [f"{tags[0]}: {keys} repeat"]


@pytest.fixture(scope="module")
def crystal() -> Crystal:
    return read_crystal(example().structure)


@pytest.fixture(scope="module")
def mixed() -> Crystal:
    return mixed_site_crystal()


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return thin(select(read_pets(example().data), "nearest"), slice(None, None, 12))


def written(path, crystal, experiments, results=RESULTS, *, everything=True) -> Path:
    """A refined CIF with every loop there is, or with none of the optional ones."""
    sites, rng = len(crystal.labels), np.random.default_rng(4)
    moves = rng.normal(scale=0.001, size=(50, len(crystal.position_basis)))
    draws = np.asarray(crystal.fract) + np.tensordot(moves, np.asarray(crystal.position_basis), axes=1)
    calculated = Calculated(
        intensity=[np.abs(e.intensity) * 1.03 + 1e-3 for e in experiments],
        su=[0.02 * np.abs(e.intensity) for e in experiments],
        used=[np.arange(len(e.hkl)) % 10 > 0 for e in experiments],
        scale=[np.linspace(1e5, 2e5, len(e.frame_id)) for e in experiments],
    )
    refined = dataclasses.replace(
        unrefined(crystal),
        fract_su=draws.std(axis=0).round(12),
        u_aniso_su=np.full((sites, 3, 3), 0.0011 * everything),
        u_equivalent_su=np.full(sites, 0.0011 * everything),
        occupancy_su=np.where(np.asarray(crystal.occupancy) < 1, 0.013, 0.0),
    )
    write_refined_cif(
        path,
        refined,
        experiments=experiments,
        summary=results,
        fract_draws=draws if everything else None,
        calculated=calculated if everything else None,
    )
    return path


def test_refined_files_follow_the_dictionaries(tmp_path, dictionary, crystal, mixed, experiment):
    rotation = dataclasses.replace(experiment, geometry="rotation", wavelength=0.0197)
    precession = dataclasses.replace(
        experiment, geometry="precession", semi_angle=np.full(len(experiment.frame_id), 1.2)
    )
    least_squares = {"scalars": {"error": {"mean": 0.05, "sd": 0.002}}, "theory": "kinematical", "wr2_pooled": 0.05}
    cases = [
        written(tmp_path / "1.cif", crystal, [precession]),
        written(tmp_path / "2.cif", mixed, [experiment, rotation], RESULTS | thickness_facts("cylinder")),
        written(tmp_path / "3.cif", crystal, [rotation], least_squares),
        written(tmp_path / "4.cif", mixed, [experiment], {}, everything=False),
        written(tmp_path / "5.cif", hydrogen_bonded_crystal(), [rotation]),
    ]
    write_difference(cases[0], highest=2.0, lowest=-1.0, rms=0.3)
    names: set[str] = set()
    for path in cases:
        assert faults(path, dictionary) == []
        assert path.read_bytes().isascii()
        names |= set(re.findall(r"^\s*(_\S+)", path.read_text(), flags=re.MULTILINE))
    assert len(names) > 95  # the cases together write what can be written


def test_ensembles_follow_the_dictionaries(tmp_path, dictionary, mixed):
    fract, u_aniso = np.asarray(mixed.fract) + np.zeros((7, 1, 1)), np.asarray(mixed.u_aniso) + np.zeros((7, 1, 1, 1))
    write_ensemble_cif(tmp_path / "ensemble.cif", mixed, fract, u_aniso)
    assert faults(tmp_path / "ensemble.cif", dictionary) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("_refine.diffraction_theory dynamical", "_refine.diffraction_theory quantum", "is none of"),
        ("_refine.diffraction_theory ", "_refine.diffraction_thoery ", "is not defined"),
        ("_reflns_threshold_expression", "_reflns_observed_criterion", "is deprecated"),
        ("_refine_ls_R_factor_gt 0.0412", "_refine_ls_R_factor_gt 0.0412(3)", "has a standard uncertainty"),
        ("_refine_ls_number_reflns 1482", "_refine_ls_number_reflns 1482.5", "is no integer"),
        ("_refine_ls.sample_thickness 85.3(12)", "_refine_ls.sample_thickness -85.3(12)", "out of range"),
        ("_refine_ls.sample_thickness 85.3(12)", "_refine_ls.sample_thickness '85.3 +- 1.2'", "is no number"),
        ("\nO1 O ", "\nO1 F ", "not among _atom_type.symbol"),
        ("\nO1 O ", "\nSi1 O ", "repeat"),
        (" 3_", " 3-", "is no symmetry code"),
    ],
)
def test_the_check_sees_a_fault(tmp_path, dictionary, crystal, experiment, old, new, told):
    path = written(tmp_path / "refined.cif", crystal, [experiment])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert any(told in fault for fault in faults(path, dictionary))


def test_dictionaries_named_are_those_checked_against(shared):
    for title, location in DICTIONARIES.items():
        text = (shared / "dictionaries" / f"{title.lower()}.dic").read_text(encoding="utf-8")
        assert re.search(rf"_dictionary\.title\s+{title}\s", text)
        assert re.search(rf"_dictionary\.uri\s+{re.escape(location)}\s", text)


def test_units(dictionary, tmp_path, crystal, experiment):
    """What has a unit is written in the unit of the dictionary."""
    units = {
        "_refine_ls.sample_thickness": "nanometres",
        "_refine_diff.potential_max": "electrons_per_angstrom",
        "_cell_length_a": "angstroms",
        "_diffrn_radiation_wavelength": "angstroms",
        "_diffrn.precession_semi_angle": "degrees",
        "_geom_bond_distance": "angstroms",
        "_geom_angle": "degrees",
        "_atom_site_u_iso_or_equiv": "angstrom_squared",
        "_atom_site_aniso_u_11": "angstrom_squared",
        "_geom.bond_distance_incr": "angstroms",
    }
    assert {tag: dictionary[tag]["_units.code"] for tag in units} == units
    block = gemmi.cif.read(str(written(tmp_path / "refined.cif", crystal, [experiment]))).sole_block()
    assert gemmi.cif.as_number(block.find_value("_refine_ls.sample_thickness")) == pytest.approx(
        RESULTS["thickness_mean_angstrom"] * 0.1, abs=0.06
    )
    assert gemmi.cif.as_number(block.find_value("_cell_length_a")) == pytest.approx(crystal.cell[0])
    assert gemmi.cif.as_number(block.find_value("_diffrn_radiation_wavelength")) == pytest.approx(
        experiment.wavelength, rel=1e-5
    )


def test_shape_of_the_cylinder_is_the_example_of_the_dictionary(dictionary):
    entry = dictionary["_refine_ls.sample_shape_expression"]
    example_text = re.sub(r"[\s𝜏]+", "", as_list(entry["_description_example.case"])[0].replace("𝜏", "tau"))
    assert re.sub(r"\s+", "", FAMILIES["cylinder"].expression) == example_text
