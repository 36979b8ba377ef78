"""The order of the folders: a module imports from its own folder or from those before it, never from later ones."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
# In the order of the data: files -> objects -> simulator -> model -> inference -> judgement -> report.
FOLDERS = (
    *("failures", "base", "constants", "user_cache", "crystal", "experiment", "files", "simulate", "model", "infer"),
    *("folder", "datasets", "judge", "run", "maps", "check", "report", "refinement", "cli"),
)
MODULES = sorted(path for path in (SOURCE / "pendel").rglob("*.py") if path != SOURCE / "pendel" / "__init__.py")


def folder_of(module: str) -> str | None:
    """The folder of a module below pendel: pendel.files.cif -> files."""
    names = module.split(".")
    return names[1] if names[0] == "pendel" and len(names) > 1 else None


def imported_folders(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {folder_of(alias.name) or alias.name for alias in node.names if alias.name.startswith("pendel.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively; name the module in full"
            if node.module == "pendel":
                found |= {alias.name for alias in node.names}
            elif node.module:
                found |= {folder_of(node.module)} - {None}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE / "pendel")))
def test_imports_point_to_earlier_folders(path):
    own = folder_of(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    assert own in FOLDERS, f"{own} has no place in the order"
    for name in imported_folders(path):
        assert name in FOLDERS, f"{path.name} imports {name}, which has no place in the order"
        assert FOLDERS.index(name) <= FOLDERS.index(own), f"{path.name} ({own}) imports {name}, which comes later"


@pytest.mark.parametrize("folder", ["folder", "judge", "report"])
def test_a_finished_run_is_read_judged_and_shown_without_running_anything(folder):
    paths = [path for path in MODULES if path.parent.name == folder]
    assert paths
    for path in paths:
        assert not imported_folders(path) & {"infer", "run"}, f"{folder}/{path.name} imports what runs a refinement"


def test_every_folder_of_the_order_exists():
    found = {
        path.stem for path in (SOURCE / "pendel").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert found - {"__init__", "models"} == set(FOLDERS)


def test_gemmi_lives_where_files_and_crystals_are():
    users = {path for path in MODULES if "gemmi" in top_level_imports(path)}
    assert users
    assert {path.parent.name for path in users} <= {"files", "crystal"}


def top_level_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found
