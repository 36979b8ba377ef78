"""Shared fixtures: run-time shape checks of every annotated function, and the published data sets."""

import os
import shutil
from pathlib import Path

# Before JAX is imported: both workers, both passes and every subprocess share the programs that they compile, and the
# next session finds them. Even a program of 20 ms is kept, because a refinement has hundreds of them and reading one
# takes 3 ms. JAX would search the whole folder before every writing if it had to keep it within a size.
COMPILED = Path(__file__).resolve().parents[1] / "build" / "xla"
LARGEST = 2_000_000_000  # bytes
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import pytest
from jaxtyping import install_import_hook

install_import_hook("pendel", "beartype.beartype")

# Files of tests that take longest, longest first: a worker that began one of them last would work alone for minutes.
LONGEST = (
    "project/test_examples.py",
    "cli/test_refine_cli.py",
    "report/test_molecule_page.py",
    "infer/test_chains.py",
    "infer/test_frame_jumps.py",
    "project/test_docs.py",
    "check/test_converge.py",
    "report/test_report.py",
    "infer/test_whitening.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Begin anew with compiled programs where there are too many of them; before workers are started."""
    is_worker = hasattr(config, "workerinput")
    if not is_worker and sum(file.stat().st_size for file in COMPILED.glob("*-cache")) > LARGEST:
        shutil.rmtree(COMPILED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; `make test` keeps this order."""
    rank = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


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
