"""What is installed: the list of packages, the data files, the version, the command."""

import ast
import re
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

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
    assert metadata.version("pendel") == PROJECT["project"]["version"]
    commands = {entry.name: entry.value for entry in metadata.entry_points(group="console_scripts")}
    assert commands["pendel"] == "pendel.cli.main:main"


def test_every_import_is_a_declared_dependency():
    declared = {re.split(r"[<>=\[ ]", entry)[0].replace("-", "_") for entry in PROJECT["project"]["dependencies"]}
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "models").rglob("*.py")]:
        assert imported(path) - set(sys.stdlib_module_names) - {"pendel"} <= declared, path.name


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    plain |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain}
