"""What is imported when: help at once, a command within seconds, public names from one table."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pendel
from pendel.model.blocks import CHOICES
from pendel.model.thickness_prior import FAMILIES
from pendel.run.settings import TERM_CHOICES, THICKNESSES

SOURCE = Path(pendel.__file__).resolve()


def said(code: str) -> str:
    """What a fresh interpreter prints."""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def test_public_names_are_those_that_type_checkers_see():
    (block,) = (node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If) and not node.orelse)
    seen = {(alias.asname, node.module) for node in block.body for alias in node.names}
    assert seen == {(name, module) for module, names in pendel.PLACES.items() for name in names}


def test_every_public_name_is_there_and_is_listed():
    for name in pendel.__all__:
        assert getattr(pendel, name) is not None
        assert name in dir(pendel)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pendel.nothing


def test_no_public_name_is_a_module():
    """Importing a module sets its name in the package, so a function of that name would be lost."""
    modules = {path.stem for path in SOURCE.parent.iterdir()}
    assert not modules & set(pendel.__all__)


def test_help_needs_no_jax():
    code = "import sys; import pendel.cli.main; print(*{'jax', 'numpyro', 'xarray', 'matplotlib'} & {*sys.modules})"
    assert said(code) == ""


def test_a_refinement_starts_without_what_only_its_end_needs():
    code = "import sys; import pendel.refinement; print(*{'arviz', 'arviz_stats', 'matplotlib'} & {*sys.modules})"
    assert said(code) == ""


@pytest.mark.parametrize("imports", ["import pendel, jax", "import jax, pendel"])
def test_jax_has_64_bit_whichever_is_imported_first(imports):
    assert said(f"{imports}; print(jax.numpy.zeros(1).dtype)") == "float64"


def test_choices_of_models_are_options():
    assert tuple(FAMILIES) == THICKNESSES
    assert CHOICES == TERM_CHOICES
