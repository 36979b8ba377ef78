"""What is installed: the list of packages, the data files, the version, the command."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import pendel
from pendel.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_package_list_equals_the_folders():
    source = ROOT / "src"
    found = {".".join(init.parent.relative_to(source).parts) for init in source.rglob("__init__.py")}
    found |= {"pendel.models" if (ROOT / "models" / "__init__.py").is_file() else ""}
    assert sorted(found) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_every_data_file_is_packaged():
    package = ROOT / "src" / "pendel"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["pendel"]
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    assert {path for path in (package / "data").rglob("*") if path.is_file()} <= packaged


@pytest.mark.parametrize("name", ["lobato.json", "README.md"])
def test_data_files_are_found(name):
    assert (resources.files("pendel") / "data" / name).is_file()


def test_every_table_names_its_source():
    readme = (resources.files("pendel") / "data" / "README.md").read_text(encoding="utf-8")
    for table in (ROOT / "src" / "pendel" / "data").glob("*.json"):
        assert table.name in readme


def test_installed_version_and_command():
    assert pendel.__version__ == metadata.version("pendel") == PROJECT["project"]["version"]
    commands = {entry.name: entry.value for entry in metadata.entry_points(group="console_scripts")}
    assert commands["pendel"] == "pendel.cli.main:main"


def test_the_version_stands_in_one_place():
    """The citation and the recipe repeat that of pyproject.toml; everything else asks the installed package."""
    version = PROJECT["project"]["version"]
    assert citation()["version"] == recipe()["context"]["version"] == version
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == f"pendel {metadata.version('pendel')}"
    for path in (ROOT / "src").rglob("*.py"):
        assert f'"{version}"' not in path.read_text(encoding="utf-8"), path.name


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def recipe() -> dict:
    return yaml.safe_load((ROOT / ".ci" / "recipe.yaml").read_text(encoding="utf-8"))


def test_the_citation_has_what_its_format_requires():
    """CFF 1.2.0: required are cff-version, message, title and authors; an author that is a group has a name."""
    assert set(citation()) >= {"cff-version", "message", "title", "authors"}
    assert citation()["cff-version"] == "1.2.0"
    assert citation()["authors"] == [{"name": "pendel developers"}] == PROJECT["project"]["authors"]
    assert citation()["license"] == PROJECT["project"]["license"]
    assert citation()["type"] == "software"


def test_the_recipe_needs_what_the_package_needs():
    """Under the names of conda-forge, where shelxfile is missing."""
    names = {"matplotlib": "matplotlib-base"}
    parts = [entry.partition(">=") for entry in PROJECT["project"]["dependencies"]]
    expected = {f"{names.get(name, name)} >={least}" for name, _, least in parts if name != "shelxfile"}
    python = f"python {PROJECT['project']['requires-python']}"
    assert set(recipe()["requirements"]["run"]) == expected | {python}
    assert python in recipe()["requirements"]["host"]
    assert recipe()["build"]["python"]["entry_points"] == ["pendel = pendel.cli.main:main"]


def test_pendel_works_without_the_package_for_shelx_files(tmp_path):
    """As in an environment of conda: CIFs are read, a SHELX file is refused with what to install."""
    (tmp_path / "a.res").write_text("TITL a\n")
    script = (
        "import sys, pendel; from pendel.datasets import example; sys.modules['shelxfile'] = None\n"
        "print(pendel.read_crystal(example().structure).spacegroup)\n"
        "try: pendel.read_crystal(sys.argv[1])\n"
        "except pendel.InputError as error: print(error)"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "a.res")]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("P 32 2 1\n")
    assert "not installed. Expected shelxfile of PyPI. To fix: install it" in shown


@pytest.mark.slow  # makes an environment and fills it from the package index
def test_the_wheel_in_an_empty_environment(tmp_path):
    """The quick demo from the wheel, outside of the checkout; without a package index there is nothing to test."""
    run = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    try:
        subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", ".", str(ROOT)], **run)
        subprocess.run([sys.executable, "-m", "venv", "empty"], **run)
        (wheel,) = tmp_path.glob("pendel-*.whl")
        subprocess.run(["empty/bin/python", "-m", "pip", "install", "-q", str(wheel)], **run)
    except subprocess.CalledProcessError as error:
        if "No matching distribution" in error.stderr or "connection" in error.stderr.lower():
            pytest.skip("no package index")
        raise
    shown = subprocess.run(["empty/bin/pendel", "demo", "--quick", "--out", "demo"], **run).stdout
    assert re.search(r"^Si1 x .*\d$", shown, re.MULTILINE)
    assert json.loads((tmp_path / "demo" / "summary.json").read_text())["n_frames"] == 6
    assert (tmp_path / "demo" / "report.html").is_file()


def test_every_import_is_a_declared_dependency():
    declared = {re.split(r"[<>=\[ ]", entry)[0].replace("-", "_") for entry in PROJECT["project"]["dependencies"]}
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "models").rglob("*.py")]:
        assert imported(path) - set(sys.stdlib_module_names) - {"pendel"} <= declared, path.name


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    plain |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain}
