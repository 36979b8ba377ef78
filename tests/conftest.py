"""Shared fixtures: run-time shape checks of every annotated function, and the published data sets."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("pendel", "beartype.beartype")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data sets, oracles and dictionaries beside the checkout (or PENDEL_SHARED)."""
    folder = Path(os.environ.get("PENDEL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout (set PENDEL_SHARED to its path)")
    return folder


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """The published data sets."""
    return shared / "data"
