"""The order of layers: a module imports only from its own layer or from lower ones."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
# Each entry may import those before it and its own row; `infer` sees only constants, nothing sees `models`.
LAYERS = [
    {"constants"},
    {"symmetry", "cell", "crystal_checks", "crystal", "experiment"},
    {"io", "bonds", "simulate", "thickness", "profile", "parameters", "likelihood"},
    {"infer"},
    {
        "start",
        "potential_fit",
        "difference_map",
        "models",
        "problem",
        "load_model",
        "run_folder",
        "compile_clock",
        "processes",
        "synthetic",
    },
    {"report"},
    {
        "evaluate",
        "rocking",
        "estimate",
        "coarse",
        "plans",
        "stages",
        "posterior_groups",
        "outputs",
        "fitting",
        "basins",
        "refine",
        "run_map",
    },
    {"converge", "compare", "datasets", "published", "progress", "sanity", "cli_data", "cli_errors", "cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in (SOURCE / "pendel").rglob("*.py") if path != SOURCE / "pendel" / "__init__.py")


def part(module: str) -> str | None:
    """The component of a module below pendel: pendel.io.cif -> io."""
    names = module.split(".")
    return names[1] if names[0] == "pendel" and len(names) > 1 else None


def imported_parts(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {part(alias.name) or alias.name for alias in node.names if alias.name.startswith("pendel.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively; name the module in full"
            if node.module == "pendel":
                found |= {alias.name for alias in node.names}
            elif node.module:
                found |= {part(node.module)} - {None}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE / "pendel")))
def test_imports_point_downwards(path):
    own = part(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    assert own in LEVEL, f"{own} has no layer"
    for name in imported_parts(path):
        assert name in LEVEL, f"{path.name} imports {name}, which has no layer"
        assert LEVEL[name] <= LEVEL[own], f"{path.name} ({own}) imports {name} from a higher layer"
        assert own != "infer" or name in ("infer", "constants"), "infer knows no physics"
        assert name != "models", "models are loaded by name or path, never imported"


def test_gemmi_lives_in_io_only():
    users = {path for path in MODULES if "gemmi" in top_level_imports(path)}
    assert users
    assert all(path.parent == SOURCE / "pendel" / "io" for path in users)


def top_level_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found
